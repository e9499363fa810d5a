"""From a worker's append of an epoch to the `job_update` at a WebSocket, one epoch every 20 ms, on a whole installation."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import uuid_utils
import uvloop
from aiokafka import TopicPartition
from websockets.asyncio.client import connect

from adapters.kafka import consumer, partition_of, producer, topic_name
from adapters.settings import Settings
from bench import filling
from bench.figures import Figure, latency_figures
from bench.installation import Installation
from cli import datasets
from cli.server import Server
from schemas import envelope, topics

EPOCHS, WARM_UP, EVERY_SECONDS = 1000, 100, 0.02
PATIENT = {"RAVAND_WORKER__LEASE_SECONDS": "3600"}


def measure() -> list[Figure]:
    """Workers are none: we are the worker, one that sends no heartbeats, which the lease allows for."""
    with Installation(workers=0, environment=PATIENT) as it:
        return uvloop.run(_measure(it))


async def _measure(it: Installation) -> list[Figure]:
    server, settings = it.user(), it.settings()
    job_id, workspace = await new_job(server, settings, WARM_UP + EPOCHS)
    milliseconds = await _stream(server, settings, workspace, job_id)
    trip = statistics.median(await bare_kafka_round_trip(settings))
    return latency_figures(
        "epoch appended → `job_update`",
        milliseconds[WARM_UP:],
        p50=6,
        p99=12,
        beside=f"2 × bare Kafka append → consumer {trip:.2g} ms",
        part=2 * trip,
    )


async def new_job(server: Server, settings: Settings, epochs: int) -> tuple[str, str]:
    """A queued job of so many epochs, and the workspace that it is in."""
    dataset = datasets.send(server, Path("examples/penguins.csv"))
    body = {"recipe": "tabular", "dataset_id": dataset["id"], "parameters": {"target": "species", "epochs": epochs}}
    job_id = server.post("/api/train", body)["job_id"]
    import asyncpg

    connection = await asyncpg.connect(settings.database.url.get_secret_value())
    try:
        workspace = await connection.fetchval("SELECT workspace FROM read.jobs WHERE job_id = $1", job_id)
    finally:
        await connection.close()
    return job_id, str(workspace)


def socket_url(server: Server) -> str:
    """Where a socket is opened, with a ticket for it."""
    ticket = server.post("/api/ws/ticket", {})["ticket"]
    return f"{server.url.replace('http', 'ws')}/api/ws?ticket={ticket}"


async def _stream(server: Server, settings: Settings, workspace: str, job_id: str) -> list[float]:
    sent: dict[int, float] = {}
    came: dict[int, float] = {}
    async with connect(socket_url(server)) as socket:
        await socket.send(json.dumps({"type": "subscribe_job", "job_id": job_id}))
        assert json.loads(await socket.recv())["type"] == "subscribed"

        async def listen() -> None:
            while len(came) < WARM_UP + EPOCHS:
                text = await socket.recv()
                now = time.perf_counter()
                update = json.loads(text)
                if update.get("event") == "EpochCompleted":
                    came[update["epoch"]] = now

        listening = asyncio.create_task(listen())
        client = producer(settings.kafka)
        await client.start()
        try:
            topic, key = topic_name(settings.kafka, topics.EVENTS), workspace.encode()
            for number, line in enumerate(filling.epochs(job_id, WARM_UP + EPOCHS)):
                due = asyncio.create_task(asyncio.sleep(EVERY_SECONDS))
                value = envelope.encode(filling.record(workspace, line))
                sent[number] = time.perf_counter()  # The line of number 0 begins the attempt.
                await client.send_and_wait(topic, value, key=key)
                await due
            async with asyncio.timeout(60):
                await listening
        finally:
            await client.stop()
    return [1000 * (came[epoch] - sent[epoch]) for epoch in sorted(came)]


async def bare_kafka_round_trip(settings: Settings, count: int = 300) -> Sequence[float]:
    """Milliseconds from an append of 500 bytes to a consumer that waits for it."""
    topic = topic_name(settings.kafka, topics.TELEMETRY)
    key = str(uuid_utils.uuid7()).encode()
    partition = TopicPartition(topic, partition_of(key, topics.TELEMETRY.partitions))
    sender, reader = producer(settings.kafka), consumer(settings.kafka)
    await sender.start()
    await reader.start()
    try:
        reader.assign([partition])
        await reader.seek_to_end(partition)
        trips = []
        for _ in range(count):
            began = time.perf_counter()
            appended = asyncio.create_task(sender.send_and_wait(topic, b"x" * 500, key=key))
            await reader.getone()
            trips.append(1000 * (time.perf_counter() - began))
            await appended
            await asyncio.sleep(EVERY_SECONDS)
        return trips
    finally:
        await sender.stop()
        await reader.stop()
