"""Opens a zip archive that a stranger made: nothing is ever written under a name from it, and limits hold for what
really comes out.
"""

from __future__ import annotations

import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from adapters.dataset_files.errors import DatasetTooLarge, UnreadableDataset
from adapters.dataset_files.limits import MIB, Limits

MAGIC = b"PK\x03\x04"
EMPTY = b"PK\x05\x06"
_UTF8_NAME = 0x800
_ENCRYPTED = 0x1
_LOCAL_HEADER = 30
_ENTRY = 46
_LONGEST_NAME = 512
_IN_64 = 0xFFFFFFFF  # “See the end record of 64 bits.”
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
"""What file managers put into archives without being asked."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive, under a checked name."""

    path: PurePosixPath
    info: zipfile.ZipInfo


def bad_archive(message: str) -> UnreadableDataset:
    """The error for an archive that is damaged, or made to do harm."""
    return UnreadableDataset("bad_archive", message)


class Archive:
    """The checked members of an open archive, and their bytes, counted as they come out."""

    def __init__(self, file: zipfile.ZipFile, packed: int, limits: Limits) -> None:
        """Check every member's name, kind and place before anything is unpacked."""
        self._zip = file
        self._packed = packed
        self._limits = limits
        self._unpacked = 0
        self.members = _checked(file.infolist(), limits)

    def read(self, member: Member) -> bytes:
        """All bytes of a member."""
        with self.open(member) as file:
            pieces = []
            while piece := file.read(MIB):
                self.count(len(piece))
                pieces.append(piece)
        data = b"".join(pieces)
        if len(data) != member.info.file_size:
            raise bad_archive(f"“{member.path}” is not as long as the archive says.")
        return data

    @contextmanager
    def open(self, member: Member) -> Iterator[IO[bytes]]:
        """A member's bytes as a file; the reader counts them."""
        try:
            with self._zip.open(member.info) as file:
                yield file
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            raise bad_archive(f"“{member.path}” is damaged.") from error

    def count(self, size: int) -> None:
        """Take note of bytes that came out."""
        self._unpacked += size
        limits = self._limits
        if self._unpacked > limits.unpacked_bytes:
            raise DatasetTooLarge(f"The archive unpacks to more than {limits.unpacked_bytes // MIB} MiB.")
        if self._unpacked > max(limits.ratio_floor, limits.ratio * self._packed):
            raise DatasetTooLarge(f"The archive unpacks to more than {limits.ratio} times its size.")


@contextmanager
def open_archive(path: Path, limits: Limits) -> Iterator[Archive]:
    """The archive at `path`, checked."""
    with path.open("rb") as file:
        _check_directory(file, path.stat().st_size, limits)
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, OverflowError) as error:
            raise bad_archive("The archive's list of files is damaged.") from error
        with archive:
            yield Archive(archive, path.stat().st_size, limits)


def _check_directory(file: IO[bytes], size: int, limits: Limits) -> None:
    """Refuse a list of members that is too long before zipfile makes an object of each."""
    tail_at = max(0, size - 0x10000 - _END.size)
    file.seek(tail_at)
    tail = file.read()
    at = tail.rfind(EMPTY)
    if at < 0 or len(tail) - at < _END.size:
        raise bad_archive("The archive has no end: it was cut off.")
    directory, ends = _END.unpack_from(tail, at)[5], tail_at + at
    if (at64 := tail.rfind(b"PK\x06\x06", 0, at)) >= 0 and at - at64 >= _END64.size:
        directory, ends = (
            max(directory if directory != _IN_64 else 0, _END64.unpack_from(tail, at64)[8]),
            tail_at + at64,
        )
    if directory > min(ends, limits.members * (_ENTRY + _LONGEST_NAME)):
        raise bad_archive(f"The archive holds more than {limits.members} files, or says so.")
    file.seek(ends - directory)
    if file.read(directory).count(b"PK\x01\x02") > limits.members:  # What is there, and not the number that it states.
        raise bad_archive(f"The archive holds more than {limits.members} files.")
    file.seek(0)


def _checked(infos: list[zipfile.ZipInfo], limits: Limits) -> list[Member]:
    if len(infos) > limits.members:
        raise bad_archive(f"The archive holds more than {limits.members} files.")
    _check_overlap(infos)
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    members = []
    for info in infos:
        name = _name(info)
        path = _safe(name)
        _check_kind(info, name)
        if any(part in _LITTER or part.startswith("._") for part in path.parts):
            continue
        for folder in list(path.parents)[:-1] + ([path] if info.is_dir() else []):
            if folders.setdefault(_folded(str(folder)), str(folder)) != str(folder):
                raise bad_archive(f"Two folders are called “{folder}” but for case or spelling.")
        if info.is_dir():
            continue
        if _folded(str(path)) in seen:
            raise bad_archive(f"“{name}” and “{seen[_folded(str(path))]}” have the same name, but for case.")
        seen[_folded(str(path))] = name
        members.append(Member(path, info))
    if clash := seen.keys() & folders.keys():
        raise bad_archive(f"“{seen[clash.pop()]}” is both a file and a folder.")
    return members


def _name(info: zipfile.ZipInfo) -> str:
    """The name; some programs write UTF-8 without saying so, and zipfile then reads it in the code page of DOS."""
    if info.flag_bits & _UTF8_NAME:
        return info.orig_filename
    try:
        return info.orig_filename.encode("cp437").decode()
    except UnicodeError:
        return info.orig_filename


def _safe(name: str) -> PurePosixPath:
    parts = name.rstrip("/").split("/")
    drive = len(parts[0]) > 1 and parts[0][1] == ":"
    control = any(unicodedata.category(character) == "Cc" for character in name)
    if not name or control or "\\" in name or drive or any(part in ("", "..") for part in parts):
        raise bad_archive(f"The archive holds a name that leads elsewhere: {name[:100]!a}.")
    return PurePosixPath(*parts)


def _check_kind(info: zipfile.ZipInfo, name: str) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise bad_archive(f"“{name}” is not a file: links and devices are refused.")
    if info.flag_bits & _ENCRYPTED:
        raise bad_archive(f"“{name}” is encrypted.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise bad_archive(f"“{name}” is packed in a way that is not supported.")


def _check_overlap(infos: list[zipfile.ZipInfo]) -> None:
    """Refuse members that share bytes: a small archive could unpack to any size, each member looking harmless."""
    end, last = 0, None
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise bad_archive(f"“{last}” and “{info.filename}” share bytes of the archive.")
        name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_NAME else "cp437", "replace")
        end = info.header_offset + _LOCAL_HEADER + len(name) + info.compress_size
        last = info.filename


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())
