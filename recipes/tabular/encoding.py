"""Turns the columns of a table into numbers and category indices, the same way in training and in prediction.

What was learned about each column (scaling, categories) is the `columns` of a model's manifest.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from recipes.series import category_texts, index_of, kind_of, number_parts

UNKNOWN, MISSING = 0, 1
"""The first two categories of every column; its own values follow."""


class NumberColumn(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="number"):
    """A number or a date, standardised. A missing value becomes the mean, and says so in a column of its own."""

    name: str
    date: bool
    means: tuple[float, ...]
    scales: tuple[float, ...]
    flag: bool
    """Whether values were missing in training, so that the model knows the flag."""

    @property
    def width(self) -> int:
        """How many numbers a row gives."""
        return len(self.means) + self.flag

    def encode(self, column: pl.Series) -> npt.NDArray[np.float32]:
        """Rows × width."""
        parts = number_parts(column, self.date)
        missing = ~np.isfinite(parts)
        scaled = (parts - np.array(self.means)) / np.array(self.scales)
        scaled[missing] = 0.0
        # Far beyond what was seen in training the answer means nothing, but it should be a number.
        scaled = np.clip(scaled, -1e6, 1e6)
        if self.flag:
            scaled = np.column_stack([scaled, missing[:, 0].astype(np.float64)])
        encoded: npt.NDArray[np.float32] = scaled.astype(np.float32)
        return encoded


class CategoryColumn(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="category"):
    """A text or a boolean: an index for each value that is told apart."""

    name: str
    values: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many indices there are, those for unknown and missing values included."""
        return len(self.values) + 2

    def encode(self, column: pl.Series) -> npt.NDArray[np.int64]:
        """One index a row."""
        values, texts = self.values, category_texts(column)
        if kind_of(column) != "text":
            # A file may hold only the numbers, or only the booleans, among the texts of the training data; its column
            # then has another type, and `True` or `1.50` are no longer spelt as they were.
            values = tuple(map(spelling, values))
            texts = pl.Series([None if text is None else spelling(text) for text in texts], dtype=pl.String)
        return index_of(values, texts, unknown=UNKNOWN, missing=MISSING, first=2)


Column = NumberColumn | CategoryColumn


class TableEncoding(msgspec.Struct, frozen=True):
    """How a row becomes what the model sees."""

    columns: tuple[Column, ...]

    @property
    def numbers(self) -> tuple[NumberColumn, ...]:
        """The columns that give numbers."""
        return tuple(column for column in self.columns if isinstance(column, NumberColumn))

    @property
    def categories(self) -> tuple[CategoryColumn, ...]:
        """The columns that give indices."""
        return tuple(column for column in self.columns if isinstance(column, CategoryColumn))

    def encode(self, table: pl.DataFrame) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Numbers (rows × all widths) and indices (rows × category columns)."""
        rows = table.height
        numbers = [column.encode(table[column.name]) for column in self.numbers]
        categories = [column.encode(table[column.name]) for column in self.categories]
        return (
            np.concatenate(numbers, axis=1) if numbers else np.zeros((rows, 0), np.float32),
            np.stack(categories, axis=1) if categories else np.zeros((rows, 0), np.int64),
        )


def spelling(text: str) -> str:
    """One spelling for texts that mean the same boolean or number."""
    try:
        return repr(float(text))
    except ValueError:
        return text.lower()


def fit_encoding(table: pl.DataFrame, max_categories: int) -> tuple[TableEncoding, list[str]]:
    """Learn the encoding of a table's columns, and say which of them hold nothing to learn from."""
    columns: list[Column] = []
    useless: list[str] = []
    for series in table:
        column = fit_column(series, max_categories)
        if column is None:
            useless.append(series.name)
        else:
            columns.append(column)
    return TableEncoding(tuple(columns)), useless


def fit_column(series: pl.Series, max_categories: int) -> Column | None:
    """How to encode one column; None if it is the same in every row, or a text that hardly ever repeats."""
    if kind_of(series) in ("number", "datetime"):
        return fit_numbers(series)
    texts = category_texts(series).rename("text")
    counts = texts.drop_nulls().to_frame().group_by("text").len().sort(["len", "text"], descending=[True, False])
    if counts.height + (texts.null_count() > 0) < 2:
        return None
    repeated = counts.filter(pl.col("len") > 1)
    # Names, ids and free text: each value in its own row, so nothing is learned that helps with the next one.
    if repeated.height == 0 or (counts.height > max_categories and repeated["len"].sum() < len(series) // 2):
        return None
    return CategoryColumn(name=series.name, values=tuple(counts["text"].head(max_categories)))


def fit_numbers(series: pl.Series) -> NumberColumn | None:
    """Means and scales over the values that are there."""
    date = kind_of(series) == "datetime"
    parts = number_parts(series, date)
    there = np.isfinite(parts[:, 0])
    if not there.any():
        return None
    low, high = parts[there].min(axis=0), parts[there].max(axis=0)
    if there.all() and not (high > low).any():
        return None
    # Over the greatest magnitude first: squares of 1e300 are no numbers any more.
    size = np.maximum(np.abs(parts[there]).max(axis=0), np.finfo(np.float64).tiny)
    means = (parts[there] / size).mean(axis=0) * size
    scales = ((parts[there] / size - means / size).std(axis=0)) * size
    scales[~(scales > 0)] = 1.0
    return NumberColumn(
        name=series.name,
        date=date,
        means=tuple(means.tolist()),
        scales=tuple(scales.tolist()),
        flag=bool(not there.all()),
    )
