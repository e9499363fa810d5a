"""How far a rebuild is: a bar for each partition on a terminal, a line now and then elsewhere, JSON lines where asked for."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import typer

from cli.long_work import LINE_SECONDS, bars

if TYPE_CHECKING:
    from projections.rebuild.runs import Status

_JSON_SECONDS = 1.0
_PHASES = {
    "starting": "starting",
    "replaying": "judging the log anew",
    "indexing": "making the indexes",
    "comparing": "comparing every row",
    "swapping": "swapping",
}


class Progress:
    """Drawn on standard error; JSON lines go to standard output."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._bars: Any = None
        self._tasks: dict[int, Any] = {}
        self._whole: Any = None
        self._last = ("", 0.0)

    def __enter__(self) -> Progress:
        if not self._json and sys.stderr.isatty():
            self._bars = bars()
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def told(self, status: Status) -> None:
        """It is so far."""
        if status.run is None:
            return
        phase = status.run.phase
        done, of = sum(p.position for p in status.partitions), sum(p.goal for p in status.partitions)
        if self._bars is not None:
            self._draw(status, phase, done, of)
            return
        now, seconds = time.monotonic(), _JSON_SECONDS if self._json else LINE_SECONDS
        if phase == self._last[0] and (now - self._last[1] < seconds):
            return
        self._last = (phase, now)
        if self._json:
            self._print_json(status, phase, done, of)
        elif phase == "replaying":
            typer.echo(f"{_PHASES[phase]}: {done:,} of {of:,}", err=True)
        else:
            typer.echo(_PHASES.get(phase, phase), err=True)

    def _draw(self, status: Status, phase: str, done: int, of: int) -> None:
        if self._whole is None:
            self._whole = self._bars.add_task("", total=None)
        self._bars.update(self._whole, description=_PHASES.get(phase, phase), completed=done, total=of or None)
        for one in status.partitions:
            if not one.goal:
                continue
            if one.partition not in self._tasks:
                self._tasks[one.partition] = self._bars.add_task(f"  partition {one.partition}", total=one.goal)
            self._bars.update(self._tasks[one.partition], completed=one.position, total=one.goal)

    def _print_json(self, status: Status, phase: str, done: int, of: int) -> None:
        import msgspec
        import orjson

        partitions = [msgspec.to_builtins(one) for one in status.partitions]
        assert status.run is not None
        line = {"id": status.run.id, "phase": phase, "records": done, "goal": of, "partitions": partitions}
        typer.echo(orjson.dumps(line).decode())
