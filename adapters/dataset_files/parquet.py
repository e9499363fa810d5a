"""Reads a Parquet file into a table with the same few types that a CSV file has."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from adapters.dataset_files.csv_dialect import check_names
from adapters.dataset_files.errors import DatasetTooLarge, UnreadableDataset
from adapters.dataset_files.limits import DEFAULT_LIMITS, MIB, Limits

MAGIC = b"PAR1"
_DAMAGED = "The Parquet file is damaged or of a kind that cannot be read."


def read(path: Path, limits: Limits = DEFAULT_LIMITS) -> pl.DataFrame:
    """The whole table. Null is what counts as missing, and NaN and infinite numbers do; empty texts are values."""
    try:
        file = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        schema = file.collect_schema()
        check_names(tuple(name.strip() for name in schema.names()), limits)
        _check_types(schema)
        # A few bytes may stand for a billion equal values, so the count comes first.
        rows = int(file.select(pl.len()).collect().item())
        if rows == 0:
            raise UnreadableDataset("no_rows", "The file has no rows.")
        if rows * sum(_width(dtype) for dtype in schema.dtypes()) > limits.table_bytes:
            raise DatasetTooLarge(f"The table takes more than {limits.table_bytes // MIB} MiB in memory.")
        table = file.select(_plain(name, dtype) for name, dtype in schema.items()).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise UnreadableDataset("unreadable", _DAMAGED) from error
    if table.estimated_size() > 2 * limits.table_bytes:
        raise DatasetTooLarge(f"The table takes more than {2 * limits.table_bytes // MIB} MiB in memory.")
    return table


def _check_types(schema: pl.Schema) -> None:
    nested = [name for name, dtype in schema.items() if dtype.is_nested()]
    if nested:
        raise UnreadableDataset("nested_columns", f"Lists and records cannot be used: {_named(nested)}.")
    other = [name for name, dtype in schema.items() if dtype in (pl.Binary, pl.Object, pl.Unknown)]
    if other:
        raise UnreadableDataset("unsupported_type", f"Columns of bytes cannot be used: {_named(other)}.")


def _named(names: list[str]) -> str:
    shown = ", ".join(f"“{name}”" for name in names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


def _width(dtype: pl.DataType) -> int:
    if dtype == pl.Boolean:
        return 1
    return 16 if dtype in (pl.String, pl.Categorical, pl.Enum) else 8


def _plain(name: str, dtype: pl.DataType) -> pl.Expr:
    """The column as one of our types, under its trimmed name."""
    column = pl.col(name)
    if dtype in (pl.UInt64, pl.UInt128, pl.Int128) or dtype.is_decimal() or dtype.is_float():
        column = column.cast(pl.Float64)
        column = pl.when(column.is_finite()).then(column)
    elif dtype.is_integer():
        column = column.cast(pl.Int64)
    elif dtype == pl.Duration:
        column = column.cast(pl.Duration("us")).cast(pl.Int64).truediv(1_000_000)
    elif dtype == pl.Datetime:
        zone = getattr(dtype, "time_zone", None)
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if zone else column
        column = column.cast(pl.Datetime("us"))
    elif dtype == pl.Date:
        column = column.cast(pl.Datetime("us"))
    elif dtype != pl.Boolean:
        column = column.cast(pl.String)
    return column.alias(name.strip())
