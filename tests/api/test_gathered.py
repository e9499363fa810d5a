"""Look-ups at the same time are one look-up, and none of them is answered with what was known before it was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from api.gathered import AT_ONCE, Gathered

pytestmark = pytest.mark.asyncio


class Table:
    """Something to look into, slowly: each look-up waits until it is let go."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.looks: list[list[str]] = []
        self.failing: Exception | None = None
        self.gate = asyncio.Event()

    async def find(self, keys: list[str]) -> Mapping[str, int]:
        self.looks.append(keys)
        found = {key: self.rows[key] for key in keys if key in self.rows}
        await self.gate.wait()
        if self.failing:
            raise self.failing
        return found


async def started(gathered: Gathered[str, int], *keys: str) -> list[asyncio.Task[int | None]]:
    tasks = [asyncio.create_task(gathered.get(key)) for key in keys]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_what_is_asked_for_at_once_is_one_look_up() -> None:
    table = Table()
    table.rows = {"a": 1, "b": 2}
    table.gate.set()
    gathered = Gathered(table.find)
    assert await asyncio.gather(*(gathered.get(key) for key in ("a", "b", "a", "c"))) == [1, 2, 1, None]
    assert table.looks == [["a", "b", "c"]]


async def test_what_changed_since_a_look_up_began_is_found_by_a_later_one() -> None:
    table = Table()
    gathered = Gathered(table.find)
    [early] = await started(gathered, "a")
    table.rows["a"] = 1
    [late] = await started(gathered, "a")
    table.gate.set()
    assert (await early, await late) == (None, 1)


async def test_while_enough_are_under_way_the_others_wait_and_go_together() -> None:
    table = Table()
    gathered = Gathered(table.find)
    tasks = []
    for number in range(AT_ONCE + 3):
        tasks += await started(gathered, f"k{number}")
    assert len(table.looks) == AT_ONCE
    table.gate.set()
    await asyncio.gather(*tasks)
    assert table.looks[AT_ONCE:] == [[f"k{AT_ONCE + number}" for number in range(3)]]


async def test_a_failure_is_told_to_all_who_asked_and_to_nobody_later() -> None:
    table = Table()
    table.failing = OSError("away")
    gathered = Gathered(table.find)
    tasks = await started(gathered, "a", "b")
    table.gate.set()
    assert [type(result) for result in await asyncio.gather(*tasks, return_exceptions=True)] == [OSError, OSError]
    table.failing = None
    table.rows["a"] = 1
    assert await gathered.get("a") == 1


async def test_who_stops_waiting_takes_nobody_along() -> None:
    table = Table()
    table.rows["a"] = 1
    gathered = Gathered(table.find)
    first, second = await started(gathered, "a", "a")
    first.cancel()
    table.gate.set()
    assert await second == 1
    assert first.cancelled()


@pytest.mark.parametrize("turns", range(8))
async def test_whoever_asks_in_any_turn_in_which_all_look_ups_end_is_answered(turns: int) -> None:
    table = Table()
    gathered = Gathered(table.find)
    for key in range(AT_ONCE):
        await started(gathered, str(key))
    table.rows["same"] = 1
    table.gate.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):  # That the key is asked for again by others makes no difference.
        assert set(await asyncio.gather(gathered.get("same"), gathered.get("same"))) == {1}
