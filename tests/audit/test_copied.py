"""Rows of PostgreSQL streamed as its binary COPY: however the stream is left, nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from audit import copied as module
from audit.copied import Copied, copied

ROWS = "SELECT repeat('x', 300000) FROM generate_series(1, $1)"
LENGTHS = range(1, 9)
"""So that in some of them the end has been received already when nobody reads any more."""
PATIENCE_SECONDS = 20.0


@pytest.fixture
async def connection(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    monkeypatch.setattr(module, "_DEPTH", 1)
    opened = await asyncpg.connect(database_url)
    yield opened
    opened.terminate()


class Enough(Exception):
    """A break was found."""


@pytest.mark.parametrize("length", LENGTHS)
async def test_after_a_break_the_connection_can_be_used_and_closed(connection: Any, length: int) -> None:
    async def read() -> None:
        async with copied(connection, ROWS, length) as rows:
            await rows.need(1)
            await _until_sending_stands(rows)
            raise Enough

    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(Enough):
            await read()
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()


@pytest.mark.parametrize("length", LENGTHS)
async def test_whoever_is_cancelled_is_gone_at_once_and_so_is_the_connection(connection: Any, length: int) -> None:
    reads = asyncio.Event()

    async def read() -> None:
        async with copied(connection, ROWS, length) as rows:
            await _until_sending_stands(rows)
            reads.set()
            await asyncio.Event().wait()

    async with asyncio.timeout(PATIENCE_SECONDS):
        reading = asyncio.create_task(read())
        await reads.wait()
        reading.cancel()
        await asyncio.wait({reading})
        assert reading.cancelled()
        await connection.close()


async def test_what_the_server_says_is_raised(connection: Any) -> None:
    async def read() -> None:
        async with copied(connection, "SELECT 1 / (3 - i) FROM generate_series(1, $1) AS i", 3) as rows:
            while await rows.row() is not None:
                await rows.skip()

    with pytest.raises(asyncpg.DivisionByZeroError):
        await read()
    assert await connection.fetchval("SELECT 1") == 1


async def _until_sending_stands(rows: Copied) -> None:
    """Until whoever sends waits for us, or has sent all."""
    while not (rows._queue._putters or rows._sending.done()):  # type: ignore[attr-defined]  # noqa: ASYNC110 — nobody tells.
        await asyncio.sleep(0)
