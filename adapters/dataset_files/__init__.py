"""Reads dataset files: what an uploaded file holds, and the same values again for training.

Nothing heavy is imported here. The API only starts children (`profiler.Profiler`); those, and whoever trains, import
polars, numpy and Pillow when they first read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.dataset_files.errors import DatasetTooLarge, UnreadableDataset
from adapters.dataset_files.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars as pl

    from schemas.dataset_profile import DatasetProfile

__all__ = [
    "DEFAULT_LIMITS",
    "DatasetTooLarge",
    "ImageFolder",
    "Limits",
    "UnreadableDataset",
    "profile",
    "profile_in_child",
    "read_arrays",
    "read_images",
    "read_table",
]


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """An archive of folders: the folders' names are the labels, sorted; each image comes with its label's index."""

    labels: list[str]
    items: Iterator[tuple[int, npt.NDArray[np.uint8]]]
    """RGB, height × width × 3, in the order of the archive. Images may differ in size."""


def profile(path: Path, filename: str, limits: Limits = DEFAULT_LIMITS) -> DatasetProfile:
    """Say what a file holds; `filename` is only a hint. Runs here and now: the API uses a child process instead."""
    from adapters.dataset_files import opening

    return opening.profile(path, filename, limits)


async def profile_in_child(
    path: Path, filename: str, limits: Limits = DEFAULT_LIMITS, timeout: float = 120.0
) -> DatasetProfile:
    """`profile` in a confined child process. `profiler.Profiler` keeps a child warm, for whoever has many files."""
    from adapters.dataset_files import profiler

    return await profiler.profile_in_child(path, filename, limits, timeout)


def read_table(path: Path, format: str) -> pl.DataFrame:
    """The table in a `csv` or `parquet` file, with the column types and missing values that its profile reported.

    Types: Int64, Float64, Boolean, String, and Datetime in microseconds (UTC, without a zone).
    """
    from adapters.dataset_files import opening

    return opening.read_table(path, format)


def read_arrays(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of an NPZ file by name, all with the same number of rows. Nothing is ever unpickled."""
    from adapters.dataset_files import npz

    return npz.read(path)


def read_images(path: Path) -> ImageFolder:
    """The images of an archive of folders, decoded one at a time."""
    from adapters.dataset_files import image_archive

    return image_archive.read(path)
