"""What can be wrong with an uploaded file, said to the person who uploaded it."""

from __future__ import annotations


class UnreadableDataset(Exception):
    """The file cannot become a dataset. `code` is stable; `row` and `byte` say where, when that is known.

    A row is counted as a spreadsheet shows it: the header is row 1. A byte is an offset from the file's first byte.
    """

    def __init__(self, code: str, message: str, *, row: int | None = None, byte: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.row = row
        self.byte = byte


class ReadersUnavailable(Exception):
    """No process can be started now that would look at the file: it says nothing about the file."""


class DatasetTooLarge(Exception):
    """The file, or what it unpacks to, is more than the limits allow."""

    code = "dataset_too_large"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
