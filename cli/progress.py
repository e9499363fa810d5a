"""Shows a training while it runs: a bar on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

import typer

from cli.output import duration, figure

_SHOWN = ("loss", "val_loss", "accuracy", "val_accuracy", "mae", "val_mae", "r2", "val_r2")
WARM_UP_EPOCHS = 3
"""An ETA from fewer epochs than this is a guess, and a guess is not shown."""


def show(messages: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Draw the messages of `cli.live.follow`; answer the last `job_update`, or the subscribed job when none came."""
    draw = _Bar() if sys.stdout.isatty() else _Lines()
    last: dict[str, Any] = {}
    with draw:
        for message in messages:
            if message["type"] == "subscribed":
                last = last or message["job"]
            elif message["type"] == "job_update":
                draw.update(message)
                last = message
    return last


def metrics_line(metrics: dict[str, float]) -> str:
    """The metrics that people look at, short."""
    return "  ".join(f"{name} {figure(metrics[name])}" for name in _SHOWN if name in metrics)


class _Eta:
    """Seconds to go, from the pace of the epochs that were seen arriving."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def of(self, update: dict[str, Any]) -> float | None:
        if update["event"] != "EpochCompleted":
            return None
        epoch, epochs = update["epoch"], update.get("epochs") or 0
        if self._seen and epoch <= self._seen[-1][1]:
            self._seen.clear()  # A new attempt goes on from a checkpoint: the old pace says nothing.
        self._seen.append((time.monotonic(), epoch))
        if update.get("eta_seconds") is not None and len(self._seen) >= WARM_UP_EPOCHS:
            return float(update["eta_seconds"])
        (first_at, first), (now, last) = self._seen[0], self._seen[-1]
        if len(self._seen) < WARM_UP_EPOCHS or last == first:
            return None
        return float((epochs - epoch) * (now - first_at) / (last - first))


class _Lines:
    """One plain line for each thing that happened."""

    def __init__(self) -> None:
        self._eta = _Eta()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, update: dict[str, Any]) -> None:
        eta = self._eta.of(update)
        match update["event"]:
            case "EpochCompleted":
                rest = f"  eta {duration(eta)}" if eta is not None else ""
                typer.echo(
                    f"epoch {update['epoch']:>4} of {update.get('epochs', '?')}  {update['progress']:5.1f} %  "
                    f"{metrics_line(update.get('metrics') or {})}{rest}"
                )
            case "CheckpointSaved":
                pass
            case event:
                typer.echo(f"{event}: {update.get('message') or update['status']}")
        sys.stdout.flush()


class _Bar:
    """A bar with the epoch, the metrics and the time to go."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._eta = _Eta()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>5.1f} %"),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
        )
        self._task = self._progress.add_task("waiting", total=100, metrics="", eta="")

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, update: dict[str, Any]) -> None:
        eta = self._eta.of(update)
        running = update["status"] == "running" and update.get("epoch")
        description = f"epoch {update.get('epoch')} of {update.get('epochs', '?')}" if running else update["status"]
        self._progress.update(
            self._task,
            completed=update["progress"],
            description=description,
            metrics=metrics_line(update.get("metrics") or {}),
            eta=f"eta {duration(eta)}" if eta is not None else "",
        )
        if update["event"] not in ("EpochCompleted", "CheckpointSaved"):
            self._progress.console.print(f"[bold]{update['event']}[/bold] {update.get('message') or ''}")
