"""Puts a file under its final name complete and on the disk, or not at all.

obstore's LocalStore renames atomically but does not flush: after a power cut a name may point at nothing. So local
objects are written here: a temporary name in the same file system, fsync, rename or link, fsync of the folder.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

CHUNK = 1024 * 1024
_ABANDONED_AFTER = 24 * 3600.0
"""A temporary file this old has no writer: no put lasts a day."""


class AlreadyThere(Exception):
    """Something has the final name already and was to be left alone."""


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Read in chunks; hashing one lets other threads run."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a name in it survives power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(folder: Path, root: Path) -> None:
    """Create the folders from `root` (which must exist) down to `folder`, each entry flushed in its parent."""
    if folder == root or folder.is_dir():
        return
    make_folders(folder.parent, root)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


@contextmanager
def durable_file(target: Path, root: Path, temporary: Path, *, replace: bool) -> Iterator[IO[bytes]]:
    """Write to the yielded file; when the block ends without an error, `target` is that file, flushed.

    `temporary` is a folder on the file system of `target`. With `replace` false, an existing target raises AlreadyThere
    and stays as it was.
    """
    descriptor, name = tempfile.mkstemp(dir=temporary)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        make_folders(target.parent, root)
        if replace:
            Path(name).replace(target)
        else:
            os.link(name, target)  # A link fails if the name is taken; a rename would silently replace it.
        sync_folder(target.parent)
    except FileExistsError as error:
        raise AlreadyThere(str(target)) from error
    finally:
        Path(name).unlink(missing_ok=True)


def remove_abandoned(temporary: Path) -> None:
    """Delete what writers that were killed left in the folder for temporary names."""
    oldest = time.time() - _ABANDONED_AFTER
    for path in temporary.iterdir():
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except FileNotFoundError:
            continue  # Its writer has just finished.
