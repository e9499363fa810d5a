"""A program that ends is started again: at once when it had been well, else after a pause that grows to a few seconds."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ops import keeper as keeping
from ops.keeper import LONGEST_PAUSE, Keeper, State, pause_after
from ops.service import Service
from tests.ops.conftest import until_async


@dataclass
class Script(Service):
    """A program of a few lines of Python."""

    code: str = "import time; time.sleep(600)"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", self.code]


@asynccontextmanager
async def kept(folder: Path, code: str) -> AsyncIterator[tuple[Keeper, list[str]]]:
    """Launched and watched; and what is said about it."""
    said: list[str] = []
    keeper = Keeper(Script("script", {}, folder, code=code), folder, say=said.append)
    await keeper.launch()
    keeper.watch()
    try:
        yield keeper, said
    finally:
        await keeper.stop()


async def killed(keeper: Keeper) -> None:
    """Kill it while it runs, and wait for the next one."""
    before = keeper.identity
    assert before is not None
    psutil.Process(before.pid).kill()
    await until_async(
        "another one runs",
        lambda: keeper.state is State.RUNNING and keeper.identity not in (None, before),
    )


async def test_one_that_had_been_well_is_started_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "WELL_SECONDS", 0.0)
    async with kept(tmp_path, "import time; time.sleep(600)") as (keeper, said):
        for _ in range(3):
            await killed(keeper)
    assert said == ["ended with status SIGKILL; it is started again at once"] * 3


async def test_one_that_dies_again_and_again_is_waited_with_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "FIRST_PAUSE", 0.01)
    async with kept(tmp_path, "raise SystemExit(3)") as (_, said):
        await until_async("three starts failed", lambda: len(said) >= 3)
    patterns = ["", ", after 2 failures in a row", ", after 3 failures in a row"]
    for line, end in zip(said, patterns, strict=False):
        assert re.fullmatch(rf"ended with status 3; it is started again in \d+\.\d s{end}", line)


async def test_having_been_well_in_between_begins_the_count_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "FIRST_PAUSE", 0.01)
    broken = tmp_path / "broken"
    broken.touch()
    code = f"import pathlib, time; pathlib.Path({str(broken)!r}).exists() and exit(3); time.sleep(600)"
    async with kept(tmp_path, code) as (keeper, said):
        await until_async("two starts failed", lambda: len(said) >= 2)
        broken.unlink()
        await until_async("it answers", lambda: keeper.state is State.RUNNING and keeper.identity is not None)
        monkeypatch.setattr(keeping, "WELL_SECONDS", 0.0)
        known = len(said)
        while not any(line.endswith("at once") for line in said[known:]):
            await killed(keeper)


def test_pauses_grow_to_a_few_seconds_and_no_further() -> None:
    assert pause_after(0) == 0
    for failures in range(1, 100):
        longest = min(LONGEST_PAUSE, 0.5 * 2 ** (failures - 1))
        assert longest * 0.75 <= pause_after(failures) <= longest <= 5.0
