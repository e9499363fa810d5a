"""Sends heartbeats: one after the other, at once when something changed, and notices when this process was frozen."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from schemas import heartbeat
from schemas.heartbeat import Heartbeat
from workers.steady_producer import SteadyProducer


def awake_clock() -> float:
    """Seconds of a clock that goes on while the machine is suspended, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Pulse:
    """Beats for one key into one partition. A beat that is not acknowledged is waited for, so none overtakes another."""

    def __init__(
        self,
        producer: SteadyProducer,
        topic: str,
        make: Callable[[int], Heartbeat],
        *,
        interval: float,
        partition: int | None = None,
        on_frozen: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """`make` is given the sequence number, which counts from 1. `on_frozen` is told for how long nothing ran."""
        self._producer = producer
        self._topic = topic
        self._make = make
        self._interval = interval
        self._partition = partition
        self._on_frozen = on_frozen
        self._due = asyncio.Event()
        self.sequence = 0

    def soon(self) -> None:
        """Send the next one at once."""
        self._due.set()

    async def run(self) -> None:
        """Beat for ever; cancel it to end."""
        while True:
            await self.beat()
            before = awake_clock()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._due.wait()
            slept = awake_clock() - before
            if slept > 2 * self._interval:
                self._on_frozen(slept)

    async def beat(self) -> None:
        """Send one now; returns when it is acknowledged."""
        self._due.clear()
        self.sequence += 1
        beat = self._make(self.sequence)
        await self._producer.append(
            self._topic, key=beat.id.encode(), value=heartbeat.encode(beat), partition=self._partition
        )
