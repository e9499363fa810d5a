"""Makes the archives that the tests need, well-formed and hostile."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image


def png(width: int = 4, height: int = 3, colour: tuple[int, int, int] = (10, 20, 30), format: str = "PNG") -> bytes:
    """An image of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, format)
    return out.getvalue()


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive of these files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data, compress_type=compression)
    return out.getvalue()


def with_mode(name: str, mode: int) -> zipfile.ZipInfo:
    """A member that says what kind of file it is."""
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def npy(array: npt.NDArray[np.generic]) -> bytes:
    """An array as a .npy file; of objects too, pickled."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def npy_with_header(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy file whose header says anything."""
    text = header.encode()
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + data


def overlapping(copies: int) -> bytes:
    """An archive whose members are all the same bytes of it."""
    data = b"\0" * 100_000
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packed.compress(data) + packed.flush()
    common = (len(body), len(data))
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, zlib.crc32(data), *common, 5, 0) + b"a/b.p" + body
    entries = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0, zlib.crc32(data), *common, 5, 0, 0, 0, 0, 0, 0)
        + f"a/{number:03}"[:5].encode()
        for number in range(copies)
    )
    return local + entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, copies, copies, len(entries), len(local), 0)


def lying_size(name: str, data: bytes, claimed: int) -> bytes:
    """An archive of one file whose list says another unpacked size."""
    archive = bytearray(zipped((name, data)))
    entry = archive.rfind(b"PK\1\2")
    struct.pack_into("<L", archive, entry + 24, claimed)
    struct.pack_into("<L", archive, 22, claimed)
    return bytes(archive)


def folders(*labels: str, images: int = 2) -> bytes:
    """A well-formed archive of images in folders."""
    members: Sequence[tuple[str, bytes]] = [
        (f"{label}/{number}.png", png(colour=(number, 0, 0))) for label in labels for number in range(images)
    ]
    return zipped(*members)
