"""The records of one attempt, on their way to the log: in order, one at a time, the same bytes until acknowledged."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
from uuid_utils import uuid7

from domain.events import AttemptEvent
from schemas import envelope
from workers.steady_producer import SteadyProducer

HELD_BACK = 500
"""So many records may wait while the log is away; then whoever reports has to wait, and with it the training."""


class UnusableReport(ValueError):
    """An event cannot be written down: too large, or not what its schema allows."""


class Encoded(NamedTuple):
    """A record as it goes to Kafka."""

    value: bytes
    headers: list[tuple[str, bytes]]


class AttemptRecords:
    """Appends what happens in an attempt. While it is held, nothing new goes out."""

    def __init__(
        self,
        producer: SteadyProducer,
        topic: str,
        *,
        workspace: str,
        job_id: str,
        actor: str,
        source: str = "ravand/worker",
    ) -> None:
        """Nothing is sent before `run`. `actor` is the id of the worker or supervisor that writes."""
        self._producer = producer
        self._topic = topic
        self._workspace = workspace
        self._job_id = job_id
        self._actor = actor
        self._source = source
        self._cause: str | None = None
        self._queue: asyncio.Queue[Encoded] = asyncio.Queue(HELD_BACK)
        self._may_send = asyncio.Event()
        self._may_send.set()

    async def put(self, event: AttemptEvent) -> Encoded:
        """Hand over an event; waits while too many are waiting. Raises UnusableReport."""
        encoded = self._encoded(event)
        await self._queue.put(encoded)
        return encoded

    def repeat(self, encoded: Encoded) -> None:
        """Append the same bytes once more, unless others are waiting."""
        if self._queue.empty():
            self._queue.put_nowait(encoded)

    def hold(self) -> None:
        """Send nothing more for now."""
        self._may_send.clear()

    def go_on(self) -> None:
        """Send again."""
        self._may_send.set()

    async def flush(self) -> None:
        """Return once everything handed over is acknowledged."""
        await self._queue.join()

    async def run(self) -> None:
        """Send for ever; cancel it to end."""
        while True:
            encoded = await self._queue.get()
            await self._may_send.wait()
            await self._send(encoded)
            self._queue.task_done()

    async def append(self, event: AttemptEvent) -> None:
        """Append a single event, where there is no other; returns when it is acknowledged."""
        await self._send(self._encoded(event))

    async def _send(self, encoded: Encoded) -> None:
        await self._producer.append(
            self._topic, key=self._workspace.encode(), value=encoded.value, headers=encoded.headers
        )

    def _encoded(self, event: AttemptEvent) -> Encoded:
        record = envelope.record(
            event,
            id=str(uuid7()),
            source=self._source,
            subject=self._job_id,
            time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            workspace=self._workspace,
            actor=self._actor,
            correlationid=self._job_id,
            causationid=self._cause,
        )
        # The claim is what all that follows rests on.
        self._cause = self._cause or record.id
        try:
            value = envelope.encode(record)
            # A record that its readers would refuse as unreadable leaves a hole, after which nothing else counts.
            envelope.decode(value)
        except (envelope.UndecodableRecord, msgspec.MsgspecError, TypeError, ValueError) as error:
            raise UnusableReport(str(error)) from error
        return Encoded(value, envelope.headers(record))
