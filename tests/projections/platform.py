"""What the projector's tests share: the log, projectors in this process and in others, and waiting with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import asyncpg
import pytest
import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from structlog.testing import LogCapture

from adapters.kafka import consumer, partition_of, producer, topic_name
from adapters.settings import Settings
from projections.projector import run
from schemas.topics import EVENTS, Topic
from tests.projections.records import Written
from tests.servers import kafka_settings_of

DEADLINE = 60.0
ROOT = Path(__file__).resolve().parent.parent.parent


def settings_for(kafka: Mapping[str, str], prefix: str, database_url: str) -> Settings:
    """The settings of one platform on the shared servers."""
    return Settings.model_validate({"kafka": kafka_settings_of(kafka, prefix), "database": {"url": database_url}})


async def until(condition: Callable[[], Awaitable[Any]], deadline: float = DEADLINE) -> Any:
    """Wait until `condition` gives something true, and give that."""
    async with asyncio.timeout(deadline):
        while not (found := await condition()):  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.02)
        return found


class Said:
    """What a module logs from now on, also where something else in this process has set up logging already."""

    def __init__(self, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self._lines = LogCapture()
        every = structlog.make_filtering_bound_logger(0)
        monkeypatch.setattr(module, "log", structlog.wrap_logger(None, processors=[self._lines], wrapper_class=every))

    def of(self, event: str) -> list[dict[str, Any]]:
        """The details of each line that says this."""
        return [dict(line) for line in self._lines.entries if line["event"] == event]

    async def until(self, event: str) -> list[dict[str, Any]]:
        """The same, once there is one."""

        async def said() -> list[dict[str, Any]]:
            return self.of(event)

        found: list[dict[str, Any]] = await until(said)
        return found


@dataclass
class Log:
    """The topics of one platform, as a test writes and reads them, and its database."""

    settings: Settings
    producer: AIOKafkaProducer
    database: asyncpg.Connection

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, settings: Settings) -> AsyncIterator[Self]:
        """Connected."""
        sender = producer(settings.kafka, linger_ms=2)
        await sender.start()
        database = await asyncpg.connect(settings.database.url.get_secret_value())
        try:
            yield cls(settings, sender, database)
        finally:
            await sender.stop()
            await database.close()

    async def write(self, records: Sequence[Written]) -> None:
        """Append these, in order."""
        topic = topic_name(self.settings.kafka, EVENTS)
        by_partition: dict[int, list[Written]] = {}
        for record in records:
            partition = record.partition
            if partition is None:
                partition = partition_of(record.key or b"", EVENTS.partitions)
            by_partition.setdefault(partition, []).append(record)
        for partition, ordered in by_partition.items():
            batch = self.producer.create_batch()
            for record in ordered:
                content = {"key": record.key, "value": record.value, "headers": list(record.headers)}
                if batch.append(timestamp=None, **content) is None:
                    await (await self.producer.send_batch(batch, topic, partition=partition))
                    batch = self.producer.create_batch()
                    batch.append(timestamp=None, **content)
            await (await self.producer.send_batch(batch, topic, partition=partition))

    async def read(self, topic: Topic, partitions: Sequence[int] | None = None) -> list[Any]:
        """Everything that a topic holds now, by partition and offset."""
        reader = consumer(self.settings.kafka)
        await reader.start()
        try:
            numbers = range(topic.partitions) if partitions is None else partitions
            parts = [TopicPartition(topic_name(self.settings.kafka, topic), number) for number in numbers]
            reader.assign(parts)
            await reader.seek_to_beginning(*parts)
            ends = await reader.end_offsets(parts)
            found: list[Any] = []
            async with asyncio.timeout(DEADLINE):
                while any([await reader.position(part) < end for part, end in ends.items()]):
                    for records in (await reader.getmany(timeout_ms=200)).values():
                        found += records
            return sorted(found, key=lambda record: (record.partition, record.offset))
        finally:
            await reader.stop()

    async def ends(self, topic: Topic) -> dict[int, int]:
        """The end of each partition."""
        reader = consumer(self.settings.kafka)
        await reader.start()
        try:
            parts = [
                TopicPartition(topic_name(self.settings.kafka, topic), number) for number in range(topic.partitions)
            ]
            return {part.partition: end for part, end in (await reader.end_offsets(parts)).items()}
        finally:
            await reader.stop()

    async def stored_to_the_end(self) -> None:
        """Wait until everything that is in the log now is stored."""
        ends = {partition: end for partition, end in (await self.ends(EVENTS)).items() if end}

        cursors: dict[int, int] = {}

        async def stored() -> bool:
            rows = await self.database.fetch("SELECT partition, next_offset FROM log.cursors")
            cursors.update({row[0]: row[1] for row in rows if row[1]})
            return cursors == ends

        try:
            await until(stored)
        except TimeoutError as error:
            raise AssertionError(
                f"not stored to the end: the cursors are at {cursors}, the log ends at {ends}"
            ) from error

    def environment(self) -> dict[str, str]:
        """For a service in a process of its own."""
        kafka, path = self.settings.kafka, os.environ.get("PATH", "")
        password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else ""
        return {
            "PATH": path,
            "RAVAND_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "RAVAND_KAFKA__SECURITY_PROTOCOL": kafka.security_protocol,
            "RAVAND_KAFKA__SASL_MECHANISM": kafka.sasl_mechanism,
            "RAVAND_KAFKA__SASL_USERNAME": kafka.sasl_username or "",
            "RAVAND_KAFKA__SASL_PASSWORD": password,
            "RAVAND_KAFKA__PREFIX": kafka.prefix,
            "RAVAND_DATABASE__URL": self.settings.database.url.get_secret_value(),
        }


@contextlib.asynccontextmanager
async def projecting(settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    """A projector in this process; whatever it raised is raised here at the end."""
    stop = asyncio.Event()
    task = asyncio.create_task(run(settings, stop))
    try:
        yield task
    finally:
        stop.set()
        async with asyncio.timeout(DEADLINE):
            await task


async def project(log: Log) -> None:
    """Let a projector work off what the log holds now, and end it; what ends it before that is raised at once.

    Also what an earlier one had stored and not yet published when it was killed: a projector does that first, once it has
    the partition, and one that is stopped before it has it does not.
    """
    async with asyncio.timeout(DEADLINE):
        await _project(log)
        while await log.database.fetchval("SELECT bool_or(published < next_offset) FROM log.cursors"):
            await _project(log)


async def _project(log: Log) -> None:
    async with projecting(log.settings) as running:
        stored = asyncio.create_task(log.stored_to_the_end())
        await asyncio.wait({running, stored}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            stored.cancel()
            await asyncio.gather(stored, return_exceptions=True)
        else:
            await stored


@contextlib.asynccontextmanager
async def projector_process(log: Log) -> AsyncIterator[asyncio.subprocess.Process]:
    """A projector in a process of its own, killed at the end if it still lives."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", "projector", cwd=ROOT, env=log.environment(), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
