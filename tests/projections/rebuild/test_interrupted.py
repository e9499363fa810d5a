"""Killed, cancelled, started twice, or under load: the live read model is whole, and reads go on as if nothing were done."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any

import asyncpg
import psutil
import pytest

from adapters.postgres import create_pool
from audit.verify import Wishes, verify
from projections import queries, writing
from projections.rebuild import children, runs
from projections.rebuild import run as rebuilding
from schemas.topics import EVENTS
from tests.projections.fold import compare, fold_of, stored
from tests.projections.platform import Log, project, projecting, until
from tests.projections.rebuild.conftest import WORKSPACES, command, commanded, rebuilt, rolled_back
from tests.projections.records import one_job, stream


async def test_killed_at_any_moment_it_leaves_the_live_tables_alone_and_goes_on(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(9)
    await log.write(stream(31, WORKSPACES, 6_000))
    await project(log)
    before = await stored(log.database)
    for _ in range(6):
        async with command(log, "--processes", "2") as process:
            begun = asyncio.create_task(process.wait())
            await asyncio.wait({begun}, timeout=chance.uniform(0.5, 4.0))
            process.kill() if not begun.done() else None
            await begun
        swapped = await log.database.fetchval("SELECT count(*) FROM rebuild.runs WHERE state = 'swapped'")
        compare(before, await stored(log.database))
        assert swapped or not await log.database.fetchval("SELECT max(generation) FROM log.cursors")
    await until(lambda: _is_free(log))
    status, document, said = await commanded(log)
    assert (status, document["state"], document["report"]["differing"]) == (0, "swapped", 0), said
    compare(before, await stored(log.database))


async def _until_swapping(log: Log, running: asyncio.Task[Any]) -> None:
    async def swapping() -> bool:
        assert not running.done(), running.exception()
        return bool(await log.database.fetchval("SELECT phase = 'swapping' FROM rebuild.runs"))

    await until(swapping)


async def _is_free(log: Log) -> bool:
    return not await runs.is_locked(log.database)


async def test_a_second_one_is_refused_while_one_runs_and_a_cancelled_one_is_dropped(log: Log) -> None:
    await log.write(stream(32, WORKSPACES, 1_000))
    await project(log)
    before = await stored(log.database)
    # Somebody who reads for long keeps it from swapping.
    reader = await asyncpg.connect(log.settings.database.url.get_secret_value())
    async with reader.transaction():
        await reader.fetch("SELECT 1 FROM read.jobs LIMIT 1")
        running = asyncio.create_task(rebuilt(log))
        await _until_swapping(log, running)
        with pytest.raises(runs.AlreadyRunning):
            await rebuilt(log)
        status, _, said = await commanded(log)
        assert status == 1
        assert "is running" in said
        assert await rebuilding.cancel(log.settings) is not None
        with pytest.raises(rebuilding.Cancelled):
            await running
    await reader.close()
    compare(before, await stored(log.database))
    assert not await log.database.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = 'next'::regnamespace")
    assert await rebuilding.cancel(log.settings) is None
    assert (await rebuilt(log)).run.state == "swapped"


async def test_another_one_than_the_interrupted_waits_for_it(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    await log.write(stream(33, WORKSPACES, 300))
    await project(log)
    monkeypatch.setattr(rebuilding, "PATIENCE_SECONDS", 0.1)
    reader = await asyncpg.connect(log.settings.database.url.get_secret_value())
    async with reader.transaction():
        await reader.fetch("SELECT 1 FROM read.jobs LIMIT 1")
        with pytest.raises(rebuilding.Busy):
            await rebuilt(log)
    await reader.close()
    with pytest.raises(rebuilding.Unfinished):
        await rebuilt(log, projections=("jobs",))
    with pytest.raises(rebuilding.Unfinished):
        await rolled_back(log)
    assert (await rebuilt(log)).run.state == "swapped"


@contextlib.asynccontextmanager
async def reading(log: Log) -> AsyncIterator[list[int]]:
    """Reads as the API makes them, over connections that keep their statements; how many there were.

    Fails if one fails, or if what a session sees goes back.
    """
    pool = await create_pool(log.settings.database, name="reader", size=3)
    count = [0]

    async def session(workspace: str) -> None:
        reached = 0
        while True:
            version = await queries.workspace_version(pool, workspace)
            assert version >= reached, f"{workspace} went back from {reached} to {version}"
            page = await queries.jobs_page(pool, workspace, limit=20)
            seen = max((row.job.version for row in page), default=0)
            for row in page[:2]:
                await queries.history(pool, workspace, row.job)
            assert not page or seen >= 1
            reached = version
            count[0] += 1
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(session(workspace)) for workspace in WORKSPACES[:3]]
    try:
        yield count
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await pool.close()
    assert [error for error in ended if not isinstance(error, asyncio.CancelledError)] == []


@pytest.mark.parametrize("small", [0, 1_000_000], ids=["in transactions", "at once"])
async def test_swaps_and_rollbacks_under_load_lose_nothing_and_no_read_fails_or_goes_back(
    log: Log, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(writing, "_SMALL", small)
    await log.write(stream(40, WORKSPACES, 1_000))
    async with projecting(log.settings):
        await log.stored_to_the_end()
        writing_on = asyncio.create_task(_write_on(log))
        async with reading(log) as reads:
            await rebuilt(log)
            for _ in range(3):
                await rolled_back(log)
            done = await rebuilt(log)
        writing_on.cancel()
        await asyncio.gather(writing_on, return_exceptions=True)
        await log.stored_to_the_end()
    assert reads[0] > 20
    assert (done.run.report.differing, done.run.report.verdicts) == (0, 0)
    assert await log.database.fetchval("SELECT min(generation) FROM log.cursors WHERE next_offset > 0") >= 5
    compare(fold_of(await log.read(EVENTS)), await stored(log.database))


async def _write_on(log: Log) -> None:
    seed = 1_000
    while True:
        seed += 1
        await log.write(stream(seed, WORKSPACES, random.Random(seed).choice([1, 5, 60])))
        await asyncio.sleep(0.1)


async def test_what_a_projector_remembers_of_damaged_rows_is_forgotten_at_the_swap(log: Log) -> None:
    records = one_job("team", epochs=30)
    await log.write(records[:8])
    await project(log)
    damaged = await log.database.execute(
        "UPDATE read.jobs SET state = convert_to(replace(convert_from(state, 'UTF8'), $1, $2), 'UTF8')",
        '"name":"job"',
        '"name":"bad"',
    )
    assert damaged == "UPDATE 1"
    async with projecting(log.settings):
        await log.write(records[8:12])
        await log.stored_to_the_end()
        done = await rebuilt(log, projections=("jobs",))
        assert [(d.projection, d.what, d.columns) for d in done.differences] == [("jobs", "altered", "state")]
        await log.write(records[12:])
        await log.stored_to_the_end()
    compare(fold_of(await log.read(EVENTS)), await stored(log.database))


async def test_a_verification_that_runs_is_waited_for(log: Log) -> None:
    await log.write(stream(50, WORKSPACES, 3_000))
    await project(log)
    for _ in range(3):
        found, done = await asyncio.gather(verify(log.settings, Wishes(processes=1)), rebuilt(log))
        assert found.ok, found.breaks
        assert done.run.state == "swapped"
        await project(log)


async def test_a_process_of_it_that_is_killed_ends_it_with_words_and_the_next_one_goes_on(log: Log) -> None:
    await log.write(stream(37, WORKSPACES, 6_000))
    await project(log)
    before = await stored(log.database)
    async with command(log, "--processes", "2") as process:
        parent = psutil.Process(process.pid)

        async def working() -> list[psutil.Process]:
            return [child for child in parent.children() if "spawn_main" in " ".join(child.cmdline())]

        for child in await until(working):
            child.kill()
        async with asyncio.timeout(60):
            _, said = await process.communicate()
    assert process.returncode == 1
    assert b"a process of the rebuild was killed" in said
    assert b"Traceback" not in said
    compare(before, await stored(log.database))
    await until(lambda: _is_free(log))
    status, document, told = await commanded(log)
    assert (status, document["state"]) == (0, "swapped"), told


@pytest.mark.parametrize("few", [0, 1000], ids=["a process of it", "itself, where there is little"])
async def test_who_loses_its_database_ends_it_with_words_and_the_next_one_goes_on(
    log: Log, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(rebuilding, "_FEW", few)
    await log.write(one_job("team"))
    await project(log)
    holder = await asyncpg.connect(log.settings.database.url.get_secret_value())
    async with holder.transaction():
        await holder.execute("LOCK TABLE log.journal IN ACCESS EXCLUSIVE MODE")  # What its process reads first.
        running = asyncio.create_task(rebuilt(log, processes=1))

        async def ended() -> bool:
            assert not running.done(), running.exception()
            return bool(
                await log.database.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                    " AND datname = current_database() AND application_name = 'ravand-rebuild'"
                )
            )

        await until(ended)
        with pytest.raises(children.Interrupted, match="terminating connection"):
            await running
    await holder.close()
    monkeypatch.undo()
    assert (await rebuilt(log)).run.state == "swapped"


class Looking:
    """A connection whose first query with this text is followed by what somebody else does at that moment."""

    def __init__(self, connection: asyncpg.Connection, text: str, then: Callable[[], Awaitable[Any]]) -> None:
        self._connection = connection
        self._text = text
        self._then: Callable[[], Awaitable[Any]] | None = then

    def __getattr__(self, name: str) -> Any:
        async def asked(query: str, *arguments: Any) -> Any:
            found = await getattr(self._connection, name)(query, *arguments)
            if self._then is not None and self._text in query:
                then, self._then = self._then, None
                await then()
            return found

        return asked


async def _begin_and_interrupt(log: Log) -> None:
    await log.write(one_job("team"))
    await project(log)
    reader = await asyncpg.connect(log.settings.database.url.get_secret_value())
    async with reader.transaction():
        await reader.fetch("SELECT 1 FROM read.jobs LIMIT 1")  # Which keeps it from swapping.
        running = asyncio.create_task(rebuilt(log))
        await _until_swapping(log, running)
        running.cancel()
        await asyncio.wait({running})
    await reader.close()
    await until(lambda: _is_free(log))


async def test_whoever_looks_at_one_in_the_moment_of_its_end_is_told_its_end(log: Log) -> None:
    await _begin_and_interrupt(log)
    assert (await runs.status(log.database)).partitions
    looking = Looking(log.database, "to_regclass($1)", lambda: rebuilding.cancel(log.settings))
    assert (await runs.status(looking)).partitions == ()
    assert (await runs.status(log.database)).state == "cancelled"


async def test_one_that_begins_while_somebody_looks_is_not_taken_for_an_interrupted_one(log: Log) -> None:
    await _begin_and_interrupt(log)
    other = await asyncpg.connect(log.settings.database.url.get_secret_value())
    looking = Looking(log.database, "pg_locks", lambda: other.execute("SELECT pg_advisory_lock($1, 0)", runs.LOCK))
    assert (await runs.status(looking)).state == "running"
    await other.close()
    await until(lambda: _is_free(log))
    assert (await runs.status(log.database)).state == "interrupted"


async def test_a_mistake_in_a_process_of_it_is_told_to_its_parent_and_without_a_parent_it_ends_in_silence(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> int:
        raise ZeroDivisionError("planted\nwith details")

    monkeypatch.setattr(children, "_one", broken)
    what: dict[str, Any] = {"kind": "rebuild", "projections": (), "dry_run": False, "report": runs.Report()}
    state: dict[str, Any] = {"state": "running", "phase": "replaying", "cancel": False, "error": None}
    run = runs.Run(id="run", actor="", step="", started_at=0, ended_at=None, **what, **state)
    for unread in (0, 1):  # An answer that the parent never reads makes another error of its end.
        ours, theirs = multiprocessing.Pipe()

        def serve(pipe: Connection = theirs) -> None:
            with pipe:
                asyncio.run(children._serve(pipe, log.settings, run))

        serving = asyncio.create_task(asyncio.to_thread(serve))
        for _ in range(1 + unread):
            ours.send((0, 1))
        said = await asyncio.to_thread(ours.recv)
        assert (type(said), str(said)) == (RuntimeError, "ZeroDivisionError: planted")
        await asyncio.to_thread(ours.poll, 60 * unread)
        ours.close()
        async with asyncio.timeout(60):
            await serving
