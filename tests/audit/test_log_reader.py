"""Reading the log without a projector: what a silent broker is told as, and that no client outlives its reader."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from adapters import kafka
from audit.log_reader import LogReader, LogUnreadable
from schemas.topics import EVENTS
from tests.projections.platform import Log
from tests.projections.records import one_job


async def test_a_record_that_is_not_handed_out_ends_the_wait_and_is_named(log: Log) -> None:
    await log.write(one_job("team"))
    partition, end = next((number, end) for number, end in (await log.ends(EVENTS)).items() if end)
    reader = LogReader(log.settings.kafka, partition, silent_seconds=0.2)
    async with aclosing(reader.read(end + 1)) as batches:
        assert len(await anext(batches)) == end
        with pytest.raises(LogUnreadable, match=f"a record at offset {end} and did not hand it out"):
            await anext(batches)


async def test_a_client_that_does_not_end_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        async def stop(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(kafka, "PARTING_SECONDS", 0.01)
    stuck: Any = Stuck()
    await kafka.let_go(stuck)


async def test_whoever_waits_for_a_client_to_end_can_be_cancelled() -> None:
    begun = asyncio.Event()

    class Stuck:
        async def stop(self) -> None:
            begun.set()
            await asyncio.Event().wait()

    stuck: Any = Stuck()
    stopping = asyncio.create_task(kafka.let_go(stuck))
    await begun.wait()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
