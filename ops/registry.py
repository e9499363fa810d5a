"""What runs now, in a file of the state folder: for `ravand ps`, and for the next start, which must find leftovers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from ops.keeper import Keeper
from ops.processes import Identity, until_gone
from ops.state_folder import StateFolder, read_json, replace


@dataclass(frozen=True)
class Row:
    """One process."""

    service: str
    index: int
    pid: int | None
    state: str
    started: str | None = None
    address: str | None = None
    job: str | None = None

    @property
    def lives(self) -> bool:
        """Whether this very process still runs."""
        return self.pid is not None and self.started is not None and Identity(self.pid, self.started).lives


def write(state: StateFolder, keepers: Iterable[Keeper]) -> None:
    """Replaces the file."""
    rows = [
        Row(
            service=keeper.program.name,
            index=keeper.program.index,
            pid=keeper.identity.pid if keeper.identity else None,
            started=keeper.identity.started if keeper.identity else None,
            state=str(keeper.state),
            address=keeper.program.address,
        )
        for keeper in keepers
    ]
    up = Identity.of(os.getpid())
    replace(
        state.services_file,
        json.dumps({"up": up and asdict(up), "services": [asdict(row) for row in rows]}),
        sync=False,
    )


def read(state: StateFolder) -> list[Row]:
    """The rows of a `ravand up` that lives, with the training children; none if it does not."""
    content = read_json(state.services_file)
    if not content or not content["up"] or not Identity(**content["up"]).lives:
        return []
    rows = []
    for row in (Row(**fields) for fields in content["services"]):
        # Between the end of a process and the next look of `ravand up` the file is behind.
        rows.append(row if row.lives or row.state in {"failed", "starting"} else _failed(row))
        if row.service == "worker" and row.lives and row.pid is not None:
            rows.extend(_trainers(state.run, row.pid, row.index))
    return rows


def _failed(row: Row) -> Row:
    return Row(row.service, row.index, None, "failed", address=row.address)


def _trainers(run: Path, worker: int, index: int) -> Iterable[Row]:
    """The training child that a worker notes while it trains. The note is believed only of a child of that worker."""
    note = read_note(run / f"trainer-{worker}.json")
    if note is None:
        return
    with contextlib.suppress(psutil.Error):
        if worker in {parent.pid for parent in psutil.Process(note["pid"]).parents()}:
            found = Identity.of(note["pid"])
            if found is not None:
                yield Row("trainer", index, found.pid, "running", found.started, job=note.get("job_id"))


def read_note(file: Path) -> dict[str, Any] | None:
    """`{"pid": ..., "job_id": ...}`; none if there is none or it is being written."""
    try:
        note = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and isinstance(note.get("pid"), int) else None


async def end_leftovers(state: StateFolder) -> int:
    """Ends what an earlier `ravand up` of this folder left behind; how many there were. PostgreSQL sees to its own."""
    content = read_json(state.services_file) or {"services": []}
    rows = [row for row in (Row(**fields) for fields in content["services"]) if row.service != "postgres" and row.lives]
    left = [Identity(row.pid, row.started) for row in rows if row.pid is not None and row.started is not None]
    for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        for process in left:
            process.send(number)
        if not await until_gone(left, seconds):
            break
    for note in state.run.glob("trainer-*.json"):
        note.unlink(missing_ok=True)
    return len(left)
