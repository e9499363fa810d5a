"""Checks a backup from its files alone: nothing missing, nothing altered, nothing besides, and each hash chain whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from adapters.durable_files import CHUNK
from backup import record_file
from backup.manifest import (
    MANIFEST,
    MANIFEST_HASH,
    OBJECTS,
    OBJECTS_FOLDER,
    BackupRefused,
    Manifest,
    PartitionCut,
    StoredObject,
    read,
)
from projections.chain import GENESIS, link

Told = Callable[[int, int], None]
"""Hears how many bytes were checked, and how many there are."""
_object = msgspec.json.Decoder(StoredObject).decode


def check(folder: Path, told: Told = lambda done, of: None) -> Manifest:
    """The manifest of a backup that is whole. Raises `BackupRefused`, naming the file, and `OSError`."""
    manifest = read(folder)
    _Hashes(folder, manifest, told).compare()
    named = {file.path for file in manifest.files}
    for path in (*(cut.file for cut in manifest.partitions), *(cut.file for cut in manifest.tables)):
        if path not in named:
            raise BackupRefused(f"{MANIFEST} names {path}, and gives no hash of it")
    for cut in manifest.partitions:
        _check_chain(folder, cut)
    return manifest


def objects(folder: Path) -> Iterator[StoredObject]:
    """The objects that a backup lists. Raises `BackupRefused`."""
    with (folder / OBJECTS).open("rb") as lines:
        for line in lines:
            try:
                yield _object(line)
            except msgspec.DecodeError as error:
                raise BackupRefused(f"{OBJECTS} cannot be read: {error}") from None


class _Hashes:
    """Every file against the size and the hash that it must have."""

    def __init__(self, folder: Path, manifest: Manifest, told: Told) -> None:
        self._folder, self._manifest, self._told = folder, manifest, told
        self._done = 0
        self._of = sum(file.bytes for file in manifest.files) + manifest.object_bytes

    def compare(self) -> None:
        present = _files(self._folder) - {MANIFEST, MANIFEST_HASH}
        for file in self._manifest.files:
            self._compare(present, file.path, file.bytes, file.sha256)
        count = 0
        for stored in objects(self._folder):
            count += 1
            self._compare(present, f"{OBJECTS_FOLDER}/{stored.key}", stored.bytes, stored.sha256)
        if count != self._manifest.objects:
            raise BackupRefused(f"{OBJECTS} lists {count} objects, and the manifest counts {self._manifest.objects}")
        if present:
            raise BackupRefused(f"{min(present)} does not belong to the backup")

    def _compare(self, present: set[str], path: str, size: int, sha256: str) -> None:
        if path not in present:
            raise BackupRefused(f"{path} is missing")
        present.remove(path)
        file = self._folder / path
        if (found := file.stat().st_size) != size:
            raise BackupRefused(f"{path} has {found} bytes, not {size}: it was cut or altered")
        digest = hashlib.sha256()
        with file.open("rb", buffering=0) as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                self._done += len(chunk)
                self._told(self._done, self._of)
        if digest.hexdigest() != sha256:
            raise BackupRefused(f"{path} was altered: its hash is not the one that was written down")


def _files(folder: Path) -> set[str]:
    found: set[str] = set()
    for path, folders, names in os.walk(folder):
        for name in (*names, *(one for one in folders if (Path(path) / one).is_symlink())):
            file = Path(path) / name
            if file.is_symlink() or not file.is_file():
                raise BackupRefused(f"{file.relative_to(folder)} is no plain file, and does not belong to the backup")
            found.add(str(file.relative_to(folder)))
    return found


def _check_chain(folder: Path, cut: PartitionCut) -> None:
    chain, before, count = GENESIS, -1, 0
    for record in record_file.read(folder / cut.file):
        if not before < record.offset < cut.next_offset:
            raise BackupRefused(f"{cut.file} holds offset {record.offset} after {before}")
        chain, before, count = link(chain, record.at, record.key, record.value), record.offset, count + 1
    if chain.hex() != cut.chain or count != cut.records or before != cut.next_offset - 1:
        raise BackupRefused(f"{cut.file} does not end in the hash chain's head that the manifest names")
