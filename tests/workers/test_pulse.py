"""A pulse beats when something changed, and ends when it is told to, whatever else happens in that turn."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from schemas.heartbeat import Heartbeat
from workers.pulse import Pulse
from workers.steady_producer import SteadyProducer

HOUR = 3600.0


class Acknowledging:
    """Takes every record at once."""

    def __init__(self) -> None:
        self.beats = 0

    async def append(self, *_: Any, **__: Any) -> None:
        self.beats += 1


def _pulse(producer: Acknowledging) -> Pulse:
    def beat(sequence: int) -> Heartbeat:
        return Heartbeat(kind="worker", id="worker", state="idle", sequence=sequence, started_at=0)

    return Pulse(cast(SteadyProducer, producer), "heartbeats", beat, interval=HOUR)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_it_beats_at_once_when_something_changed() -> None:
    producer = Acknowledging()
    pulse = _pulse(producer)
    running = asyncio.create_task(pulse.run())
    try:
        await _turns(5)
        assert producer.beats == 1
        pulse.soon()
        await _turns(5)
        assert producer.beats == 2
    finally:
        running.cancel()


@pytest.mark.parametrize("turns", range(6))
async def test_it_ends_when_told_to_in_any_turn_after_a_change(turns: int) -> None:
    pulse = _pulse(Acknowledging())
    running = asyncio.create_task(pulse.run())
    await _turns(5)
    pulse.soon()
    await _turns(turns)
    running.cancel()
    await _turns(10)
    assert running.cancelled()
