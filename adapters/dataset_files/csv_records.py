"""Splits CSV bytes into blocks of whole rows, and checks every row's number of fields on the way.

polars fills rows that are too short and names no row in its errors, so the structure is checked here first, with numpy
on whole blocks. That needs quotes where RFC 4180 has them; a file with a quote inside a bare field (`5" pipe`), with
lone carriage returns or with blank lines is rewritten first (`csv_rewrite`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt

from adapters.dataset_files.errors import UnreadableDataset
from adapters.dataset_files.limits import MIB, Limits

BLOCK = 8 * MIB
_BLOCK_PER_COLUMN = 16 * 1024
"""A column costs time per block, however few rows that has: 2,000 columns in blocks of 8 MiB take twice as long."""
_QUOTE, _NEWLINE, _RETURN = b'"\n\r'

Bytes = npt.NDArray[np.uint8]


class Irregular(Exception):
    """The file may be fine, but it is not regular enough to be split by counting."""


@dataclass(frozen=True, slots=True)
class Block:
    """Whole rows; `rows` of them, none blank, each with the right number of fields."""

    data: memoryview
    rows: int


def ragged(row: int, fields: int, columns: int) -> UnreadableDataset:
    """The error for a row with another number of fields than the header."""
    return UnreadableDataset("ragged_row", f"Row {row} has {fields} fields, but the header has {columns}.", row=row)


def field_too_long(row: int, limits: Limits) -> UnreadableDataset:
    """The error for a field beyond the limit."""
    return UnreadableDataset(
        "field_too_long", f"Row {row} has a field of more than {limits.field_bytes} bytes.", row=row
    )


def blocks(file: IO[bytes], delimiter: str, columns: int, limits: Limits) -> Iterator[Block]:
    """The rows after the header, in blocks. Raises Irregular before or between blocks."""
    carry, size = b"", max(BLOCK, _BLOCK_PER_COLUMN * columns)
    rows_before = 0
    while True:
        data = file.read(size)
        buffer = carry + data if data else carry.rstrip(b"\r\n") + b"\n"
        if buffer == b"\n" and not data:
            return
        codes = np.frombuffer(buffer, np.uint8)
        outside = _outside_quotes(codes)
        ends = np.flatnonzero((codes == _NEWLINE) & outside)
        if ends.size == 0 or (not data and ends[-1] != len(buffer) - 1):
            if not data or len(buffer) > limits.columns * 64 + 2 * limits.field_bytes + size:
                raise Irregular  # A quote is left open, or a row is endless: the rewriter finds out where.
            carry = buffer
            continue
        whole = int(ends[-1]) + 1
        _check_structure(codes[:whole], outside[:whole], delimiter)
        _check_fields(codes[:whole], outside[:whole], delimiter, columns, limits, rows_before)
        skip = int(ends[0]) + 1 if rows_before == 0 else 0  # The header.
        if rows := len(ends) - (1 if skip else 0):
            yield Block(memoryview(buffer)[skip:whole], rows)
        rows_before += len(ends)
        carry = buffer[whole:]
        if not data:
            return


def _outside_quotes(codes: Bytes) -> npt.NDArray[np.bool_]:
    """Which bytes are outside quotes: those with an even number of quotes before them, an escaped quote being two."""
    quotes = codes == _QUOTE
    if not quotes.any():
        return np.ones(len(codes), np.bool_)
    before: Bytes = np.cumsum(quotes, dtype=np.uint8)  # The sum may wrap: it stays odd or even.
    even: npt.NDArray[np.bool_] = (before & 1) == 0
    return even


def _check_structure(codes: Bytes, outside: npt.NDArray[np.bool_], delimiter: str) -> None:
    """Raise Irregular unless quotes enclose whole fields and every bare carriage return belongs to a line's end."""
    returns = np.flatnonzero((codes == _RETURN) & outside)
    if np.any(codes[returns + 1] != _NEWLINE):
        raise Irregular
    quotes = np.flatnonzero(codes == _QUOTE)
    opening, closing = quotes[0::2], quotes[1::2]
    before = codes[np.maximum(opening - 1, 0)]
    if not np.all((opening == 0) | np.isin(before, (ord(delimiter), _NEWLINE, _QUOTE))):
        raise Irregular
    if not np.all(np.isin(codes[closing + 1], (ord(delimiter), _NEWLINE, _RETURN, _QUOTE))):
        raise Irregular


def _check_fields(
    codes: Bytes, outside: npt.NDArray[np.bool_], delimiter: str, columns: int, limits: Limits, rows_before: int
) -> None:
    """Raise for the first row with a wrong number of fields, or with a field that is too long."""
    separators = np.flatnonzero(((codes == ord(delimiter)) | (codes == _NEWLINE)) & outside)
    ends = np.flatnonzero(codes[separators] == _NEWLINE)
    lengths = np.diff(separators[ends], prepend=-1) - 1
    if np.any((lengths == 0) | ((lengths == 1) & (codes[separators[ends] - 1] == _RETURN))):
        raise Irregular
    fields = np.diff(ends, prepend=-1)
    if (wrong := np.flatnonzero(fields != columns)).size:
        raise ragged(rows_before + int(wrong[0]) + 1, int(fields[wrong[0]]), columns)
    widths = np.diff(separators, prepend=-1) - 1
    if (long := np.flatnonzero(widths > limits.field_bytes)).size:
        raise field_too_long(rows_before + int(np.searchsorted(ends, long[0])) + 1, limits)
