"""A file that says which process of a worker trains which job, for `ravand ps`; and the folder that an attempt works in."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import psutil

_SCRATCH = "ravand-scratch-"


class TrainerNote:
    """`<state>/run/trainer-<pid of the worker>.json`, there while a child trains. Nothing where there is no state folder."""

    def __init__(self, state: Path | None) -> None:
        """`state` is the state folder of `ravand up`."""
        self._file = state / "run" / f"trainer-{os.getpid()}.json" if state is not None else None

    def write(self, pid: int, job_id: str) -> None:
        """The child with this process number trains this job."""
        if self._file is None or not self._file.parent.is_dir():
            return
        unfinished = self._file.with_suffix(".new")
        unfinished.write_text(json.dumps({"pid": pid, "job_id": job_id}))
        unfinished.replace(self._file)

    def remove(self) -> None:
        """Nothing is trained any more."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def new_scratch(state: Path | None) -> Path:
    """A private folder for one attempt; beside the state where there is one, since `/tmp` may be small."""
    parent = state / "scratch" if state is not None else Path(tempfile.gettempdir())
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=parent))


def remove_scratch(folder: Path) -> None:
    """Remove it with everything in it."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned_scratch(state: Path | None) -> None:
    """Remove the folders of workers that were killed."""
    if state is None or not (state / "scratch").is_dir():
        return  # In a shared `/tmp`, the process numbers of other containers mean nothing here.
    for folder in (state / "scratch").glob(f"{_SCRATCH}*"):
        pid = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            remove_scratch(folder)
