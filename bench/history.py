"""A history to measure on: workspaces whose jobs of a hundred epochs each are requested, trained and finished."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from itertools import islice

from aiokafka import AIOKafkaProducer

from adapters.kafka import producer, topic_name
from adapters.settings import KafkaSettings
from domain.events import (
    AttemptStarted,
    CheckpointSaved,
    DatasetRef,
    DatasetRegistered,
    EpochCompleted,
    Event,
    JobRequested,
    ModelRegistered,
    ObjectRef,
    StoredFile,
)
from projections.reading import home
from schemas.envelope import encode, headers, record
from schemas.topics import EVENTS

EPOCHS = 100
_SHA = "0" * 64
Record = tuple[str, bytes, list[tuple[str, bytes]]]


def records_of(workspace: str, count: int, jobs_at_once: int = 20) -> Iterator[Record]:
    """A workspace's life: a dataset, then jobs, some at once, each requested, trained for its epochs and finished."""
    for subject, actor, event in islice(_life(workspace, jobs_at_once), count):
        envelope = record(
            event,
            id=subject if event.is_request else str(uuid.uuid4()),
            source="ravand://bench/worker",
            subject=subject,
            time="2026-01-01T00:00:00.000Z",
            workspace=workspace,
            actor=actor,
            correlationid=subject,
            traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
        yield workspace, encode(envelope), headers(envelope)


def _life(workspace: str, jobs_at_once: int) -> Iterator[tuple[str, str, Event]]:
    dataset = DatasetRef(id=str(uuid.uuid4()), uri=f"datasets/{_SHA}", sha256=_SHA, format="csv")
    profile = ObjectRef(uri=f"profiles/{_SHA}", sha256=_SHA)
    registered = DatasetRegistered(
        name="bench", uri=dataset.uri, sha256=_SHA, format="csv", bytes=1000, rows=100, profile=profile
    )
    yield dataset.id, "user", registered
    while True:
        running = [_job(dataset) for _ in range(jobs_at_once)]
        while running:
            for job in list(running):
                try:
                    yield next(job)
                except StopIteration:
                    running.remove(job)


def _job(dataset: DatasetRef) -> Iterator[tuple[str, str, Event]]:
    job, worker = str(uuid.uuid4()), str(uuid.uuid4())
    parameters = {"target": "label", "epochs": EPOCHS, "batch_size": 64, "learning_rate": 0.001, "seed": 7}
    yield (
        job,
        "user",
        JobRequested(
            name="bench",
            recipe="tabular",
            recipe_version=1,
            parameters=parameters,
            epochs=EPOCHS,
            dataset=dataset,
            model="bench",
            max_losses=3,
        ),
    )
    yield job, worker, AttemptStarted(attempt=1, worker=worker)
    for epoch in range(1, EPOCHS + 1):
        metrics = {"loss": 1 / epoch, "val_loss": 1.1 / epoch, "accuracy": 1 - 0.5 / epoch, "val_accuracy": 0.98765432}
        yield job, worker, EpochCompleted(attempt=1, worker=worker, epoch=epoch, metrics=metrics, seconds=1.25)
        if epoch % 10 == 0:
            uri = f"jobs/{job}/1/{epoch}.checkpoint"
            yield job, worker, CheckpointSaved(attempt=1, worker=worker, epoch=epoch, step=epoch, uri=uri, sha256=_SHA)
    files = (StoredFile(name="model.safetensors", uri=f"models/{job}", sha256=_SHA, bytes=1000),)
    yield (
        job,
        worker,
        ModelRegistered(attempt=1, worker=worker, last_epoch=EPOCHS, model="bench", files=files, metrics=metrics),
    )


def workspaces_over(partitions: Sequence[int], each: int = 4) -> list[str]:
    """Workspace ids, so many of each partition."""
    found: dict[int, list[str]] = {partition: [] for partition in partitions}
    while any(len(ids) < each for ids in found.values()):
        id = str(uuid.uuid4())
        ids = found.get(home(id.encode()))
        if ids is not None and len(ids) < each:
            ids.append(id)
    return [id for ids in found.values() for id in ids]


async def fill(settings: KafkaSettings, count: int, partitions: Sequence[int]) -> float:
    """Append the backlog; the mean size of a value."""
    sender = producer(settings, linger_ms=5)
    await sender.start()
    topic, size = topic_name(settings, EVENTS), 0
    workspaces = workspaces_over(partitions)
    share, more = divmod(count, len(workspaces))
    lives = {
        partition: [
            records_of(w, share + (i < more)) for i, w in enumerate(workspaces) if home(w.encode()) == partition
        ]
        for partition in partitions
    }
    try:
        for partition, streams in lives.items():
            size += await _fill_partition(sender, topic, partition, streams)
    finally:
        await sender.stop()
    return size / count


async def _fill_partition(sender: AIOKafkaProducer, topic: str, partition: int, streams: list[Iterator[Record]]) -> int:
    size, batch = 0, sender.create_batch()
    while streams:
        for stream in list(streams):
            found = next(stream, None)
            if found is None:
                streams.remove(stream)
                continue
            workspace, value, copies = found
            size += len(value)
            key = workspace.encode()
            if batch.append(key=key, value=value, timestamp=None, headers=copies) is None:
                await (await sender.send_batch(batch, topic, partition=partition))
                batch = sender.create_batch()
                batch.append(key=key, value=value, timestamp=None, headers=copies)
    await (await sender.send_batch(batch, topic, partition=partition))
    return size
