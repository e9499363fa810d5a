"""Fills a workspace with history, by appending to the log what users and workers would have appended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator

import uuid_utils
from aiokafka import AIOKafkaProducer

from adapters.kafka import partition_of, producer, topic_name
from adapters.settings import Settings
from domain.events import AttemptStarted, DatasetRef, EpochCompleted, Event, JobRequested
from schemas import envelope, topics

Line = tuple[str, Event, str]
"""Subject, event, actor."""


def requests(dataset: dict[str, str], count: int, epochs: int = 1000) -> Iterator[Line]:
    """Jobs that nobody will run."""
    reference = DatasetRef(
        id=dataset["id"], uri=f"datasets/{dataset['sha256']}", sha256=dataset["sha256"], format="csv"
    )
    for number in range(count):
        yield (
            str(uuid_utils.uuid7()),
            JobRequested(
                name=f"job {number}",
                recipe="tabular",
                recipe_version=1,
                parameters={
                    "target": "species",
                    "epochs": epochs,
                    "batch_size": 64,
                    "learning_rate": 0.001,
                    "seed": number,
                },
                epochs=epochs,
                dataset=reference,
                model="penguins",
                max_losses=3,
            ),
            "bench",
        )


def epochs(job_id: str, count: int, worker: str = "bench-worker") -> Iterator[Line]:
    """An attempt of that job with so many epochs."""
    yield job_id, AttemptStarted(attempt=1, worker=worker), worker
    for epoch in range(1, count + 1):
        metrics = {
            "loss": 1 / epoch,
            "val_loss": 1.1 / epoch,
            "accuracy": 1 - 0.5 / epoch,
            "val_accuracy": 1 - 0.6 / epoch,
        }
        yield job_id, EpochCompleted(attempt=1, worker=worker, epoch=epoch, metrics=metrics, seconds=0.1), worker


def record(workspace: str, line: Line) -> envelope.Envelope:
    """The line in its envelope; a request's id is its subject."""
    subject, event, actor = line
    id = subject if isinstance(event, JobRequested) else str(uuid_utils.uuid7())
    return envelope.record(
        event, id=id, source="bench", subject=subject, time="2026-01-01T00:00:00Z", workspace=workspace, actor=actor
    )


async def append(settings: Settings, workspace: str, lines: Iterable[Line]) -> int:
    """Append all, in order; answer how many."""
    client = producer(settings.kafka, linger_ms=5)
    await client.start()
    try:
        return await _append(client, settings, workspace, lines)
    finally:
        await client.stop()


async def _append(client: AIOKafkaProducer, settings: Settings, workspace: str, lines: Iterable[Line]) -> int:
    topic, key = topic_name(settings.kafka, topics.EVENTS), workspace.encode()
    partition = partition_of(key, topics.EVENTS.partitions)
    count, last = 0, None
    for line in lines:
        last = await client.send(topic, envelope.encode(record(workspace, line)), key=key, partition=partition)
        count += 1
    if last is not None:
        await last
    await client.flush()
    return count


async def until_version(settings: Settings, workspace: str, version: int, deadline: float = 300.0) -> None:
    """Wait until the read model has the workspace's version."""
    import asyncpg

    connection = await asyncpg.connect(settings.database.url.get_secret_value())
    try:
        until = time.monotonic() + deadline
        query = "SELECT max(version) FROM log.workspaces WHERE workspace = $1"
        while (await connection.fetchval(query, workspace) or 0) < version:
            if time.monotonic() > until:
                raise TimeoutError(f"version {version} was not reached")
            await asyncio.sleep(0.05)
    finally:
        await connection.close()
