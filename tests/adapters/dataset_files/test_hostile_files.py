"""Hostile files, each with the code it gets. None runs anything, leaves anything behind, or is written anywhere."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import stat
import struct
import tarfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from adapters.dataset_files import DatasetTooLarge, Limits, UnreadableDataset, profile

from .archives import folders, lying_size, npy, npy_with_header, overlapping, png, with_mode, zipped

SMALL = Limits(
    file_bytes=4_000_000, unpacked_bytes=3_000_000, members=50, image_pixels=10_000, total_pixels=100_000,
    table_bytes=4_000_000,
)  # fmt: skip
LARGE = "too large"


class Canary:
    """Whoever unpickles this leaves a file in the current folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("canary",)


PICKLE = pickle.dumps(Canary())
PICKLES = [pickle.dumps(Canary(), protocol) for protocol in range(6)]


def parquet(table: pl.DataFrame) -> bytes:
    out = io.BytesIO()
    table.write_parquet(out)
    return out.getvalue()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("a/1.png")
        info.size = len(png())
        archive.addfile(info, io.BytesIO(png()))
    return out.getvalue()


def pixel_flood() -> bytes:
    """A PNG whose header promises more pixels than there is memory for."""
    data = bytearray(png())
    struct.pack_into(">II", data, 16, 60_000, 60_000)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


def encrypted() -> bytes:
    data = bytearray(zipped(("a/1.png", png())))
    data[data.rfind(b"PK\1\2") + 8] |= 1
    return bytes(data)


def named(name: str, data: bytes | None = None) -> bytes:
    return zipped(("a/ok.png", png()), (name, png() if data is None else data))


def nul_name() -> bytes:
    return named("a/x#y.png").replace(b"x#y", b"x\0y")


ZEROS = npy(np.zeros(10))
HEADER = "{'descr': '<f8', 'fortran_order': False, 'shape': (%s,), }"

CORPUS: dict[str, tuple[str, bytes, str]] = {
    # name: (file name, bytes, code)
    "nothing": ("x.csv", b"", "empty"),
    "noise": ("x.bin", bytes(range(256)) * 20, "unknown_format"),
    "a tar": ("x.tar.gz", tar(), "nul_byte"),
    "an image": ("x.png", png(), "unknown_format"),
    "an office document": ("x.csv", zipped(("[Content_Types].xml", b"<a/>"), ("xl/a.xml", b"")), "unknown_format"),
    **{f"pickle {number} as npz": ("x.npz", data, "unknown_format") for number, data in enumerate(PICKLES) if number > 1},
    **{f"pickle {number} as csv": ("x.csv", data, "unknown_format") for number, data in enumerate(PICKLES) if number > 1},
    "pickle as parquet": ("x.parquet", PICKLE, "unknown_format"),
    "pickle in gzip": ("x.csv.gz", gzip.compress(PICKLE), "nul_byte"),
    "pickle as an image": ("x.zip", named("a/b.png", PICKLE), "bad_image"),
    "pickle as an array": ("x.npz", zipped(("x.npy", PICKLE)), "unsafe_array"),
    # Arrays.
    "array of objects": ("x.npz", zipped(("x.npy", npy(np.array([Canary()], dtype=object)))), "unsafe_array"),
    "record with an object": (
        "x.npz",
        zipped(("x.npy", npy_with_header("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}", PICKLE))),
        "unsafe_array",
    ),
    "header that is code": (
        "x.npz", zipped(("x.npy", npy_with_header("__import__('os').mkdir('canary')"))), "unsafe_array",
    ),
    "huge header": ("x.npz", zipped(("x.npy", npy_with_header(" " * 60_000))), "unsafe_array"),
    "endless header": (
        "x.npz", zipped(("x.npy", b"\x93NUMPY\2\0\xff\xff\xff\x7f" + b" " * 1000)), "unsafe_array",
    ),
    "deep header": ("x.npz", zipped(("x.npy", npy_with_header("(" * 5000))), "unsafe_array"),
    "shape too large": ("x.npz", zipped(("x.npy", npy_with_header(HEADER % 10**15, b"1" * 80))), "unsafe_array"),
    "shape that overflows": (
        "x.npz", zipped(("x.npy", npy_with_header(HEADER % "4294967296, 4294967296"))),
        "unsafe_array",
    ),
    "shape too small": ("x.npz", zipped(("x.npy", npy_with_header(HEADER % 1, b"1" * 80))), "unsafe_array"),
    "negative shape": ("x.npz", zipped(("x.npy", npy_with_header(HEADER % -1, b""))), "unsafe_array"),
    "no shape": ("x.npz", zipped(("x.npy", npy(np.array(1.0)))), "unsafe_array"),
    "complex numbers": ("x.npz", zipped(("x.npy", npy(np.zeros(3, complex)))), "unsafe_array"),
    "records": ("x.npz", zipped(("x.npy", npy(np.zeros(3, [("a", "f8")])))), "unsafe_array"),
    "array in a folder": ("x.npz", zipped(("a/x.npy", ZEROS)), "unsafe_array"),
    "array outside": ("x.npz", zipped(("../x.npy", ZEROS)), "bad_archive"),
    "array twice": ("x.npz", zipped(("x.npy", ZEROS), ("X.npy", ZEROS)), "bad_archive"),
    "arrays of two lengths": ("x.npz", zipped(("x.npy", ZEROS), ("y.npy", npy(np.zeros(9)))), "ragged_arrays"),
    "arrays without rows": ("x.npz", zipped(("x.npy", npy(np.zeros((0, 3))))), "no_rows"),
    "array bomb": ("x.npz", zipped(("x.npy", npy(np.zeros(2_000_000, np.uint8)))), LARGE),
    "array beyond the limit": (
        "x.npz", zipped(("x.npy", npy(np.zeros(3_500_000, np.uint8))), compression=zipfile.ZIP_STORED), LARGE,
    ),
    # Archives.
    **{
        f"name {name!a}": ("x.zip", named(name), "bad_archive")
        for name in ("../x.png", "a/../../x.png", "/etc/x.png", "a\\..\\x.png", "C:/x.png", "a//x.png", "a/x\n.png", "..")
    },
    "name with NUL": ("x.zip", nul_name(), "bad_archive"),
    "link": ("x.zip", zipped((with_mode("a/l.png", stat.S_IFLNK | 0o777), b"/etc/passwd")), "bad_archive"),
    "device": ("x.zip", zipped((with_mode("a/d.png", stat.S_IFCHR | 0o666), b"")), "bad_archive"),
    "pipe": ("x.zip", zipped((with_mode("a/p.png", stat.S_IFIFO | 0o666), b"")), "bad_archive"),
    "case clash": ("x.zip", named("a/OK.png"), "bad_archive"),
    "folders that clash": ("x.zip", named("A/other.png"), "bad_archive"),
    "spelling clash": ("x.zip", zipped(("a/\u00e9.png", png()), ("a/e\u0301.png", png())), "bad_archive"),
    "file and folder": ("x.zip", zipped(("a/b", png()), ("a/b/c.png", png())), "bad_archive"),
    "archive in an archive": ("x.zip", named("a/b.png", folders("a")), "bad_archive"),
    "gzip in an archive": ("x.zip", named("a/b.png", gzip.compress(b"x")), "bad_archive"),
    "encrypted": ("x.zip", encrypted(), "bad_archive"),
    "odd compression": ("x.zip", zipped(("a/1.png", png()), compression=zipfile.ZIP_LZMA), "bad_archive"),
    "size too large": ("x.zip", lying_size("a/1.png", png(), 1_000_000), "bad_archive"),
    "size too small": ("x.zip", lying_size("a/1.png", png(), 10), "bad_archive"),
    "too many members": ("x.zip", zipped(*((f"a/{number}.png", b"") for number in range(51))), "bad_archive"),
    "members that overlap": ("x.zip", overlapping(40), "bad_archive"),
    "cut off": ("x.zip", folders("a")[:-30], "bad_archive"),
    "list damaged": ("x.zip", folders("a").replace(b"PK\1\2", b"PK\1\3"), "bad_archive"),
    "only an end": ("x.zip", zipped(), "empty"),
    "bomb": ("x.zip", named("a/b.bmp", b"\0" * 2_500_000), LARGE),
    "archive beyond the limit": (
        "x.zip", zipped(("a/1.png", os.urandom(3_500_000)), compression=zipfile.ZIP_STORED), LARGE,
    ),
    # Images.
    "pixel flood": ("x.zip", named("a/b.png", pixel_flood()), "bad_image"),
    "too many pixels": ("x.zip", named("a/b.png", png(200, 100)), "bad_image"),
    "too many pixels together": ("x.zip", zipped(*((f"a/{n}.png", png(100, 100)) for n in range(11))), LARGE),
    "damaged image": ("x.zip", named("a/b.png", png()[:45]), "bad_image"),
    "damaged jpeg": ("x.zip", named("a/b.jpg", png(50, 50, format="JPEG")[:300]), "bad_image"),
    "vector image": ("x.zip", named("a/b.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "bad_image"),
    "postscript": ("x.zip", named("a/b.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "bad_image"),
    "tiff": ("x.zip", named("a/b.png", png(format="TIFF")), "bad_image"),
    "fits": ("x.zip", named("a/b.png", b"SIMPLE  =                    T" + b" " * 2850), "bad_image"),
    "text among images": ("x.zip", named("a/notes.txt", b"hello"), "bad_image"),
    "image without a folder": ("x.zip", zipped(("1.png", png())), "no_label"),
    # Parquet.
    "nested parquet": ("x.parquet", parquet(pl.DataFrame({"a": [[1]], "b": [{"c": 1}]})), "nested_columns"),
    "bytes in parquet": ("x.parquet", parquet(pl.DataFrame({"a": [b"x"]})), "unsupported_type"),
    "empty parquet": ("x.parquet", parquet(pl.DataFrame({"a": pl.Series([], dtype=pl.Int64)})), "no_rows"),
    "cut parquet": ("x.parquet", parquet(pl.DataFrame({"a": [1, 2]}))[:-12], "unreadable"),
    "false parquet": ("x.parquet", b"PAR1" + b"\xff" * 100 + b"\xff\xff\xff\x7fPAR1", "unreadable"),
    "parquet of one value": ("x.parquet", parquet(pl.DataFrame({"a": pl.repeat(1, 2_000_000, eager=True)})), LARGE),
    "parquet names": ("x.parquet", parquet(pl.DataFrame({"a": [1], " a": [2]})), "duplicate_header"),
}  # fmt: skip


@pytest.mark.parametrize(("filename", "data", "code"), CORPUS.values(), ids=CORPUS.keys())
def test_a_hostile_file_gets_its_code_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filename: str, data: bytes, code: str
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "upload").write_bytes(data)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    with pytest.raises((UnreadableDataset, DatasetTooLarge)) as raised:
        profile(tmp_path / "upload", filename, SMALL)
    error = raised.value
    assert (error.code if isinstance(error, UnreadableDataset) else LARGE) == code
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["tmp", "upload", "work"]
    assert (tmp_path / "upload").read_bytes() == data


@pytest.mark.parametrize("number", [0, 1])
def test_a_pickle_of_text_is_at_most_a_table_of_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_bytes(PICKLES[number])
    with suppress(UnreadableDataset):
        assert {column.type for column in profile(tmp_path / "x.csv", "x.csv").columns} == {"text"}
    assert not (tmp_path / "canary").exists()


def test_the_canary_sings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(PICKLE)
    assert (tmp_path / "canary").exists()
