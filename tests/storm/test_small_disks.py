"""Small disks can be filled and freed, and only who should see them does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from storm.small_disks import SmallDisk, mounting, why_not


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[SmallDisk, int]]:
    """One of a mebibyte, and a process that sees it."""
    folder = tmp_path / "small"
    folder.mkdir()
    if reason := why_not(folder):
        pytest.skip(reason)
    disk = SmallDisk(folder, 1)
    process = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, preexec_fn=mounting([disk]))
    yield disk, process.pid
    process.communicate()


def test_a_full_disk_takes_nothing_until_it_is_freed(small: tuple[SmallDisk, int]) -> None:
    disk, pid = small
    kept = disk.seen_by(pid) / "kept"
    kept.write_bytes(b"kept")
    assert disk.fill(pid) > 900 * 1024
    with pytest.raises(OSError, match="No space left"):
        (disk.seen_by(pid) / "more").write_bytes(b"x" * 8192)
    disk.free(pid)
    (disk.seen_by(pid) / "more").write_bytes(b"x" * 8192)
    assert kept.read_bytes() == b"kept"


def test_nobody_else_sees_it(small: tuple[SmallDisk, int]) -> None:
    disk, pid = small
    (disk.seen_by(pid) / "hidden").touch()
    assert list(disk.folder.iterdir()) == []
