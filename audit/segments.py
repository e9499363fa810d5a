"""Reads the segment files of a broker on this machine as they lie on its disk, and checks every byte of every batch.

A consumer cannot see all of them: the epoch of the leader that took a batch is covered by no checksum. Here it is compared
with the broker's own list of epochs, offsets must follow each other, and the CRC-32C of each batch must fit.
Format: Kafka documentation, "Record Batch", magic 2; `leader-epoch-checkpoint` is a version, a count, and lines of
(epoch, first offset).
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from pathlib import Path
from struct import Struct

from aiokafka.record.util import calc_crc32c

from audit.findings import Break

_batch = Struct(">qiibIhi")
"""Base offset, length, leader epoch, magic, CRC, attributes, last offset delta."""
_BEFORE_LENGTH = 12
_CRC_FROM = 21
_SMALLEST = 61


def check(folder: Path, partition: int, end: int) -> Break | None:
    """The first batch below the offset `end` that is not whole, in the folder of one partition. Raises `OSError`."""
    epochs = _epochs(folder / "leader-epoch-checkpoint")
    files = sorted(folder.glob("*.log"))
    offset = int(files[0].stem) if files else 0
    for file in files:
        if int(file.stem) != offset:
            return _break(
                partition, offset, file, 0, f"the file begins at {int(file.stem)}, and offset {offset} is next"
            )
        offset, found = _file(file, partition, offset, end, epochs)
        if found is not None or offset >= end:
            return found
    if offset < end:
        return _break(partition, offset, files[-1] if files else folder, 0, f"the files end before offset {end}")
    return None


def _file(file: Path, partition: int, offset: int, end: int, epochs: list[tuple[int, int]]) -> tuple[int, Break | None]:
    size = file.stat().st_size
    if size == 0:
        return offset, None
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_READ) as data:
        place = 0
        while place < size and offset < end:
            wrong = None
            if size - place < _SMALLEST:
                wrong = "the file ends within a batch"
            else:
                base, length, epoch, magic, crc, _, delta = _batch.unpack_from(data, place)
                if base != offset:
                    wrong = f"its base offset is {base}"
                elif length < _SMALLEST - _BEFORE_LENGTH or place + _BEFORE_LENGTH + length > size:
                    wrong = f"its length is {length}"
                elif magic != 2:
                    wrong = f"its format is {magic}"
                elif calc_crc32c(data[place + _CRC_FROM : place + _BEFORE_LENGTH + length]) != crc:
                    wrong = "its bytes do not fit its checksum"
                elif epoch != _epoch_at(epochs, offset):
                    wrong = f"its leader epoch is {epoch}, and the broker's list says {_epoch_at(epochs, offset)}"
            if wrong is not None:
                return offset, _break(partition, offset, file, place, wrong)
            offset += delta + 1
            place += _BEFORE_LENGTH + length
    return offset, None


def _break(partition: int, offset: int, file: Path, place: int, detail: str) -> Break:
    return Break(
        what="log_segment_altered",
        detail=f"the batch that begins there, at byte {place} of {file.parent.name}/{file.name}: {detail}",
        partition=partition,
        offset=offset,
    )


def _epochs(file: Path) -> list[tuple[int, int]]:
    """(first offset, epoch), rising."""
    try:
        lines = file.read_text().splitlines()[2:]
        return sorted((int(first), int(epoch)) for epoch, first in (line.split() for line in lines))
    except (FileNotFoundError, ValueError):
        return []


def _epoch_at(epochs: list[tuple[int, int]], offset: int) -> int | None:
    index = bisect_right(epochs, (offset, 2**31))
    return epochs[index - 1][1] if index else None
