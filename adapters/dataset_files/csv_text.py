"""The text of a CSV file as UTF-8 bytes: unpacked, without a byte-order mark, and known to be valid."""

from __future__ import annotations

import codecs
import gzip
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from adapters.dataset_files.errors import DatasetTooLarge, UnreadableDataset
from adapters.dataset_files.limits import MIB, Limits

GZIP = b"\x1f\x8b"


@contextmanager
def utf8_file(path: Path, limits: Limits) -> Iterator[IO[bytes]]:
    """The file's text, positioned at the header. What has to be rewritten goes to a file without a name."""
    with path.open("rb") as original, tempfile.TemporaryFile() as unpacked, tempfile.TemporaryFile() as decoded:
        file: IO[bytes] = original
        if file.read(2) == GZIP:
            _unpack(path, unpacked, limits)
            file = unpacked
        file.seek(0)
        start = file.read(3)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            file.seek(0)
            _decode_utf16(file, decoded)
            file, start = decoded, b""
        offset = 3 if start == codecs.BOM_UTF8 else 0
        file.seek(offset)
        _check_utf8(file, offset)
        file.seek(offset)
        yield file


def _unpack(path: Path, to: IO[bytes], limits: Limits) -> None:
    packed, unpacked = path.stat().st_size, 0
    try:
        with gzip.open(path) as source:
            while chunk := source.read(MIB):
                unpacked += len(chunk)
                if unpacked > limits.unpacked_bytes:
                    raise DatasetTooLarge(f"The file unpacks to more than {limits.unpacked_bytes // MIB} MiB.")
                if unpacked > max(limits.ratio_floor, limits.ratio * packed):
                    raise DatasetTooLarge(f"The file unpacks to more than {limits.ratio} times its size.")
                to.write(chunk)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UnreadableDataset("unreadable", "The gzip file is damaged or cut off.") from error


def _decode_utf16(file: IO[bytes], to: IO[bytes]) -> None:
    decoder = codecs.getincrementaldecoder("utf-16")()
    position = 0
    while True:
        chunk = file.read(MIB)
        pending = len(decoder.getstate()[0])
        try:
            to.write(decoder.decode(chunk, final=not chunk).encode())
        except UnicodeDecodeError as error:
            at = position - pending + error.start
            raise UnreadableDataset("bad_encoding", f"Byte {at} of the file is not valid UTF-16.", byte=at) from error
        position += len(chunk)
        if not chunk:
            return


def _check_utf8(file: IO[bytes], position: int) -> None:
    pending = b""
    while chunk := file.read(MIB):
        if (nul := chunk.find(0)) >= 0:
            at = position + nul
            raise UnreadableDataset("nul_byte", f"Byte {at} of the file is NUL; a CSV file is text.", byte=at)
        if chunk.isascii() and not pending:
            position += len(chunk)
            continue
        pending = _check_piece(pending + chunk, position - len(pending), final=False)
        position += len(chunk)
    _check_piece(pending, position - len(pending), final=True)


def _check_piece(data: bytes, position: int, *, final: bool) -> bytes:
    """Check bytes that begin at `position`; return the beginning of a character that the next piece may complete."""
    try:
        _text, consumed = codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError as error:
        at = position + error.start
        message = f"Byte {at} of the file is not valid UTF-8. Save the file as UTF-8 and upload it again."
        raise UnreadableDataset("bad_encoding", message, byte=at) from error
    return data[consumed:]
