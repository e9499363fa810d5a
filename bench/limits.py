"""The parts by themselves, for the ratio: what nobody could be faster than on this machine in this run."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Sequence

import asyncpg

from adapters.kafka import producer, topic_name
from adapters.settings import Settings
from bench.raw_http import Connection, prepared
from schemas import topics

_TURNS = 20_000_000
_BARE_APP = """
import sys, uvicorn
from fastapi import FastAPI
app = FastAPI()
@app.post("/")
async def answer(body: dict) -> dict:
    return body
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", loop="uvloop", http="httptools")
"""


def bare_loop_speed() -> float:
    """Million turns a second of an empty loop of Python: a virtual core does not say how much of a core it is today."""
    began = time.perf_counter()
    for _ in range(_TURNS):
        pass
    return _TURNS / 1e6 / (time.perf_counter() - began)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def bare_answers(count: int = 500) -> Sequence[float]:
    """Milliseconds of a FastAPI route that answers its body and does nothing else."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _BARE_APP, str(port), env={**os.environ})
    try:
        url = f"http://127.0.0.1:{port}/"
        request = prepared("POST", url, {}, {"recipe": "tabular", "parameters": {"target": "species"}})
        deadline = time.monotonic() + 30
        while True:
            try:
                async with Connection(url) as client:
                    return [await _timed(client.send(request)) for _ in range(count + 50)][50:]
            except OSError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
    finally:
        process.terminate()
        await process.wait()


async def bare_kafka_append(settings: Settings, count: int = 500) -> Sequence[float]:
    """Milliseconds of one acknowledged append of 500 bytes."""
    client = producer(settings.kafka)
    await client.start()
    try:
        topic = topic_name(settings.kafka, topics.TELEMETRY)
        value = b"x" * 500  # No telemetry: the sink skips it.
        return [await _timed(client.send_and_wait(topic, value, key=b"bench")) for _ in range(count)]
    finally:
        await client.stop()


async def bare_statement(settings: Settings, count: int = 500) -> Sequence[float]:
    """Milliseconds of a statement that reads nothing."""
    connection = await asyncpg.connect(settings.database.url.get_secret_value())
    try:
        return [await _timed(connection.fetchval("SELECT 1")) for _ in range(count)]
    finally:
        await connection.close()


async def _timed(awaitable: object) -> float:
    began = time.perf_counter()
    await awaitable  # type: ignore[misc]
    return 1000 * (time.perf_counter() - began)
