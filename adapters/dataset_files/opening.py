"""Chooses the reader of a file."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from adapters.dataset_files import csv, parquet
from adapters.dataset_files.describe import columns_of, preview_of
from adapters.dataset_files.detect import detect
from adapters.dataset_files.errors import DatasetTooLarge, UnreadableDataset
from adapters.dataset_files.limits import MIB, Limits
from schemas.dataset_profile import DatasetFormat, DatasetProfile


def profile(path: Path, filename: str, limits: Limits) -> DatasetProfile:
    """What the file holds. Each format's own modules are imported when one is met."""
    size = path.stat().st_size
    if size > limits.file_bytes:
        raise DatasetTooLarge(f"The file is larger than {limits.file_bytes // MIB} MiB.")
    return _profile(path, size, detect(path, filename, limits), limits)


def _profile(path: Path, size: int, format: DatasetFormat, limits: Limits) -> DatasetProfile:
    match format:
        case "csv":
            return _table_profile(format, size, csv.read(path, limits, compact=True))
        case "parquet":
            return _table_profile(format, size, parquet.read(path, limits))
        case "npz":
            from adapters.dataset_files import describe_arrays, npz

            arrays = npz.read(path, limits)
            columns, preview = describe_arrays.describe_arrays(arrays)
            rows = len(next(iter(arrays.values())))
            return DatasetProfile(format=format, bytes=size, rows=rows, columns=columns, preview=preview)
        case "images":
            from adapters.dataset_files import image_archive

            return image_archive.profile(path, limits)


def read_table(path: Path, format: str) -> pl.DataFrame:
    """The table of a file whose format the profile told."""
    match format:
        case "csv":
            return csv.read(path)
        case "parquet":
            return parquet.read(path)
        case _:
            raise UnreadableDataset("not_a_table", f"A dataset of format {format} is not a table.")


def _table_profile(format: DatasetFormat, size: int, table: pl.DataFrame) -> DatasetProfile:
    return DatasetProfile(
        format=format, bytes=size, rows=table.height, columns=columns_of(table), preview=preview_of(table)
    )
