"""Records of one partition as a file: each a length (big-endian unsigned 32-bit) and a MessagePack array.

The array has the offset, the broker's time in milliseconds, key, value and headers. Nothing of it is judged: what takes
effect is folded anew by whoever restores it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from struct import Struct

import msgspec

from backup.manifest import BackupRefused

Headers = tuple[tuple[str, bytes | None], ...]
_length = Struct(">I")
_CHUNK = 1 << 20


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One record of the log, whole."""

    offset: int
    at: int
    key: bytes | None
    value: bytes | None
    headers: Headers


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def frame(record: Record) -> bytes:
    """The record as the file has it."""
    data = _encode(record)
    return _length.pack(len(data)) + data


def read(file: Path) -> Iterator[Record]:
    """The records of a file, in order; a chunk of it is in memory. Raises `BackupRefused` and `OSError`."""
    buffer = bytearray()
    with file.open("rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK):
            buffer += chunk
            place = 0
            while len(buffer) - place >= _length.size:
                (size,) = _length.unpack_from(buffer, place)
                end = place + _length.size + size
                if len(buffer) < end:
                    break
                try:
                    yield _decode(memoryview(buffer)[place + _length.size : end])
                except msgspec.DecodeError as error:
                    raise BackupRefused(f"{file.name} holds what is no record: {error}") from None
                place = end
            del buffer[:place]
    if buffer:
        raise BackupRefused(f"{file.name} ends in the middle of a record")
