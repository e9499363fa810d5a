"""What a backup says of itself: every file with its size and hash, and the state of the log at the cut.

The manifest is written last. Its own hash lies beside it, in the form that `sha256sum -c` reads.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

FORMAT = 1
MANIFEST = "manifest.json"
MANIFEST_HASH = "manifest.sha256"
OBJECTS = "objects.jsonl"
"""A line for each object: key, bytes, sha256."""
OBJECTS_FOLDER = "objects"


class BackupRefused(Exception):
    """It can't be taken, or can't be restored, as it is; the message says why. Nothing was written."""


class StoredFile(msgspec.Struct, frozen=True):
    """A file of the backup, by its path in it."""

    path: str
    bytes: int
    sha256: str


class StoredObject(msgspec.Struct, frozen=True):
    """An object of the store; its bytes lie under `objects/`."""

    key: str
    bytes: int
    sha256: str


class PartitionCut(msgspec.Struct, frozen=True):
    """One partition of the log up to the cut."""

    partition: int
    next_offset: int
    records: int
    rules: int
    chain: str
    """Head of the hash chain, in hexadecimal."""
    verdicts: str
    """SHA-256 over a line `offset version refusal` for each record, with `-` for what there is none of."""
    file: str


class TableCut(msgspec.Struct, frozen=True):
    """The rows of one table, in PostgreSQL's binary COPY format."""

    table: str
    columns: tuple[str, ...]
    rows: int
    file: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The backup as a whole."""

    format: int
    made_at: str
    software: str
    schema: str
    """The step of the database's schema."""
    log_id: str
    rules: int
    """The newest rule set in force in any partition."""
    partitions: tuple[PartitionCut, ...]
    tables: tuple[TableCut, ...]
    files: tuple[StoredFile, ...]
    objects: int
    object_bytes: int
    from_journal: int
    """Records that the log had lost and the journal had kept."""
    unsound: tuple[str, ...]
    """Objects that the state refers to, and that the source lacked, or held with other bytes than were recorded."""

    @property
    def records(self) -> int:
        """Of all partitions."""
        return sum(cut.records for cut in self.partitions)

    def rows(self, table: str) -> int:
        """Of one table."""
        return sum(cut.rows for cut in self.tables if cut.table == table)


class _Format(msgspec.Struct):
    format: int


def encode(manifest: Manifest) -> bytes:
    """As the file has it."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def hash_line(document: bytes) -> bytes:
    """The line of `manifest.sha256`."""
    return f"{hashlib.sha256(document).hexdigest()}  {MANIFEST}\n".encode()


def read(folder: Path) -> Manifest:
    """The manifest in a folder. Raises `BackupRefused`."""
    try:
        document, line = (folder / MANIFEST).read_bytes(), (folder / MANIFEST_HASH).read_bytes()
    except FileNotFoundError as error:
        raise BackupRefused(f"{folder} is no finished backup: {Path(str(error.filename)).name} is not there") from None
    except OSError as error:
        raise BackupRefused(f"{folder} cannot be read: {error.strerror}") from None
    if line != hash_line(document):
        raise BackupRefused(f"{MANIFEST} is not what was written: its hash is another than {MANIFEST_HASH} says")
    try:
        found = msgspec.json.decode(document, type=_Format).format
        if found != FORMAT:
            raise BackupRefused(
                f"{folder} is a backup of format {found}; this build reads format {FORMAT}. Use the Ravand that wrote it"
            )
        return msgspec.json.decode(document, type=Manifest)
    except msgspec.DecodeError as error:
        raise BackupRefused(f"{MANIFEST} cannot be read: {error}") from None
