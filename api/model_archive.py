"""The zip of a model version, made while it is sent: always the same bytes, so that any part of it can be asked for.

Stored, not compressed (weights do not compress), dated 1980, members in a fixed order; ZIP64 where sizes need it.
Format: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from adapters.object_store import ObjectStore
from domain.events import StoredFile

_DATE = (0, 0x21)
"""1 January 1980, midnight: the first moment that the format knows."""
_UTF8 = 0x0800
_WIDE = 0xFFFFFFFF
_FIRST = ("model.safetensors", "manifest.json")


class CorruptModel(Exception):
    """The stored bytes are not those that were registered: they are not handed out."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the archive, with its checksum."""

    name: str
    key: str
    size: int
    crc: int


async def checksum(store: ObjectStore, file: StoredFile) -> int:
    """The CRC-32 that the format wants, from the bytes themselves; their SHA-256 is compared on the way.

    Raises `CorruptModel`, and what the store raises.
    """
    crc, digest = 0, hashlib.sha256()
    async for chunk in store.stream(file.uri):
        crc = zlib.crc32(chunk, crc)
        digest.update(chunk)
    if digest.hexdigest() != file.sha256:
        raise CorruptModel(file.uri)
    return crc


def in_order(files: Sequence[StoredFile]) -> list[StoredFile]:
    """Weights and manifest first, the rest by name."""
    return sorted(files, key=lambda file: (_FIRST.index(file.name) if file.name in _FIRST else len(_FIRST), file.name))


class Archive:
    """The archive as a sequence of pieces, each either bytes or an object of the store."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._pieces: list[bytes | Member] = []
        offset, directory = 0, b""
        for member in members:
            head = _local_header(member)
            directory += _directory_entry(member, offset)
            self._pieces += [head, member]
            offset += len(head) + member.size
        self._pieces.append(directory + _ends(len(members), len(directory), offset))
        self.size = sum(_length(piece) for piece in self._pieces)

    async def stream(self, store: ObjectStore, start: int, end: int) -> AsyncIterator[bytes]:
        """The archive's bytes from `start` up to `end`, exclusive."""
        offset = 0
        for piece in self._pieces:
            length = _length(piece)
            first, last = max(start - offset, 0), min(end - offset, length)
            offset += length
            if first >= last:
                continue
            if isinstance(piece, bytes):
                yield piece[first:last]
            else:
                async for chunk in store.stream(piece.key, first, last):
                    yield chunk


def _length(piece: bytes | Member) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.size


def _local_header(member: Member) -> bytes:
    name = member.name.encode()
    wide = member.size >= _WIDE
    extra = struct.pack("<HHQQ", 1, 16, member.size, member.size) if wide else b""
    shown = _WIDE if wide else member.size
    head = struct.pack(
        "<4s5H3I2H",
        b"PK\x03\x04",
        45 if wide else 20,
        _UTF8,
        0,
        *_DATE,
        member.crc,
        shown,
        shown,
        len(name),
        len(extra),
    )
    return head + name + extra


def _directory_entry(member: Member, offset: int) -> bytes:
    name = member.name.encode()
    sizes = [member.size, member.size] if member.size >= _WIDE else []
    wide = [*sizes, *([offset] if offset >= _WIDE else [])]
    extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    shown, at = min(member.size, _WIDE), min(offset, _WIDE)
    version = 45 if wide else 20
    made_by, mode = version | 3 << 8, 0o100644 << 16  # On Unix, a plain file that its owner may write.
    head = struct.pack(
        "<4s6H3I5H2I", b"PK\x01\x02", made_by, version, _UTF8, 0, *_DATE, member.crc, shown, shown,
        len(name), len(extra), 0, 0, 0, mode, at,
    )  # fmt: skip
    return head + name + extra


def _ends(count: int, size: int, offset: int) -> bytes:
    last = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, min(size, _WIDE), min(offset, _WIDE), 0)
    if offset < _WIDE:
        return last
    wide = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, offset + size, 1)
    return wide + locator + last
