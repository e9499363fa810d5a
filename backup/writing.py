"""The folder in which a backup is made: under another name until it is whole and on the disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.durable_files import sync_folder
from backup.files import hashed_file
from backup.manifest import MANIFEST, MANIFEST_HASH, BackupRefused, Manifest, StoredFile, encode, hash_line

_MARGIN = 64 * 1024 * 1024


class Unfinished:
    """A backup in the making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[StoredFile] = []

    def add(self, file: StoredFile) -> None:
        """One more file is whole."""
        self.files.append(file)

    def write_manifest(self, manifest: Manifest) -> None:
        """Last of all."""
        document = encode(manifest)
        for name, data in ((MANIFEST, document), (MANIFEST_HASH, hash_line(document))):
            with hashed_file(self.folder, name) as file:
                file.write(data)


@contextmanager
def unfinished(target: Path) -> Iterator[Unfinished]:
    """A new private folder that gets the name `target` when the block ends, and is gone if it ends with an error.

    Raises `BackupRefused` where something is there already, and `OSError`.
    """
    target = target.absolute()
    require_unused(target)
    folder = target.with_name(f".{target.name}.unfinished")
    with _alone(folder, target):
        try:
            made = Unfinished(folder)
            yield made
            for path, _, _ in os.walk(folder, topdown=False):
                sync_folder(Path(path))
            require_unused(target)
            folder.rename(target)  # An empty folder of that name is replaced.
            sync_folder(target.parent)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def require_unused(target: Path) -> None:
    """Raises `BackupRefused` unless a backup may become `target`."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise BackupRefused(f"{target} is there already, and no folder")
    if target.is_dir() and any(target.iterdir()):
        raise BackupRefused(f"{target} is not empty; a backup needs a folder of its own")
    if not target.parent.is_dir():
        raise BackupRefused(f"there is no folder {target.parent}")


def require_space(target: Path, needed: int) -> None:
    """Raises `BackupRefused` if the disk has less than `needed` bytes and a margin."""
    free = shutil.disk_usage(target.absolute().parent).free
    if free < needed + _MARGIN:
        raise BackupRefused(
            f"the backup takes about {needed // 2**20} MiB, and the disk of {target} has {free // 2**20} MiB left"
        )


@contextmanager
def _alone(folder: Path, target: Path) -> Iterator[None]:
    """The unfinished folder, new and locked. One that a killed backup left is removed: the kernel let go of its lock."""
    descriptor = None
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupRefused(f"another backup into {target} is being made") from None
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)
