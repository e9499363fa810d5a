"""The smallest thing that judges: folds the log in memory and publishes the table of open jobs.

Its verdicts come from the same `judge` as everybody's. It keeps them, so that a test can ask what took effect and what
was refused; the real projector has tests of its own, with its database.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from adapters import kafka
from adapters.settings import KafkaSettings
from domain.events import AttemptStarted, Event
from domain.job import Job
from domain.refusal import Refusal
from domain.workspace import Effect, Workspace, judge
from schemas import envelope
from schemas.facts import VERSION_HEADER
from schemas.tables import OpenJob, encode_open_job
from schemas.topics import EVENTS, JOBS


@dataclass(frozen=True)
class Verdict:
    """One record of the log, with what came of it."""

    id: str
    actor: str
    subject: str
    event: Event
    at: int
    refusal: Refusal | None


@dataclass
class SmallProjector:
    """Start it with `async with`."""

    settings: KafkaSettings
    publishes: bool = True
    verdicts: list[Verdict] = field(default_factory=list)
    workspaces: dict[str, Workspace] = field(default_factory=dict)
    published: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _judging: asyncio.Event = field(default_factory=asyncio.Event)
    _still: set[str] = field(default_factory=set)
    _unjudged: list[Any] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> SmallProjector:
        self._judging.set()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def pause(self) -> None:
        """Judge nothing for a while."""
        self._judging.clear()

    def stand_still(self, workspace: str) -> None:
        """Judge nothing of this workspace, as when the projector of its partition has stopped."""
        self._still.add(workspace)

    def go_on(self) -> None:
        """Judge again, what was left lying first."""
        self._still.clear()
        self._judging.set()

    async def until(self, condition: Any, seconds: float = 60) -> Any:
        """Wait until the condition, asked after every record, answers something true; its answer."""
        async with asyncio.timeout(seconds):
            while not (answer := condition()):
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await self._changed.wait()
        return answer

    def job(self, job_id: str) -> Job | None:
        """The job as folded so far."""
        return next((w.jobs[job_id] for w in self.workspaces.values() if job_id in w.jobs), None)

    def records(self, job_id: str, kind: type[Event] | None = None, *, refused: bool = False) -> list[Any]:
        """The events of a job that took effect (or were refused), in the order of the log."""
        return [
            verdict.event
            for verdict in self.verdicts
            if verdict.subject == job_id
            and (verdict.refusal is not None) == refused
            and (kind is None or isinstance(verdict.event, kind))
        ]

    async def _run(self) -> None:
        while True:
            consumer = kafka.consumer(self.settings, auto_offset_reset="earliest")
            producer = kafka.producer(self.settings)
            try:
                consumer.assign(
                    [TopicPartition(kafka.topic_name(self.settings, EVENTS), n) for n in range(EVENTS.partitions)]
                )
                await consumer.start()
                await producer.start()
                self.workspaces.clear()
                self.verdicts.clear()
                self._unjudged.clear()
                while True:
                    found = (await consumer.getmany(timeout_ms=200)).values()
                    lying, self._unjudged = self._unjudged, []
                    for record in itertools.chain(lying, *found):
                        await self._judging.wait()
                        if (record.key or b"").decode() in self._still:
                            self._unjudged.append(record)
                        else:
                            await self._judge(producer, record)
            except KafkaError:
                await asyncio.sleep(0.2)
            finally:
                for client in (consumer, producer):
                    with contextlib.suppress(TimeoutError, KafkaError):
                        async with asyncio.timeout(2):
                            await client.stop()

    async def _judge(self, producer: Any, record: Any) -> None:
        document = envelope.decode(record.value)
        assert record.key == document.workspace.encode()
        workspace = self.workspaces.setdefault(document.workspace, Workspace(document.workspace))
        verdict = judge(
            workspace,
            id=document.id,
            subject=document.subject,
            actor=document.actor,
            event=document.data,
            at=record.timestamp,
        )
        refusal = verdict if isinstance(verdict, Refusal) else None
        self.verdicts.append(
            Verdict(document.id, document.actor, document.subject, document.data, record.timestamp, refusal)
        )
        job = verdict.job if isinstance(verdict, Effect) else None
        if refusal is not None and isinstance(document.data, AttemptStarted):
            job = workspace.jobs.get(document.subject)
        if job is not None and self.publishes:
            await self._publish(producer, document.workspace, job)
        self._changed.set()

    async def _publish(self, producer: Any, workspace: str, job: Job) -> None:
        value = None if job.is_over else encode_open_job(OpenJob(workspace=workspace, job=job))
        await producer.send_and_wait(
            kafka.topic_name(self.settings, JOBS),
            value,
            key=job.id.encode(),
            headers=[(VERSION_HEADER, str(job.version).encode())],
        )
        self.published += 1
