"""How far a long reading is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

import typer

LINE_SECONDS = 5.0
"""Between two lines where there is no terminal."""


def bars() -> Any:
    """What draws bars on standard error, not started yet: a `rich.progress.Progress`."""
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description:<22}"),
        progress.BarColumn(bar_width=30),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.percentage:>5.1f} %"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


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
            self._bar = bars()
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
        if not self._quiet and now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            typer.echo(f"{self._what}: {done:,} of {of:,}", err=True)
