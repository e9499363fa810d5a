"""What is known about a dataset version before anyone trains on it."""

from __future__ import annotations

from typing import Literal

import msgspec

DatasetFormat = Literal["csv", "parquet", "npz", "images"]
ColumnType = Literal["integer", "number", "boolean", "text", "datetime", "array", "image"]


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a table, one array of an NPZ file, or the image/label pair of an archive of folders."""

    name: str
    type: ColumnType
    missing: int
    """How many rows have no value."""
    distinct: int | None = None
    """How many different values; None when they were not counted (arrays, images)."""
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    values: tuple[str, ...] = ()
    """The most frequent values as text, at most 100, most frequent first (for text, boolean and few-valued columns)."""
    shape: tuple[int, ...] | None = None
    """The shape of one row's value, for arrays and images; None where rows differ."""


class DatasetProfile(msgspec.Struct, frozen=True, kw_only=True):
    """The profile of one immutable dataset version; an object in the store, which records refer to."""

    format: DatasetFormat
    bytes: int
    rows: int
    columns: tuple[Column, ...]
    preview: tuple[tuple[str | int | float | bool | None, ...], ...]
    """The first rows (at most 100), each in the order of `columns`."""

    def column(self, name: str) -> Column | None:
        """The column of that exact name, or None."""
        return next((column for column in self.columns if column.name == name), None)
