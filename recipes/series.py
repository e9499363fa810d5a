"""Columns of values as numbers, texts and indices."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

Numbers = npt.NDArray[np.float64]


def kind_of(series: pl.Series) -> Literal["number", "datetime", "boolean", "text"]:
    """What a column holds, by its type alone."""
    if series.dtype.is_numeric():
        return "number"
    if series.dtype.is_temporal():
        return "datetime"
    return "boolean" if series.dtype == pl.Boolean else "text"


def number_parts(series: pl.Series, date: bool) -> Numbers:
    """Rows × parts, NaN where a value is missing or cannot be read. A date has four: time, month, weekday and hour."""
    if not date:
        if kind_of(series) == "text":
            series = series.cast(pl.String, strict=False).str.strip_chars()
        values = series.cast(pl.Float64, strict=False).to_numpy().astype(np.float64)
        return np.where(np.isfinite(values), values, np.nan)[:, None]
    if kind_of(series) == "text":
        series = series.cast(pl.String, strict=False).str.to_datetime(strict=False)
    moments = series.cast(pl.Datetime("us"), strict=False)
    parts = (moments.dt.epoch("s"), moments.dt.month(), moments.dt.weekday(), moments.dt.hour())
    return np.stack([part.cast(pl.Float64).to_numpy() for part in parts], axis=1)


def category_texts(series: pl.Series) -> pl.Series:
    """The values as texts; booleans as `true` and `false`."""
    return series.cast(pl.String, strict=False).str.strip_chars()


def index_of(
    values: tuple[Any, ...], column: pl.Series, *, unknown: int, missing: int, first: int
) -> npt.NDArray[np.int64]:
    """The position of each row's value among `values`, counted from `first`."""
    known = pl.Series(values, dtype=column.dtype)
    positions = pl.Series(range(first, first + len(values)), dtype=pl.Int64)
    found = column.replace_strict(known, positions, default=unknown, return_dtype=pl.Int64)
    return found.zip_with(column.is_not_null(), pl.Series([missing], dtype=pl.Int64)).to_numpy().astype(np.int64)
