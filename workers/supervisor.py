"""The supervisor: proposes that an attempt is lost when its worker has been silent past its lease.

Any number may run: the order of the log decides, and a second proposal is refused. `workers.silence` decides; here is
what reads and writes for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from uuid_utils import uuid7

from adapters.kafka import partition_of, topic_name
from adapters.settings import Settings
from domain.events import AttemptLost
from schemas import heartbeat
from schemas.heartbeat import Heartbeat
from schemas.tables import OpenJob
from schemas.topics import EVENTS, HEARTBEATS, JOBS
from workers.attempt_records import AttemptRecords
from workers.job_table import JobTable
from workers.pulse import Pulse
from workers.silence import Held, Silence
from workers.steady_producer import SteadyProducer, quieten_client
from workers.tail import Tail

LONGEST_STEP = 1.0
"""Seconds between two beats of ours, at most: it adds to the time until a loss is noticed."""


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Watch until `stop` is set."""
    quieten_client()
    supervisor = Supervisor(settings)
    try:
        await supervisor.run(stop)
    finally:
        await supervisor.close()


class Supervisor:
    """One supervisor process."""

    def __init__(self, settings: Settings) -> None:
        """Connects to nothing yet."""
        self.id = f"supervisor-{uuid7()}"
        lease = settings.worker.lease_seconds
        step = min(LONGEST_STEP, lease / 10)
        self._log = structlog.get_logger("supervisor")
        self._lease = lease
        self._events = topic_name(settings.kafka, EVENTS)
        self._producer = SteadyProducer(settings.kafka)
        self._silence = Silence(
            self.id,
            lease=lease,
            step=step,
            partition_of=lambda worker: partition_of(worker.encode(), HEARTBEATS.partitions),
        )
        # Little of each row is kept: a supervisor stays small however many jobs wait.
        self._table: JobTable[tuple[str, Held | None]] = JobTable(_held_in)
        self._jobs = Tail(settings.kafka, JOBS, self._on_rows, at_leisure=True)
        self._beats = Tail(settings.kafka, HEARTBEATS, self._on_beats)
        self._started_at = int(time.time() * 1000)
        beats = topic_name(settings.kafka, HEARTBEATS)
        self._pulses = [
            Pulse(self._producer, beats, self._heartbeat, interval=step, partition=partition)
            for partition in range(HEARTBEATS.partitions)
        ]
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop` is set. Raises what should never happen, so that somebody starts us again."""
        self._log.info("starting", supervisor=self.id, lease_seconds=self._lease)
        for work in (self._jobs.run(), self._beats.run(), *(pulse.run() for pulse in self._pulses)):
            self._spawn(work)
        stopped = asyncio.create_task(stop.wait())
        either: set[asyncio.Future[Any]] = {stopped, self._failed}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        if self._failed.done():
            self._failed.result()
        self._log.info("gone", supervisor=self.id)

    async def close(self) -> None:
        """Let go of everything."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._failed.done():
            self._failed.cancel()
        await self._producer.close()

    def _on_rows(self, records: Sequence[Any]) -> None:
        for job_id in self._table.apply(records):
            row = self._table.rows.get(job_id)
            self._silence.row(job_id, row.value[1] if row is not None else None)

    def _on_beats(self, records: Sequence[Any]) -> None:
        now = time.monotonic()
        for record in records:
            if record.value is None:
                continue
            try:
                beat = heartbeat.decode(record.value)
            except msgspec.MsgspecError:
                continue
            self._silence.beat(record.partition, beat, now)
        # The table must have been read as far as it goes, or somebody's old attempt would be taken for a running one.
        if self._jobs.caught_up.is_set():
            for held in self._silence.lost():
                self._spawn(self._give_up(held))

    async def _give_up(self, held: Held) -> None:
        workspace = self._table.rows[held.job_id].value[0]
        self._log.warning(
            "a worker is silent; its job is given up on", job=held.job_id, attempt=held.attempt, worker=held.worker
        )
        records = AttemptRecords(
            self._producer,
            self._events,
            workspace=workspace,
            job_id=held.job_id,
            actor=self.id,
            source="ravand/supervisor",
        )
        await records.append(AttemptLost(attempt=held.attempt, worker=held.worker, reason="lease_expired"))

    def _heartbeat(self, sequence: int) -> Heartbeat:
        return Heartbeat(id=self.id, kind="supervisor", state="idle", sequence=sequence, started_at=self._started_at)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._failed.done():
            self._failed.set_exception(error)


def _held_in(row: OpenJob) -> tuple[str, Held | None]:
    job = row.job
    return row.workspace, Held(job.id, job.attempt, job.worker) if job.worker is not None else None
