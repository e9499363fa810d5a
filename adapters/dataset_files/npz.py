"""Reads the arrays of an NPZ file. Nothing is unpickled: arrays of objects are refused by their headers."""

from __future__ import annotations

import io
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from adapters.dataset_files.errors import UnreadableDataset
from adapters.dataset_files.limits import DEFAULT_LIMITS, MIB, Limits
from adapters.dataset_files.zip_members import Archive, Member, open_archive

Array = npt.NDArray[np.generic]

_HEADER_BYTES = 10_000
_KINDS = "biufUSM"  # Booleans, integers, floats, texts and times; no complex numbers, records or objects.


def read(path: Path, limits: Limits = DEFAULT_LIMITS) -> dict[str, Array]:
    """The arrays by name, in the order of the file; all have the same number of rows."""
    with open_archive(path, limits) as archive:
        arrays = {_name(member): _array(archive, member) for member in archive.members}
    if not arrays:
        raise UnreadableDataset("empty", "The file holds no arrays.")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"“{name}” has {length}" for name, length in list(lengths.items())[:10])
        raise UnreadableDataset("ragged_arrays", f"All arrays must have the same number of rows: {said}.")
    if 0 in lengths.values():
        raise UnreadableDataset("no_rows", "The arrays have no rows.")
    return arrays


def _name(member: Member) -> str:
    if len(member.path.parts) != 1 or member.path.suffix != ".npy" or len(member.path.stem) > 256:
        raise UnreadableDataset("unsafe_array", f"“{member.path}” is not an array's name.")
    return member.path.stem


def _array(archive: Archive, member: Member) -> Array:
    name = _name(member)
    with archive.open(member) as file:
        shape, fortran, dtype = _header(file, name)
        count = 1
        for length in shape:  # Python's integers do not overflow, as those of a forged shape would.
            count *= length
        expected = count * dtype.itemsize
        data = bytearray()
        while piece := file.read(min(MIB, expected - len(data) + 1)):
            archive.count(len(piece))
            data += piece
            if len(data) > expected:
                break
    if len(data) != expected:
        raise UnreadableDataset("unsafe_array", f"“{name}” does not have as many values as its shape says.")
    array = np.frombuffer(data, dtype=dtype, count=count)
    shaped = array.reshape(shape[::-1]).transpose() if fortran else array.reshape(shape)
    return shaped.astype(dtype.newbyteorder("="), copy=False)


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    try:
        version = npy.read_magic(file)
        size_bytes = 2 if version == (1, 0) else 4
        length = file.read(size_bytes)
        if int.from_bytes(length, "little") > _HEADER_BYTES:  # numpy would read it whole before its own check.
            raise UnreadableDataset("unsafe_array", f"The header of “{name}” is too long.")
        start = io.BytesIO(length + file.read(int.from_bytes(length, "little")))
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(start, max_header_size=_HEADER_BYTES)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, TokenError) as error:
        raise UnreadableDataset("unsafe_array", f"The header of “{name}” cannot be read.") from error
    if dtype.hasobject:
        raise UnreadableDataset("unsafe_array", f"“{name}” holds Python objects; save plain arrays.")
    if dtype.kind not in _KINDS or dtype.itemsize == 0:
        raise UnreadableDataset("unsafe_array", f"“{name}” has values of type {dtype}, which cannot be used.")
    if not shape or any(length < 0 for length in shape) or any(length == 0 for length in shape[1:]):
        raise UnreadableDataset("unsafe_array", f"“{name}” is not an array of rows.")
    return tuple(shape), bool(fortran), dtype
