"""What an operator is told when something about the machine, not about the program, is in the way."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT}


class OperatorError(Exception):
    """What is wrong, and what the person in front of the terminal can do about it. Never shown with a traceback."""

    def __init__(self, message: str, what_to_do: str) -> None:
        super().__init__(f"{message} {what_to_do}")
        self.message = message
        self.what_to_do = what_to_do


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what a file system refuses into a sentence with a way out."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise OperatorError(
                f"The disk that holds {path} is full.",
                "Free some space on it, or choose another folder; nothing is lost.",
            ) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise OperatorError(
                f"{error.filename or path} cannot be used: {error.strerror}.",
                "Choose a folder of your own with --state, or let its owner give it to you.",
            ) from error
        raise
