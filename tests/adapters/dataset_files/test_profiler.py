"""A file is looked at in a child: what happens to that is never the parent's end, and nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from adapters.dataset_files import DatasetTooLarge, Limits, UnreadableDataset, profile_in_child
from adapters.dataset_files import profile as profile_here
from adapters.dataset_files.profiler import Profiler


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("نام,n\nالف,1\nب,\n")
    return path


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


async def test_a_child_says_what_we_would(table: Path, tmp_path: Path) -> None:
    async with Profiler() as profiler:
        assert await profiler.profile(table, "x.csv") == profile_here(table, "x.csv")
        (tmp_path / "bad").write_text("a,b\n1\n")
        with pytest.raises(UnreadableDataset) as raised:
            await profiler.profile(tmp_path / "bad", "x.csv")
        assert (raised.value.code, raised.value.row) == ("ragged_row", 2)
    assert children() == []


async def test_limits_hold_in_the_child(table: Path) -> None:
    with pytest.raises(DatasetTooLarge):
        await profile_in_child(table, "x.csv", Limits(file_bytes=1))
    assert children() == []


@pytest.mark.parametrize("limits", [Limits(memory_bytes=1)])
async def test_a_child_without_memory_is_not_our_end(table: Path, limits: Limits) -> None:
    with pytest.raises((UnreadableDataset, DatasetTooLarge)):
        await profile_in_child(table, "x.csv", limits)
    assert children() == []


async def test_a_child_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless")  # Opening it waits for a writer that never comes.
    with pytest.raises(UnreadableDataset) as raised:
        await profile_in_child(tmp_path / "endless", "x.csv", timeout=0.2)
    assert raised.value.code == "unreadable"
    assert children() == []


async def test_a_child_that_crashes_makes_the_file_unreadable(tmp_path: Path, table: Path) -> None:
    os.mkfifo(tmp_path / "endless")
    async with Profiler() as profiler:
        profiler.prepare()
        assert profiler._spare is not None
        child = await profiler._spare
        profiling = asyncio.create_task(profiler.profile(tmp_path / "endless", "x.csv"))
        writer = await asyncio.to_thread(os.open, tmp_path / "endless", os.O_WRONLY)  # Now the child is reading.
        child.send_signal(signal.SIGSEGV)
        with pytest.raises(UnreadableDataset) as raised:
            await profiling
        os.close(writer)
    assert raised.value.code == "unreadable"
    assert children() == []


async def test_a_cancelled_request_ends_its_child(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless")
    profiling = asyncio.create_task(profile_in_child(tmp_path / "endless", "x.csv"))
    writer = await asyncio.to_thread(os.open, tmp_path / "endless", os.O_WRONLY)
    profiling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await profiling
    os.close(writer)
    assert children() == []


async def test_a_spare_that_died_is_replaced(table: Path) -> None:
    async with Profiler() as profiler:
        profiler.prepare()
        assert profiler._spare is not None
        spare = await profiler._spare
        spare.kill()
        await spare.wait()
        assert (await profiler.profile(table, "x.csv")).rows == 2
    assert children() == []


async def test_a_child_knows_no_secret(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVAND_AUTH__SECRET", "secret")
    async with Profiler() as profiler:
        profiler.prepare()
        assert profiler._spare is not None
        environment = psutil.Process((await profiler._spare).pid).environ()
    assert not [name for name in environment if name.startswith("RAVAND")]


def test_the_parent_imports_nothing_heavy() -> None:
    code = "import sys, adapters.dataset_files.profiler; print({'polars', 'numpy', 'PIL', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
