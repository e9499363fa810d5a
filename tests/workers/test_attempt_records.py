"""Records of an attempt go to the log in order, one at a time, and only so many wait."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

import pytest

from domain.events import AttemptStarted, EpochCompleted
from schemas import envelope
from schemas.telemetry import AnyTelemetry, LogLines, StepMetrics
from schemas.telemetry import decode as decode_telemetry
from workers.attempt_records import HELD_BACK, AttemptRecords, UnusableReport
from workers.child_messages import Logged, StepMeasured
from workers.measurements import LINES_HELD, Measurements
from workers.steady_producer import SteadyProducer


class SlowLog:
    """Takes a record when it is let; notices if two are under way."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.under_way = 0
        self.most = 0
        self.open = asyncio.Event()
        self.open.set()

    async def append(self, topic: str, *, key: bytes, value: bytes, headers: Any = ()) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.open.wait()
        await asyncio.sleep(0)
        self.values.append(value)
        self.under_way -= 1

    @property
    def epochs(self) -> list[int]:
        return [cast(EpochCompleted, envelope.decode(value).data).epoch for value in self.values]

    @property
    def measured(self) -> list[AnyTelemetry]:
        return [decode_telemetry(value) for value in self.values]


def records(log: SlowLog) -> AttemptRecords:
    return AttemptRecords(cast(SteadyProducer, log), "events", workspace="ws", job_id="job", actor="w")


def epoch(number: int, **metrics: float) -> EpochCompleted:
    return EpochCompleted(attempt=1, worker="w", epoch=number, metrics=metrics)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class TestOrder:
    async def test_one_at_a_time_in_the_order_they_were_put(self) -> None:
        log = SlowLog()
        sent = records(log)
        sending = asyncio.create_task(sent.run())
        for number in range(1, 50):
            await sent.put(epoch(number))
        async with asyncio.timeout(10):
            await sent.flush()
        assert log.epochs == list(range(1, 50))
        assert log.most == 1
        await ended(sending)

    async def test_when_too_many_wait_whoever_reports_waits_too(self) -> None:
        log = SlowLog()
        log.open.clear()
        sent = records(log)
        sending = asyncio.create_task(sent.run())
        for number in range(1, HELD_BACK + 2):
            await sent.put(epoch(number))
            await asyncio.sleep(0)
        late = asyncio.create_task(sent.put(epoch(HELD_BACK + 2)))
        await asyncio.sleep(0.05)
        assert not late.done()
        log.open.set()
        async with asyncio.timeout(10):
            await late
        async with asyncio.timeout(10):
            await sent.flush()
        assert log.epochs == list(range(1, HELD_BACK + 3))
        await ended(sending)

    async def test_while_it_is_held_nothing_new_goes_out(self) -> None:
        log = SlowLog()
        sent = records(log)
        sent.hold()
        sending = asyncio.create_task(sent.run())
        await sent.put(epoch(1))
        await asyncio.sleep(0.05)
        assert log.values == []
        sent.go_on()
        async with asyncio.timeout(10):
            await sent.flush()
        assert log.epochs == [1]
        await ended(sending)


class TestRecords:
    async def test_a_claim_repeated_is_the_same_bytes(self) -> None:
        log = SlowLog()
        sent = records(log)
        sending = asyncio.create_task(sent.run())
        claim = await sent.put(AttemptStarted(attempt=1, worker="w"))
        await sent.flush()
        sent.repeat(claim)
        await sent.flush()
        assert log.values[0] == log.values[1]
        await ended(sending)

    async def test_all_that_follows_names_the_claim_as_its_cause(self) -> None:
        log = SlowLog()
        sent = records(log)
        await sent.append(AttemptStarted(attempt=1, worker="w"))
        await sent.append(epoch(1))
        claim, done = (envelope.decode(value) for value in log.values)
        assert (claim.causationid, done.causationid) == (None, claim.id)
        assert (done.subject, done.actor, done.workspace, done.correlationid) == ("job", "w", "ws", "job")

    @pytest.mark.parametrize(
        "event", [epoch(1, loss=float("nan")), epoch(1, **{"x" * 300_000: 1.0}), epoch(1, **{"a\0b": 1.0}), epoch(-1)]
    )
    async def test_what_readers_would_refuse_is_not_written(self, event: EpochCompleted) -> None:
        log = SlowLog()
        with pytest.raises(UnusableReport):
            await records(log).put(event)
        assert log.values == []


class TestMeasurements:
    def measuring(self, log: SlowLog) -> Measurements:
        return Measurements(cast(SteadyProducer, log), "telemetry", workspace="ws", job_id="job", attempt=1)

    async def test_of_steps_the_latest_wins(self) -> None:
        log = SlowLog()
        measuring = self.measuring(log)
        for step in range(5):
            measuring.step(StepMeasured(epoch=1, step=step, metrics={"loss": 1.0}, time=1.0))
        await measuring.flush()
        (found,) = log.measured
        assert isinstance(found, StepMetrics)
        assert found.step == 4

    async def test_a_flood_while_lines_are_being_sent_is_told_too(self) -> None:
        log = SlowLog()
        measuring = self.measuring(log)
        measuring.line(Logged(stream="stdout", text="first", time=1.0))
        log.open.clear()
        flushing = asyncio.create_task(measuring.flush())
        await asyncio.sleep(0.01)
        for number in range(3 * LINES_HELD):
            measuring.line(Logged(stream="stdout", text=f"line {number}", time=1.0))
        log.open.set()
        async with asyncio.timeout(10):
            await flushing
        await measuring.flush()
        lines = [text for one in log.measured if isinstance(one, LogLines) for _, text in one.lines]
        assert lines[0] == "first"
        assert f"{2 * LINES_HELD + 1} lines left out" in lines[1]
        assert lines[-1] == f"line {3 * LINES_HELD - 1}"

    async def test_lines_keep_their_order_and_the_oldest_go_first_with_a_word_about_it(self) -> None:
        log = SlowLog()
        measuring = self.measuring(log)
        for number in range(LINES_HELD + 7):
            measuring.line(Logged(stream="stdout", text=f"line {number}", time=1.0))
        await measuring.flush()
        batches = [one for one in log.measured if isinstance(one, LogLines)]
        lines = [text for batch in batches for _, text in batch.lines]
        assert "left out" in lines[0]
        assert lines[-1] == f"line {LINES_HELD + 6}"
        assert lines[-5:] == sorted(lines[-5:])
        assert [batch.sequence for batch in batches] == list(range(1, len(batches) + 1))
