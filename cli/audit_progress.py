"""How far a long reading is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

import typer

_LINE_SECONDS = 5.0


class Progress:
    """Drawn on standard error, so that what is printed stays clean."""

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self._what = what
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Progress:
        if not self._quiet and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(bar_width=30),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.percentage:>5.1f} %"),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._what, total=None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def told(self, done: int, of: int) -> None:
        """So much is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=of)
            return
        now = time.monotonic()
        if not self._quiet and now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            typer.echo(f"{self._what}: {done:,} of {of:,}", err=True)
