"""A file is looked at in a child: what happens to that is never the parent's end, and nothing stays behind."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import polars as pl
import psutil
import pytest

from adapters.dataset_files import DatasetTooLarge, Limits, UnreadableDataset, child, profile_in_child
from adapters.dataset_files import profile as profile_here
from adapters.dataset_files import profiler as profiler_module
from adapters.dataset_files.child_protocol import Reply, Request
from adapters.dataset_files.errors import ReadersUnavailable
from adapters.dataset_files.profiler import Profiler


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("نام,n\nالف,1\nب,\n")
    return path


@pytest.fixture(autouse=True)
def others() -> Iterator[None]:
    """Children that this process has already: servers, say, of tests that it ran before."""
    OTHERS[:] = psutil.Process().children()
    yield
    OTHERS.clear()


OTHERS: list[psutil.Process] = []


def children() -> list[psutil.Process]:
    """Those of the test."""
    return [child for child in psutil.Process().children() if child not in OTHERS]


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


@pytest.mark.parametrize("turns", [0, 50], ids=["at once", "while it is waited for"])
async def test_a_request_that_is_cancelled_while_a_child_starts_ends_it(table: Path, turns: int) -> None:
    profiling = asyncio.create_task(profile_in_child(table, "x.csv"))
    async with asyncio.timeout(10):
        while not children():  # noqa: ASYNC110 — There is nothing to be told by.
            await asyncio.sleep(0)
    for _ in range(turns):
        await asyncio.sleep(0)
    profiling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await profiling
    assert children() == []


async def test_what_a_dead_child_is_asked_has_no_answer(table: Path) -> None:
    async with Profiler() as profiler:
        profiler.prepare()
        assert profiler._spare is not None
        child = await profiler._spare
        child.kill()
        await child.wait()
        assert await profiler_module._asked(child, Request(str(table), "x.csv", Limits(), 1)) == b""


class TestChildrenThatCannotStart:
    async def test_a_spare_that_could_not_start_is_tried_again(
        self, table: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with Profiler() as profiler:
            with monkeypatch.context() as broken:
                broken.setattr(profiler_module, "_START", "import nothing_of_this_name")
                profiler.prepare()
                assert profiler._spare is not None
                await asyncio.wait([profiler._spare])
            assert (await profiler.profile(table, "x.csv")).rows == 2

    async def test_one_that_never_will_says_nothing_about_the_file(
        self, table: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(profiler_module, "_START", "import nothing_of_this_name")
        with pytest.raises(ReadersUnavailable):
            await profile_in_child(table, "x.csv")
        assert children() == []

    async def test_one_that_takes_too_long_to_start_is_ended(
        self, table: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(profiler_module, "_STARTED_WITHIN", 0.0)
        with pytest.raises(ReadersUnavailable):
            await profile_in_child(table, "x.csv")
        assert children() == []

    async def test_a_spare_that_could_not_start_does_not_keep_us_from_closing(self) -> None:
        profiler = Profiler()
        with no_more_open_files():
            profiler.prepare()
            assert profiler._spare is not None
            await asyncio.wait([profiler._spare])
        await profiler.close()

    async def test_no_descriptor_left_is_no_fault_of_the_file(self, table: Path) -> None:
        with no_more_open_files(), pytest.raises(ReadersUnavailable, match="open files"):
            await profile_in_child(table, "x.csv")
        assert (await profile_in_child(table, "x.csv")).rows == 2


class TestWhatAChildAnswers:
    def test_a_file_that_is_gone_cannot_be_read(self, tmp_path: Path) -> None:
        assert answer_of(tmp_path / "gone").code == "unreadable"

    def test_a_date_beyond_all_calendars_makes_a_file_unreadable(self, tmp_path: Path) -> None:
        pl.DataFrame({"at": pl.Series([2**62]).cast(pl.Datetime("us"))}).write_parquet(tmp_path / "file")
        assert answer_of(tmp_path / "file").code == "unreadable"

    def test_no_space_to_unpack_it_is_no_fault_of_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 100_000))
        assert answer_of(tmp_path / "file").profile is not None
        monkeypatch.setattr("tempfile.TemporaryFile", lambda: Path("/dev/full").open("r+b"))  # noqa: SIM115
        with pytest.raises(OSError, match="No space left") as raised:
            profiler_module._said(msgspec.json.encode(answer_of(tmp_path / "file")))
        assert raised.value.errno == errno.ENOSPC


def answer_of(path: Path) -> Reply:
    """What a child would answer, were it asked about the file."""
    return child._reply(Request(str(path), "x.csv", Limits(), 1))


@contextmanager
def no_more_open_files() -> Iterator[None]:
    """Nothing can be opened meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


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
