"""Describes the arrays of an NPZ file: an array of one dimension is a column, others have a shape per row."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from adapters.dataset_files.describe import Cell, columns_of, preview_of
from schemas.dataset_profile import Column

Array = npt.NDArray[np.generic]

_IMAGE_NAMES = ("x", "image", "images", "x_train", "x_test")
_CHANNELS = (1, 3, 4)
_ROWS_AT_ONCE = 4096


def describe_arrays(arrays: Mapping[str, Array]) -> tuple[tuple[Column, ...], tuple[tuple[Cell, ...], ...]]:
    """The columns, in the order of the arrays, and the first rows; a cell of many values says its shape."""
    flat = pl.DataFrame([_series(name, array) for name, array in arrays.items() if array.ndim == 1])
    described = {column.name: column for column in columns_of(flat)}
    columns = tuple(described.get(name) or _block(name, array) for name, array in arrays.items())
    first = min(100, len(next(iter(arrays.values()))))
    flat_rows = preview_of(flat) if flat.width else tuple(() for _ in range(first))
    return columns, tuple(_row(arrays, dict(zip(flat.columns, row, strict=True))) for row in flat_rows)


def _row(arrays: Mapping[str, Array], cells: Mapping[str, Cell]) -> tuple[Cell, ...]:
    return tuple(
        cells[name] if name in cells else "×".join(map(str, array.shape[1:])) for name, array in arrays.items()
    )


def _series(name: str, array: Array) -> pl.Series:
    match array.dtype.kind:
        case "S":
            series = pl.Series(name, [bytes(value).decode(errors="replace") for value in array], dtype=pl.String)
        case "U":
            series = pl.Series(name, array.tolist(), dtype=pl.String)
        case "M":
            series = pl.Series(name, array.astype("datetime64[us]"))
        case "f":
            numbers = array.astype(np.float64)
            series = pl.Series(name, np.where(np.isfinite(numbers), numbers, np.nan)).fill_nan(None)
        case _:
            series = pl.Series(name, np.ascontiguousarray(array))
    return series


def _block(name: str, array: Array) -> Column:
    """A column with more than one value per row. A row with a value that is not finite counts as missing."""
    shape = array.shape[1:]
    image = name.lower() in _IMAGE_NAMES and (len(shape) == 2 or (len(shape) == 3 and shape[-1] in _CHANNELS))
    minimum = maximum = mean = None
    missing = 0
    if array.dtype.kind in "biuf":
        minimum, maximum, mean, missing = _numbers(array)
    return Column(
        name=name,
        type="image" if image else "array",
        missing=missing,
        minimum=minimum,
        maximum=maximum,
        mean=mean,
        shape=shape,
    )


def _numbers(array: Array) -> tuple[float | None, float | None, float | None, int]:
    """Minimum, maximum and mean of the finite values, and the rows with others; in pieces, so copies stay small."""
    low, high, total, count, missing = math.inf, -math.inf, 0.0, 0, 0
    for start in range(0, len(array), _ROWS_AT_ONCE):
        rows = array[start : start + _ROWS_AT_ONCE]
        if rows.dtype.kind == "f":
            finite = np.isfinite(rows)
            missing += int(np.count_nonzero(~finite.reshape(len(rows), -1).all(axis=1)))
            rows = rows[finite]
        if rows.size:
            low, high = min(low, float(rows.min())), max(high, float(rows.max()))
            with np.errstate(over="ignore"):  # A sum that no number holds is infinite: no mean is told then.
                total, count = total + float(rows.sum(dtype=np.float64)), count + rows.size
    return (low, high, _mean(total, count), missing) if count else (None, None, None, missing)


def _mean(total: float, count: int) -> float | None:
    return total / count if math.isfinite(total) else None
