"""A log file that never grows without bound, and the lines in it as they come."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

LIMIT_BYTES = 16 * 1024 * 1024
_LONGEST_LINE = 64 * 1024


class LogFile:
    """Appends; at the limit the file becomes `.1` and replaces the one before: two files, twice the limit."""

    def __init__(self, path: Path, limit: int = LIMIT_BYTES) -> None:
        self.path = path
        self._limit = limit
        self._file: BinaryIO | None = None
        self._size = 0

    def write(self, data: bytes) -> None:
        """A full disk must not stop the process that talks, so what cannot be kept is dropped."""
        with contextlib.suppress(OSError):
            if self._file is None or self._size >= self._limit:
                self._turn_over()
            if self._file is not None:
                self._size += self._file.write(data) or 0

    def _turn_over(self) -> None:
        self.close()
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size >= self._limit:
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(descriptor, "ab", buffering=0)
        self._size = os.fstat(descriptor).st_size

    def close(self) -> None:
        """Closes the file; a later write opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def tail(self, lines: int = 12) -> list[str]:
        """Its last lines, without the frames of Java's stack traces: for the message that says why something ended."""
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
            said = file.read().decode(errors="replace").splitlines()
            return [line for line in said if not line.startswith("\tat ")][-lines:]
        return []


async def pump(source: asyncio.StreamReader, log: LogFile, on_line: Callable[[str], None]) -> None:
    """Copies what a process writes into its log, and hands on each line, until the process closes its end."""
    rest = b""
    while chunk := await source.read(_LONGEST_LINE):
        log.write(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            on_line(line.decode(errors="replace"))
        if len(rest) > _LONGEST_LINE:  # Somebody writes without line ends; the file has it all.
            rest = b""
    if rest:
        on_line(rest.decode(errors="replace"))
