"""Where the time goes between a worker's append of an epoch and the `job_update` at a WebSocket.

Beside the socket, the same client watches the log, the facts and the notifications of commits, one epoch every 20 ms. The
watchers cost time themselves, so the last figure is somewhat above that of `bench latency`. Run as `python -m bench.hops`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import uvloop
from aiokafka import TopicPartition
from websockets.asyncio.client import connect

from adapters.kafka import consumer, partition_of, producer, topic_name
from adapters.settings import Settings
from bench import filling
from bench.figures import spread_of
from bench.installation import Installation
from bench.latency import EPOCHS, EVERY_SECONDS, PATIENT, WARM_UP, new_job, socket_url
from schemas import envelope, topics

HOPS = (
    "acknowledged by the broker",
    "read from the log",
    "fact read",
    "commit notified",
    "`job_update` received",
)


class Hops:
    """When each epoch was seen where, and when it was sent."""

    def __init__(self) -> None:
        self.sent: dict[str, float] = {}
        self._seen: defaultdict[str, dict[str, float]] = defaultdict(dict)

    def saw(self, hop: str, id: str) -> None:
        """Now."""
        self._seen[hop].setdefault(id, time.perf_counter())

    def milliseconds(self, hop: str) -> list[float]:
        """From the append to the hop, without the warm-up."""
        seen = self._seen[hop]
        ids = [id for id in list(self.sent)[WARM_UP:] if id in seen]
        return [1000 * (seen[id] - self.sent[id]) for id in ids]


async def measure() -> Hops:
    """A whole installation, of which we are the only worker."""
    with Installation(workers=0, environment=PATIENT) as it:
        server, settings = it.user(), it.settings()
        job_id, workspace = await new_job(server, settings, WARM_UP + EPOCHS)
        hops = Hops()
        async with (
            _watched(_topic(settings, topics.EVENTS, workspace, "read from the log", hops)),
            _watched(_topic(settings, topics.FACTS, workspace, "fact read", hops)),
            _commits(settings, hops) as last_sent,
            connect(socket_url(server)) as socket,
        ):
            await socket.send(json.dumps({"type": "subscribe_job", "job_id": job_id}))
            assert json.loads(await socket.recv())["type"] == "subscribed"
            listening = asyncio.create_task(_listen(socket, hops))
            await _send(settings, workspace, job_id, hops, last_sent)
            async with asyncio.timeout(60):
                await listening
        return hops


async def _send(settings: Settings, workspace: str, job_id: str, hops: Hops, last_sent: list[str]) -> None:
    client = producer(settings.kafka)
    await client.start()
    try:
        topic, key = topic_name(settings.kafka, topics.EVENTS), workspace.encode()
        for line in filling.epochs(job_id, WARM_UP + EPOCHS):
            due = asyncio.create_task(asyncio.sleep(EVERY_SECONDS))
            record = filling.record(workspace, line)
            last_sent[:] = [record.id]
            hops.sent[record.id] = time.perf_counter()
            await client.send_and_wait(topic, envelope.encode(record), key=key)
            hops.saw("acknowledged by the broker", record.id)
            await due
    finally:
        await client.stop()


async def _topic(settings: Settings, topic: topics.Topic, workspace: str, hop: str, hops: Hops) -> None:
    key = workspace.encode()
    partition = TopicPartition(topic_name(settings.kafka, topic), partition_of(key, topic.partitions))
    reader = consumer(settings.kafka)
    await reader.start()
    try:
        reader.assign([partition])
        await reader.seek_to_end(partition)
        async for record in reader:
            if record.key == key and record.value:
                hops.saw(hop, json.loads(record.value)["id"])
    finally:
        await reader.stop()


@asynccontextmanager
async def _commits(settings: Settings, hops: Hops) -> AsyncIterator[list[str]]:
    """One record is under way at a time, so a commit is the one of what was sent last."""
    last_sent: list[str] = []

    def heard(*_: Any) -> None:
        for id in last_sent:
            hops.saw("commit notified", id)

    connection = await asyncpg.connect(settings.database.url.get_secret_value())
    try:
        await connection.add_listener("ravand_commits", heard)
        yield last_sent
    finally:
        await connection.close()


async def _listen(socket: Any, hops: Hops) -> None:
    """The socket names epochs, not records: they come in the order in which they were sent, one each."""
    for number in range(1, WARM_UP + EPOCHS + 1):
        while json.loads(await socket.recv()).get("event") != "EpochCompleted":
            pass
        hops.saw("`job_update` received", list(hops.sent)[number])


@asynccontextmanager
async def _watched(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    await asyncio.sleep(1.0)  # Its position is the end of the topic as of now.
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def main() -> None:
    """Print the table of docs/performance.md."""
    hops = uvloop.run(measure())
    print("| since the append | ms |\n|---|---|")
    for hop in HOPS:
        print(f"| {hop} | {spread_of(hops.milliseconds(hop))} |")


if __name__ == "__main__":
    main()
