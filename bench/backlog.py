"""How fast projectors work off a backlog, and what one record costs: `python -m bench.backlog --records 1000000`.

Real processes against the servers that the environment names (`ravand env`, or `python -m ops.dev_servers DIR`): topics
and a database of its own, filled with jobs of a hundred epochs each, about 755 bytes a record. Rates are those of the
stored cursor; the CPU time of the projectors beside them says what noise of the machine cannot.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from aiokafka import AIOKafkaProducer, TopicPartition
from pydantic import SecretStr

from adapters.kafka import client_options, consumer, producer, topic_name
from adapters.migrations import migrate
from adapters.settings import KafkaSettings, Settings
from adapters.topics import create_topics
from bench.cpu import servers_cpu
from bench.figures import Figure
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
from schemas.topics import EVENTS, FACTS

EPOCHS = 100
_SHA = "0" * 64
_EDGE = 100_000
_WEIGHED_EVERY_SECONDS = 0.5
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


def start_projector(settings: Settings) -> subprocess.Popen[bytes]:
    """A projector as `ravand projector` runs it."""
    environment = {**os.environ, **_environment(settings)}
    return subprocess.Popen([sys.executable, "-m", "cli", "projector"], env=environment)


def _environment(settings: Settings) -> dict[str, str]:
    return {
        "RAVAND_KAFKA__PREFIX": settings.kafka.prefix,
        "RAVAND_DATABASE__URL": settings.database.url.get_secret_value(),
        "RAVAND_LOG_LEVEL": "warning",
    }


async def work_off(settings: Settings, count: int, projectors: int) -> dict[str, object]:
    """Start the projectors, wait until everything is stored and published, and say how it went."""
    connection = await asyncpg.connect(settings.database.url.get_secret_value())
    processes = [start_projector(settings) for _ in range(projectors)]
    seen: list[tuple[float, int]] = []
    cpu, cpu_before, memory = 0.0, 0.0, 0
    beside: dict[str, float] = {}
    try:
        weighed = 0.0
        while not seen or seen[-1][1] < count:
            await asyncio.sleep(0.02)
            done = await connection.fetchval("SELECT coalesce(sum(next_offset), 0)::bigint FROM log.cursors")
            if done and not seen:
                cpu_before, beside = _cpu(processes), servers_cpu(settings)
            if done or seen:
                seen.append((time.monotonic(), int(done)))
            # Not each time: it takes a millisecond of a core that the projectors want, and their memory's lock.
            if time.monotonic() - weighed > _WEIGHED_EVERY_SECONDS:
                weighed = time.monotonic()
                with contextlib.suppress(psutil.Error):
                    memory = max(memory, sum(psutil.Process(p.pid).memory_full_info().pss for p in processes))
        facts = await _until_facts(settings.kafka, count)
        cpu = _cpu(processes) - cpu_before
        servers = {name: spent - beside[name] for name, spent in servers_cpu(settings).items()}
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)
        await connection.close()
    first, last = seen[0], seen[-1]
    edge = min(_EDGE, count // 4)
    after_first = next(s for s in seen if s[1] >= first[1] + edge)
    before_last = next(s for s in reversed(seen) if s[1] <= count - edge)
    rate_first = (after_first[1] - first[1]) / (after_first[0] - first[0])
    rate_last = (last[1] - before_last[1]) / (last[0] - before_last[0])
    return {
        "records": count,
        "projectors": projectors,
        "records_per_s": round((last[1] - first[1]) / (last[0] - first[0])),
        "first_per_s": round(rate_first),
        "last_per_s": round(rate_last),
        "last_over_first": round(rate_last / rate_first, 3),
        "cpu_us_per_record": round(cpu * 1e6 / (count - first[1]), 1),
        **{f"{name}_cpu_us_per_record": round(spent * 1e6 / (count - first[1]), 1) for name, spent in servers.items()},
        "peak_pss_mb_all": round(memory / 2**20),
        "facts": facts,
    }


def _cpu(processes: Sequence[subprocess.Popen[bytes]]) -> float:
    return float(sum(sum(psutil.Process(p.pid).cpu_times()[:2]) for p in processes))


async def _until_facts(settings: KafkaSettings, count: int) -> int:
    reader = consumer(settings)
    await reader.start()
    try:
        parts = [TopicPartition(topic_name(settings, FACTS), p) for p in range(FACTS.partitions)]
        async with asyncio.timeout(60):
            while True:
                ends = await reader.end_offsets(parts)
                if sum(ends.values()) >= count * 0.999:
                    return int(sum(ends.values()))
                await asyncio.sleep(0.05)
    finally:
        await reader.stop()


async def trickle(settings: Settings, count: int) -> dict[str, object]:
    """One record every 20 ms: from the append to its fact, and to the commit's notification."""
    process = start_projector(settings)
    reader, sender = consumer(settings.kafka), producer(settings.kafka)
    connection = await asyncpg.connect(settings.database.url.get_secret_value())
    told: dict[str, float] = {}
    await connection.add_listener("ravand_commits", lambda *heard: told.setdefault(heard[3], time.monotonic()))
    [workspace] = workspaces_over([0], each=1)
    facts, commits = [], []
    try:
        await reader.start()
        await sender.start()
        at = TopicPartition(topic_name(settings.kafka, FACTS), 0)
        reader.assign([at])
        await reader.seek_to_end(at)
        for number, (_, value, copies) in enumerate(records_of(workspace, count + 20)):
            began = time.monotonic()
            sent = await sender.send_and_wait(
                topic_name(settings.kafka, EVENTS), value, key=workspace.encode(), headers=copies
            )
            while not await reader.getmany(at, timeout_ms=5000):
                pass
            facts.append((time.monotonic() - began) * 1000)
            while (moment := told.get(f"0:{sent.offset + 1}")) is None:  # noqa: ASYNC110 - it comes from another process
                await asyncio.sleep(0.0005)
            commits.append((moment - began) * 1000)
            if number < 20:
                facts.clear()
                commits.clear()
            await asyncio.sleep(max(0, 0.02 - (time.monotonic() - began)))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        await reader.stop()
        await sender.stop()
        await connection.close()
    return {"to_fact_ms": _spread(facts), "to_commit_ms": _spread(commits)}


def _spread(values: list[float]) -> dict[str, float]:
    values = sorted(values)
    return {f"p{q}": round(values[min(len(values) - 1, len(values) * q // 100)], 2) for q in (50, 90, 99)}


@contextlib.asynccontextmanager
async def _own_database(settings: Settings) -> AsyncIterator[None]:
    admin = os.environ["RAVAND_DATABASE_ADMIN_URL"]
    name = f"bench_{uuid.uuid4().hex[:8]}"
    connection = await asyncpg.connect(admin)
    await connection.execute(f'CREATE DATABASE "{name}" OWNER ravand')
    url = settings.database.url.get_secret_value().rpartition("/")[0] + f"/{name}"
    settings.database.url = SecretStr(url)
    await migrate(url)
    try:
        yield
    finally:
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await connection.close()


async def _delete_topics(settings: KafkaSettings) -> None:
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    await admin.delete_topics([name for name in await admin.list_topics() if name.startswith(settings.prefix)])
    await admin.close()


MILLION = 1_000_000


def measure() -> list[Figure]:
    """A million records over all partitions by two projectors, and in one partition by one."""
    with _servers() as environment:
        spread = _run(environment, MILLION, partitions=12, projectors=2)
        alone = _run(environment, MILLION, partitions=1, projectors=1)
    return [
        *_figures("a million records over 12 partitions, two projectors", spread, 40_000),
        *_figures("a million records in one partition, one projector", alone, 30_000),
    ]


def _figures(name: str, found: dict[str, Any], aim: int) -> list[Figure]:
    rate, growth = float(found["records_per_s"]), float(found["last_over_first"])
    beside = (
        f"CPU a record: projectors {found['cpu_us_per_record']} µs, PostgreSQL {found['postgres_cpu_us_per_record']} µs,"
        f" broker {found['kafka_cpu_us_per_record']} µs; {found['peak_pss_mb_all']} MB PSS"
    )
    return [
        Figure(
            name, rate, "records/s", f"≥ {aim:,}", rate >= aim, f"{found['bytes_per_record']} bytes a record", beside
        ),
        Figure(f"{name}: the last 100,000 to the first", growth, "×", "≥ 0.9", growth >= 0.9),
    ]


@contextlib.contextmanager
def _servers() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="ravand-bench-") as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "ops.dev_servers", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert server.stdout is not None
            lines = list(itertools.takewhile(lambda line: line != "ready\n", server.stdout))
            yield dict(line.rstrip("\n").split("=", 1) for line in lines)
        finally:
            server.terminate()
            server.wait(60)


def _run(environment: dict[str, str], records: int, *, partitions: int, projectors: int) -> dict[str, Any]:
    """In a process of its own, as the command does it."""
    options = ["--records", str(records), "--partitions", str(partitions), "--projectors", str(projectors)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.backlog", *options],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


async def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.backlog", description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--projectors", type=int, default=2)
    parser.add_argument("--trickle", type=int, default=0, help="measure so many single records instead")
    options = parser.parse_args()
    settings = Settings()
    settings.kafka.prefix = f"bench-{uuid.uuid4().hex[:8]}."
    async with _own_database(settings):
        await create_topics(settings.kafka)
        try:
            if options.trickle:
                print(json.dumps(await trickle(settings, options.trickle)))
            else:
                size = await fill(settings.kafka, options.records, range(options.partitions))
                found = await work_off(settings, options.records, options.projectors)
                print(json.dumps({"bytes_per_record": round(size), **found}))
        finally:
            await _delete_topics(settings.kafka)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    asyncio.run(main())
