"""Who waits for a verdict gets it with the commit, and also when the announcement brings nothing or never comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from adapters.settings import Settings
from api.listener import Listener
from api.verdicts import Verdict, Verdicts
from api.versions import home
from projections import announcements
from tests.api.platform import until_said

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORKSPACE = "team"
PARTITION = home(WORKSPACE)
_STORE = """
INSERT INTO log.requests (workspace, id, partition, "offset", type, subject, version, refusal, requesthash)
VALUES ($1, $2, $3, 1, 'ravand.JobRequested', $2, 7, NULL, 'stored')
"""


@pytest_asyncio.fixture(loop_scope="module")
async def database(module_settings: Settings) -> AsyncIterator[asyncpg.Pool]:
    """The tables, and nobody who writes them but the tests."""
    async with asyncpg.create_pool(module_settings.database.url.get_secret_value(), min_size=1, max_size=4) as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module")
async def verdicts(database: asyncpg.Pool, module_settings: Settings) -> AsyncIterator[Verdicts]:
    """Waiting, on a listener that hears."""
    listener = Listener(module_settings.database)
    made = Verdicts(database, listener)
    hearing = asyncio.Event()
    listener.on_change(lambda connected: hearing.set() if connected else None)
    running = asyncio.create_task(listener.run())
    await hearing.wait()
    yield made
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def commit(database: asyncpg.Pool, next_offset: int, told: str = "", *, store: str | None = None) -> None:
    """What the projector does: rows, the verdicts that fit, and how far the partition is."""
    async with database.acquire() as connection, connection.transaction():
        if store:
            await connection.execute(_STORE, WORKSPACE, store, PARTITION)
        if told:
            await connection.execute("SELECT pg_notify($1, $2)", announcements.VERDICTS, told)
        payload = announcements.commit(PARTITION, next_offset)
        await connection.execute("SELECT pg_notify($1, $2)", announcements.COMMITS, payload)


def row(id: str, requesthash: str = "told") -> tuple[Any, ...]:
    return (WORKSPACE, id, PARTITION, 1, "ravand.JobRequested", id, 7, None, requesthash)


async def soon(verdict: asyncio.Future[Verdict]) -> Verdict:
    async with asyncio.timeout(10):
        return await verdict


async def test_a_verdict_comes_with_its_commit_and_is_not_looked_up(verdicts: Verdicts, database: asyncpg.Pool) -> None:
    with verdicts.expected(WORKSPACE, "a") as awaited:
        # Nothing is stored: what is answered can only be what was told.
        await commit(database, 10, announcements.verdicts(PARTITION, 10, [row("a"), row("other")]))
        assert await soon(awaited) == Verdict(
            id="a", type="ravand.JobRequested", subject="a", version=7, refusal=None, requesthash="told"
        )


async def test_a_commit_that_tells_no_verdicts_is_looked_into(verdicts: Verdicts, database: asyncpg.Pool) -> None:
    with verdicts.expected(WORKSPACE, "b") as awaited:
        await commit(database, 20, store="b")
        assert (await soon(awaited)).requesthash == "stored"


async def test_verdicts_told_with_an_earlier_commit_do_not_stand_for_a_later_one(
    verdicts: Verdicts, database: asyncpg.Pool
) -> None:
    with verdicts.expected(WORKSPACE, "c") as awaited:
        await commit(database, 30, announcements.verdicts(PARTITION, 30, [row("other")]))
        await commit(database, 31, store="c")
        assert (await soon(awaited)).requesthash == "stored"


async def test_an_announcement_that_never_came_delays_and_loses_nothing(
    verdicts: Verdicts, database: asyncpg.Pool
) -> None:
    with verdicts.expected(WORKSPACE, "d") as awaited:
        await database.execute(_STORE, WORKSPACE, "d", PARTITION)
        assert (await soon(awaited)).requesthash == "stored"


async def test_everybody_who_waits_for_one_id_gets_it(verdicts: Verdicts, database: asyncpg.Pool) -> None:
    with verdicts.expected(WORKSPACE, "e") as first, verdicts.expected(WORKSPACE, "e") as second:
        await commit(database, 40, announcements.verdicts(PARTITION, 40, [row("e")]))
        assert await soon(first) == await soon(second)


async def test_a_notification_that_nobody_can_read_is_reported_and_the_next_ones_are_heard(
    verdicts: Verdicts, database: asyncpg.Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    with verdicts.expected(WORKSPACE, "f") as awaited:
        for channel in (announcements.VERDICTS, announcements.COMMITS):
            await database.execute("SELECT pg_notify($1, 'nonsense')", channel)
        await commit(database, 50, announcements.verdicts(PARTITION, 50, [row("f")]))
        assert (await soon(awaited)).requesthash == "told"
    assert capsys.readouterr().err.count("a notification could not be handled") == 2


async def test_a_table_that_cannot_be_read_is_reported_and_verdicts_come_once_it_can(
    verdicts: Verdicts, database: asyncpg.Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    await database.execute(_STORE, WORKSPACE, "g", PARTITION)
    await database.execute("ALTER TABLE log.requests RENAME TO requests_away")
    try:
        with verdicts.expected(WORKSPACE, "g") as awaited:
            await until_said(capsys, "verdicts could not be read")
            await database.execute("ALTER TABLE log.requests_away RENAME TO requests")
            assert (await soon(awaited)).requesthash == "stored"
    finally:
        await database.execute("ALTER TABLE IF EXISTS log.requests_away RENAME TO requests")
