"""Describes a table: each column's counts and values, and the first rows."""

from __future__ import annotations

import math
from datetime import datetime

import polars as pl

from schemas.dataset_profile import Column, ColumnType

Cell = str | int | float | bool | None

_PREVIEW_ROWS = 100
_PREVIEW_CELLS = 20_000
_VALUES = 100
_ALL_VALUES = 20_000
"""A profile is one object that pages load: wide tables show fewer rows and fewer frequent values per column."""
_LONGEST_TEXT = 200


def columns_of(table: pl.DataFrame) -> tuple[Column, ...]:
    """A description of each column of a table with the types of `column_types`."""
    most = max(5, min(_VALUES, _ALL_VALUES // max(1, table.width)))
    return tuple(_describe(table[name], most) for name in table.columns)


def preview_of(table: pl.DataFrame) -> tuple[tuple[Cell, ...], ...]:
    """The first rows, as values that JSON has; long texts are cut."""
    rows = max(1, min(_PREVIEW_ROWS, _PREVIEW_CELLS // max(1, table.width)))
    return tuple(tuple(_cell(value) for value in row) for row in table.head(rows).rows())


def type_of(dtype: pl.DataType) -> ColumnType:
    """Our name for a column's type."""
    if dtype.is_integer():
        return "integer"
    if dtype.is_float():
        return "number"
    if dtype == pl.Boolean:
        return "boolean"
    return "datetime" if dtype == pl.Datetime else "text"


def _describe(column: pl.Series, most: int) -> Column:
    kind = type_of(column.dtype)
    present = column.drop_nulls().alias("value")
    frequent: tuple[str, ...] = ()
    if kind in ("text", "boolean"):
        counts = present.value_counts(name="n")
        distinct = counts.height
        frequent = _frequent(counts, most)
    else:
        distinct = present.n_unique()
        if distinct <= _VALUES:
            frequent = _frequent(present.value_counts(name="n"), most)
    minimum = maximum = mean = None
    if kind in ("integer", "number"):
        minimum, maximum, mean = _finite(present.min()), _finite(present.max()), _finite(present.mean())
    elif kind == "datetime":
        seconds = present.dt.epoch("us")
        minimum, maximum = (_finite(seconds.min(), 1e6), _finite(seconds.max(), 1e6))
    return Column(
        name=column.name,
        type=kind,
        missing=column.null_count(),
        distinct=distinct,
        minimum=minimum,
        maximum=maximum,
        mean=mean,
        values=frequent,
    )


def _frequent(counts: pl.DataFrame, most: int) -> tuple[str, ...]:
    """The most frequent values; equally frequent ones in their own order. Long texts are no labels, and left out."""
    if counts.schema["value"] == pl.String:
        counts = counts.filter(pl.col("value").str.len_chars() <= _LONGEST_TEXT)
    top = counts.top_k(most, by=["n", "value"], reverse=[False, True]).sort(["n", "value"], descending=[True, False])
    return tuple(_as_text(value) for value in top["value"].to_list())


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _iso(value) if isinstance(value, datetime) else str(value)


def _iso(moment: datetime) -> str:
    return moment.isoformat() + "Z"  # Times without an offset are taken as UTC.


def _finite(value: object, divisor: float = 1.0) -> float | None:
    if not isinstance(value, int | float):
        return None
    number = float(value) / divisor
    return number if math.isfinite(number) else None


def _cell(value: object) -> Cell:
    match value:
        case datetime():
            return _iso(value)
        case str() if len(value) > _LONGEST_TEXT:
            return value[:_LONGEST_TEXT] + "…"
        case str() | bool() | int() | float() | None:
            return value
        case _:
            return str(value)
