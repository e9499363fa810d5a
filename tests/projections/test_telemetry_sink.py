"""The telemetry sink on real servers: nothing twice, nothing lost, poison skipped."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import msgspec
import pytest
from pydantic import SecretStr

from adapters.kafka import topic_name
from adapters.postgres import create_pool
from adapters.settings import Settings
from projections import telemetry_sink
from projections.telemetry_rows import rows, write
from schemas.telemetry import AnyTelemetry, LogLines, ResourceSample, StepMetrics, encode
from schemas.topics import TELEMETRY
from tests.projections.platform import DEADLINE, Log, Said, until


@contextlib.asynccontextmanager
async def sinking(settings: Settings) -> AsyncIterator[None]:
    """A sink in this process."""
    stop = asyncio.Event()
    task = asyncio.create_task(telemetry_sink.run(settings, stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(DEADLINE):
            await task


def _steps(count: int, first: int = 0) -> list[AnyTelemetry]:
    return [
        StepMetrics(
            workspace="team", job_id="job", attempt=1, sequence=n, at=1000 + n, epoch=1, step=n, metrics={"loss": 0.5}
        )
        for n in range(first, first + count)
    ]


async def _write(log: Log, values: Sequence[AnyTelemetry | bytes | None]) -> None:
    topic = topic_name(log.settings.kafka, TELEMETRY)
    for value in values:
        raw = value if value is None or isinstance(value, bytes) else encode(value)
        await log.producer.send(topic, raw, key=b"job", headers=[("ce_type", b"x")])
    await log.producer.flush()


async def _count(log: Log, table: str = "step_metrics") -> int:
    return int(await log.database.fetchval(f"SELECT count(*) FROM telemetry.{table}"))


async def _until_stored(log: Log, count: int) -> None:
    async def stored() -> bool:
        return await _count(log) == count

    await until(stored)


async def test_each_kind_becomes_rows(log: Log) -> None:
    lines = LogLines(workspace="team", job_id="job", attempt=1, sequence=1, at=5, lines=(("stdout", "سلام"),))
    sample = ResourceSample(
        workspace="team", job_id="job", attempt=1, sequence=2, at=6, cpu_percent=12.5, memory_bytes=2**40
    )
    async with sinking(log.settings):
        await _write(log, [*_steps(3), lines, sample])
        await _until_stored(log, 3)

        async def others() -> bool:
            return await _count(log, "log_lines") == 1 and await _count(log, "resource_samples") == 1

        await until(others)
    row = await log.database.fetchrow("SELECT * FROM telemetry.log_lines")
    assert msgspec.json.decode(row["lines"]) == [["stdout", "سلام"]]
    sampled = await log.database.fetchrow(
        "SELECT cpu_percent, memory_bytes, gpu_percent FROM telemetry.resource_samples"
    )
    assert tuple(sampled) == (12.5, 2**40, None)


async def test_the_largest_numbers_and_names_that_can_be_read_have_room_in_their_columns(log: Log) -> None:
    last, most = 2**31 - 1, 2**53
    key: dict[str, Any] = {"workspace": "\U0001f600" * 128, "job_id": "\U0001f601" * 128, "attempt": last, "at": most}
    whole: list[AnyTelemetry] = [
        StepMetrics(**key, sequence=most, epoch=last, step=most, metrics={"loss": 1e308}),
        LogLines(**key, sequence=most, lines=(("stdout", ""),)),
        ResourceSample(**key, sequence=most, cpu_percent=1e308, memory_bytes=most, gpu_memory_bytes=most),
    ]
    made, poison = rows(encode(one) for one in whole)
    assert (len(made), poison) == (3, 0)
    async with asyncpg.create_pool(log.settings.database.url.get_secret_value(), min_size=1, max_size=1) as pool:
        await write(pool, made)
    assert [await _count(log, table) for table in ("step_metrics", "log_lines", "resource_samples")] == [1, 1, 1]


async def test_poison_is_skipped_and_the_rest_is_kept(log: Log) -> None:
    [huge] = _steps(1, first=2**53 - 1)
    poison = [b"", b"{", b'{"type":"unknown"}', None, encode(huge).replace(b"9007199254740991", b"9" * 30)]
    async with sinking(log.settings):
        await _write(log, [*_steps(2), *poison, *_steps(2, first=2)])
        await _until_stored(log, 4)


async def test_what_comes_twice_is_stored_once(log: Log) -> None:
    async with sinking(log.settings):
        await _write(log, [*_steps(5), *_steps(8)])
        await _until_stored(log, 8)


async def test_what_was_not_stored_is_not_acknowledged(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said(telemetry_sink, monkeypatch)
    await log.database.execute("ALTER TABLE telemetry.step_metrics RENAME TO elsewhere")
    await _write(log, _steps(50))
    async with sinking(log.settings):
        [failed, *_] = await said.until("measurements cannot be written; they are tried again")
    assert "step_metrics" in str(failed["exc_info"])
    await log.database.execute("ALTER TABLE telemetry.elsewhere RENAME TO step_metrics")
    async with sinking(log.settings):
        await _write(log, _steps(10, first=50))
        await _until_stored(log, 60)


async def test_sessions_that_the_server_ends_lose_nothing(log: Log) -> None:
    async with sinking(log.settings):
        for round in range(5):
            await _write(log, _steps(40, first=40 * round))
            await log.database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'ravand-telemetry'"
            )
        await _until_stored(log, 200)


async def test_what_cannot_be_stored_now_is_kept_until_it_can_or_it_is_told_to_stop(log: Log) -> None:
    url = log.settings.database.url.get_secret_value()
    away = log.settings.model_copy(deep=True)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # And does not listen.
        away.database.url = SecretStr(re.sub(r"@[^/]+/", f"@127.0.0.1:{nobody.getsockname()[1]}/", url))
        pool = await create_pool(away.database, name="telemetry", size=1, min_size=0)
        stop = asyncio.Event()
        sink = telemetry_sink.Sink(pool, stop)
        begun = sink.last_progress
        storing = asyncio.create_task(sink.store([encode(value) for value in _steps(1)]))

        async def tried() -> bool:
            return sink.last_progress > begun

        await until(tried)
        assert not storing.done()
        stop.set()
        async with asyncio.timeout(DEADLINE):
            assert not await storing
        pool.terminate()

        # As a service it waits in the same way, from its first look at the tables on.
        async with sinking(away):
            await _write(log, _steps(1))
    async with sinking(log.settings):
        await _until_stored(log, 1)


async def test_what_its_library_says_is_said_in_our_form(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """By FastStream's own logger it would come past the handler that hides secrets, whose place pytest's has here."""

    async def said() -> bool:
        return "Auto create topics is disabled" in caplog.text

    async with sinking(log.settings):
        await until(said)
