"""What the first rows of a CSV file tell: the delimiter and the names of the columns."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from itertools import islice
from typing import IO

from adapters.dataset_files.errors import UnreadableDataset
from adapters.dataset_files.limits import MIB, Limits

DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_ROWS = 100
_LONGEST_NAME = 256


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to split a row, and what its fields are called."""

    delimiter: str
    names: tuple[str, ...]


def dialect_of(file: IO[bytes], limits: Limits) -> Dialect:
    """Look at the first rows; the file's position is put back."""
    start = file.tell()
    sample = file.read(2 * MIB)
    cut_off = len(file.read(1)) > 0
    file.seek(start)
    if not sample.strip():
        raise UnreadableDataset("empty", "The file is empty.")
    text = sample.decode(errors="ignore")  # Known to be valid: only the sample's end can be within a character.
    rows = {delimiter: _rows(text, delimiter, cut_off, limits) for delimiter in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda delimiter: _likelihood(rows[delimiter]))
    if not rows[delimiter]:
        raise UnreadableDataset("bad_header", "The first row cannot be read: it is too long or a quote is left open.")
    names = tuple(name.strip() for name in rows[delimiter][0])
    check_names(names, limits)
    return Dialect(delimiter, names)


def check_names(names: tuple[str, ...], limits: Limits) -> None:
    """Refuse names that could not tell columns apart."""
    if len(names) > limits.columns:
        message = f"The table has {len(names)} columns; at most {limits.columns} are allowed."
        raise UnreadableDataset("too_many_columns", message)
    first: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            message = f"Column {number} has no name: the first row must name every column."
            raise UnreadableDataset("empty_header", message, row=1)
        if len(name) > _LONGEST_NAME:
            message = f"The name of column {number} is longer than {_LONGEST_NAME} characters."
            raise UnreadableDataset("bad_header", message, row=1)
        if name in first:
            message = f"Columns {first[name]} and {number} are both called “{name}”."
            raise UnreadableDataset("duplicate_header", message, row=1)
        first[name] = number


def _rows(text: str, delimiter: str, cut_off: bool, limits: Limits) -> list[list[str]]:
    """The first rows that are whole, without blank lines."""
    # One field of this reader may hold a whole line, if the delimiter is a wrong guess: so the bound is the sample's.
    previous = csv.field_size_limit(max(limits.field_bytes, len(text)))
    try:
        rows = list(islice(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), _SAMPLE_ROWS + 1))
    finally:
        csv.field_size_limit(previous)
    if cut_off and len(rows) <= _SAMPLE_ROWS:
        rows = rows[:-1]
    return [row for row in rows[:_SAMPLE_ROWS] if row]


def _likelihood(rows: list[list[str]]) -> tuple[bool, int, bool]:
    """Several columns and rows of one length speak for a delimiter; next, what splits the header: rows may be ragged.

    A header that nothing splits is one column, and its delimiter is one that no row has.
    """
    columns = len(rows[0]) if rows else 0
    even = all(len(row) == columns for row in rows)
    return even and columns > 1, columns, even
