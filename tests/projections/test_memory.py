"""What is kept in memory: bounded, but never what the database does not show yet."""

from __future__ import annotations

import asyncio

from domain.workspace import Workspace
from projections.budget import Budget
from projections.chain import GENESIS, link
from projections.memory import Key, Memory


def _jobs(count: int) -> list[Key]:
    return [("job", "team", f"job-{number}") for number in range(count)]


class TestMemory:
    def test_what_was_used_longest_ago_is_forgotten_first(self) -> None:
        memory = Memory(0, capacity=2)
        memory.use(_jobs(3), 10)
        memory.use(_jobs(1), 20)
        memory.committed_through(20)
        assert [key in memory for key in _jobs(3)] == [True, False, True]

    def test_what_a_batch_changed_stays_until_that_batch_is_stored(self) -> None:
        memory = Memory(0, capacity=0)
        memory.use(_jobs(1), 10)
        memory.use([("job", "team", "later")], 20)
        memory.committed_through(10)
        assert ("job", "team", "job-0") not in memory
        assert ("job", "team", "later") in memory

    def test_a_request_is_remembered_until_the_database_knows_it(self) -> None:
        memory = Memory(0, capacity=10)
        workspace = memory.workspaces["team"] = Workspace("team")
        for position, id in ((10, "first"), (20, "second")):
            workspace.requests.add(id)
            memory.requested("team", id, position)
        memory.committed_through(10)
        assert workspace.requests == {"second"}

    def test_a_workspace_s_version_goes_with_the_last_thing_known_of_it(self) -> None:
        memory = Memory(0, capacity=0)
        workspace = memory.workspaces["team"] = Workspace("team", version=7)
        workspace.series["flowers"] = 1
        memory.use([("workspace", "team", "")], 5)
        memory.use([("series", "team", "flowers")], 10)
        memory.committed_through(5)
        assert memory.workspaces["team"].version == 7
        memory.committed_through(10)
        memory.committed_through(10)
        assert memory.workspaces == {}


class TestBudget:
    async def test_whoever_asks_for_too_much_waits_for_others_to_give_back(self) -> None:
        budget = Budget(10)
        await budget.take(7)
        second = asyncio.create_task(budget.take(5))
        third = asyncio.create_task(budget.take(1))
        await asyncio.sleep(0)
        assert not second.done()
        assert not third.done()  # First come, first served: nobody starves.
        budget.give(7)
        await asyncio.gather(second, third)

    async def test_what_exceeds_the_whole_budget_gets_it_alone(self) -> None:
        budget = Budget(10)
        await budget.take(50)
        other = asyncio.create_task(budget.take(1))
        await asyncio.sleep(0)
        assert not other.done()
        budget.give(50)
        await other

    async def test_one_who_gives_up_waiting_does_not_keep_what_it_never_had(self) -> None:
        budget = Budget(10)
        await budget.take(10)
        waiting = asyncio.create_task(budget.take(10))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        budget.give(10)
        await budget.take(10)


def test_the_chain_tells_null_from_empty_and_where_one_part_ends() -> None:
    links = {
        link(GENESIS, 1, None, b""),
        link(GENESIS, 1, b"", None),
        link(GENESIS, 1, b"", b""),
        link(GENESIS, 1, b"ab", b"c"),
        link(GENESIS, 1, b"a", b"bc"),
        link(GENESIS, 2, b"a", b"bc"),
        link(link(GENESIS, 1, None, None), 1, b"a", b"bc"),
    }
    assert len(links) == 7
