"""Publishes what a batch brought about: facts, rows of the table of jobs, dead letters.

Every message is acknowledged before the next newer one of its kind is sent, so that a failed send is followed by nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from aiokafka import AIOKafkaProducer

from adapters.kafka import partition_of, topic_name
from adapters.settings import KafkaSettings
from domain.job import Job
from projections.batch import KEY, OFFSET, REFUSAL, TAIL, TYPE, VALUE, VERSION, Batch, Row
from schemas import facts
from schemas.tables import OpenJob, encode_open_job
from schemas.topics import DEADLETTER, EVENTS, FACTS, JOBS

Message = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]
"""Key, value, headers."""
MAX_DEAD_BYTES = 1024 * 1024
"""A dead letter holds no more of a value than this."""


@lru_cache(maxsize=16_384)
def jobs_partition(job_id: str) -> int:
    """Where a job's row lies."""
    return partition_of(job_id.encode(), JOBS.partitions)


class Publisher:
    """Sends through one producer, which several partitions share."""

    def __init__(self, producer: AIOKafkaProducer, settings: KafkaSettings) -> None:
        self._producer = producer
        self._log = topic_name(settings, EVENTS)
        self._facts = topic_name(settings, FACTS)
        self._jobs = topic_name(settings, JOBS)
        self._dead = topic_name(settings, DEADLETTER)

    async def publish(self, batch: Batch) -> None:
        """Return once everything of the batch is acknowledged. Raises `KafkaError`; then some of it may have arrived."""
        async with asyncio.TaskGroup() as sends:
            sends.create_task(self.facts(batch.partition, batch.journal))
            sends.create_task(self.rows({**batch.shown, **batch.jobs}))
            if batch.errors:
                sends.create_task(self.dead_letters(batch.partition, batch.journal, batch.errors))

    async def facts(self, partition: int, journal: Iterable[Row]) -> None:
        """The facts of the effective ones among these journal rows, in order."""
        await self._send(self._facts, partition, (_fact(row) for row in journal if row[TAIL] is not None))

    async def rows(self, jobs: Mapping[tuple[str, str], Job]) -> None:
        """The rows of these jobs, tombstones for those that are over."""
        by_partition: dict[int, list[Message]] = {}
        for (workspace, job_id), job in jobs.items():
            by_partition.setdefault(jobs_partition(job_id), []).append(_row(workspace, job))
        async with asyncio.TaskGroup() as sends:
            for partition, messages in by_partition.items():
                sends.create_task(self._send(self._jobs, partition, messages))

    async def dead_letters(self, partition: int, journal: Sequence[Row], errors: Mapping[int, str]) -> None:
        """Copies of the records that could not be decoded, with where they lie and why; the journal has long ones whole."""
        for row in journal:
            if row[REFUSAL] != "undecodable":
                continue
            key, value = row[KEY], row[VALUE]
            if value is not None and len(value) > MAX_DEAD_BYTES:
                value = value[:MAX_DEAD_BYTES]  # A compressed batch may have held more than any batch of ours can.
            headers = [
                ("topic", self._log.encode()),
                ("partition", b"%d" % partition),
                ("offset", b"%d" % row[OFFSET]),
                ("error", errors.get(row[OFFSET], "undecodable").encode(errors="backslashreplace")[:1000]),
            ]
            await self._send(self._dead, partition_of(key or b"", DEADLETTER.partitions), [(key, value, headers)])

    async def _send(self, topic: str, partition: int, messages: Iterable[Message]) -> None:
        batch = self._producer.create_batch()
        for key, value, headers in messages:
            if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                await self._acknowledged(batch, topic, partition)
                batch = self._producer.create_batch()
                batch.append(key=key, value=value, timestamp=None, headers=headers)
        if batch.record_count():
            await self._acknowledged(batch, topic, partition)

    async def _acknowledged(self, batch: object, topic: str, partition: int) -> None:
        await (await self._producer.send_batch(batch, topic, partition=partition))


def _fact(row: Row) -> Message:
    headers = [
        ("ce_type", row[TYPE].encode()),
        (facts.VERSION_HEADER, b"%d" % row[VERSION]),
        (facts.POSITION_HEADER, b"%d" % row[OFFSET]),
    ]
    return row[KEY], facts.join(row[VALUE], row[TAIL]), headers


def _row(workspace: str, job: Job) -> Message:
    value = None if job.is_over else encode_open_job(OpenJob(workspace=workspace, job=job))
    headers = [(facts.VERSION_HEADER, b"%d" % job.version), (facts.WORKSPACE_HEADER, workspace.encode())]
    return job.id.encode(), value, headers
