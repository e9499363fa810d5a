"""Rewrites an irregular CSV file as RFC 4180 has it, with the reader of the standard library; slower, and forgiving.

Forgiven: quotes inside a bare field, lone carriage returns as line ends, blank lines. Not forgiven: text after a
closing quote, a quote that is left open, rows of another length.
"""

from __future__ import annotations

import csv
import io
from typing import IO

from adapters.dataset_files.csv_records import field_too_long, ragged
from adapters.dataset_files.errors import UnreadableDataset
from adapters.dataset_files.limits import Limits


def rewrite(file: IO[bytes], to: IO[bytes], delimiter: str, columns: int, limits: Limits) -> None:
    """Copy the rows, checked; blank lines are dropped. Both files stay open, `to` at its beginning."""
    source = io.TextIOWrapper(file, encoding="utf-8", newline="")
    target = io.TextIOWrapper(to, encoding="utf-8", newline="")
    previous = csv.field_size_limit(limits.field_bytes)
    row = 0
    try:
        # The line end has both characters, so that the writer puts a field with either of them into quotes.
        writer = csv.writer(target, delimiter=delimiter, lineterminator="\r\n")
        for row, fields in enumerate(csv.reader(source, delimiter=delimiter, strict=True), start=1):
            if not fields:
                continue
            if len(fields) != columns:
                raise ragged(row, len(fields), columns)
            writer.writerow(fields)
        target.flush()
    except csv.Error as error:
        raise _said(str(error), row + 1, limits) from error
    finally:
        csv.field_size_limit(previous)
        source.detach()
        target.detach()
    to.seek(0)


def _said(message: str, row: int, limits: Limits) -> UnreadableDataset:
    if "field limit" in message:
        return field_too_long(row, limits)
    if "unexpected end" in message:
        return UnreadableDataset("unclosed_quote", f"A quote that row {row} opens is never closed.", row=row)
    return UnreadableDataset("bad_quotes", f"Row {row} has text after a closing quote.", row=row)
