"""The folder, shared by all state folders of one user, for what can always be fetched or made again."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.errors import explained


def cache_folder() -> Path:
    """`RAVAND_CACHE_DIR`, or `ravand` in the user's cache folder."""
    if chosen := os.environ.get("RAVAND_CACHE_DIR"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "ravand"


def make_folder(path: Path) -> Path:
    """The folder, made private if it is new."""
    with explained(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds an exclusive lock on a file, among processes. Yields whether it was got; only `wait=False` can fail."""
    with explained(path), path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
