"""Tells the format of a file by its content. Its name is a hint for text alone, which has no mark of its own."""

from __future__ import annotations

import codecs
from pathlib import Path, PurePosixPath

from adapters.dataset_files.errors import UnreadableDataset
from adapters.dataset_files.limits import Limits
from adapters.dataset_files.zip_members import open_archive
from schemas.dataset_profile import DatasetFormat

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_PARQUET = b"PAR1"
_TEXT_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_TEXT_NAMES = (".csv", ".tsv", ".txt", ".tab", ".csv.gz", ".tsv.gz")
_BINARY = (
    b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05",  # Pickle, which is never read.
    b"\x93NUMPY", b"\x89HDF", b"%PDF", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"Rar!", b"7z\xbc\xaf", b"BZh",
    b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"ARROW1", b"ORC", b"Obj\x01", b"SQLite format 3\0", b"\x7fELF", b"MZ\x90",
    b"\xd0\xcf\x11\xe0",
)  # fmt: skip
_HEAD = 64 * 1024


def detect(path: Path, filename: str, limits: Limits) -> DatasetFormat:
    """The format; UnreadableDataset with `empty`, `unknown_format` or `bad_archive` otherwise."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise UnreadableDataset("empty", "The file is empty.")
    if head.startswith(_ZIP):
        return _zip_format(path, limits)
    if head.startswith(_PARQUET):
        return "parquet"
    if head.startswith(b"\x1f\x8b") or head.startswith(_TEXT_MARKS):
        return "csv"
    if not head.startswith(_BINARY) and (filename.lower().endswith(_TEXT_NAMES) or _is_text(head)):
        return "csv"  # A file that is called so gets the exact error of the reader, such as the byte that is not UTF-8.
    raise UnreadableDataset("unknown_format", "The file is not CSV, Parquet, NPZ or a zip of images in folders.")


def _zip_format(path: Path, limits: Limits) -> DatasetFormat:
    with open_archive(path, limits) as archive:
        names = [member.path for member in archive.members]
    if PurePosixPath("[Content_Types].xml") in names:
        raise UnreadableDataset("unknown_format", "This is an office document; save the table as CSV.")
    return "npz" if names and all(name.suffix == ".npy" for name in names) else "images"


def _is_text(head: bytes) -> bool:
    try:
        codecs.utf_8_decode(head, "strict", False)
    except UnicodeDecodeError:
        return False
    return not any(code < 32 and code not in (9, 10, 12, 13) for code in head[:4096])
