"""Reading: the newest 50 of 10,000 and of 100,000 jobs, and a history of 1,000 epochs."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import asyncpg

from bench import filling
from bench.figures import Figure, latency_figures
from bench.installation import Installation
from bench.limits import bare_answers, bare_statement
from bench.raw_http import Connection, prepared
from cli import datasets
from cli.server import Server

COUNT, CLIENTS, SECONDS = 500, 8, 5.0


def measure() -> list[Figure]:
    """Without workers, so that the jobs stay as they are."""
    with Installation(workers=0) as it:
        server = it.user()
        dataset = datasets.send(server, Path("examples/penguins.csv"))
        return asyncio.run(_measure(it, server, dataset))


async def _measure(it: Installation, server: Server, dataset: dict[str, str]) -> list[Figure]:
    settings = it.settings()
    database = await asyncpg.connect(settings.database.url.get_secret_value())
    workspace = await database.fetchval("SELECT workspace FROM read.datasets WHERE dataset_id = $1", dataset["id"])
    await database.close()
    version = 1
    headers = {"Authorization": f"Bearer {server.token}"}

    def get(path: str) -> bytes:
        return prepared("GET", server.url + path, headers)

    async with Connection(server.url) as client:
        version += await filling.append(settings, workspace, filling.requests(dataset, 10_000))
        await filling.until_version(settings, workspace, version)
        ten = await _times(client, get("/api/train/jobs?limit=50"))
        rate = await _rate(server.url, get("/api/train/jobs?limit=50"))
        [line] = filling.requests(dataset, 1)
        version += await filling.append(settings, workspace, [line, *filling.epochs(line[0], 1_000)])
        await filling.until_version(settings, workspace, version)
        history = await _times(client, get(f"/api/train/{line[0]}/history"))
        version += await filling.append(settings, workspace, filling.requests(dataset, 90_000))
        await filling.until_version(settings, workspace, version)
        hundred = await _times(client, get("/api/train/jobs?limit=50"))
    answer, statement = statistics.median(await bare_answers()), statistics.median(await bare_statement(settings))
    beside = f"bare answer {answer:.2g} + SQL statement {statement:.2g} ms"
    growth = statistics.median(hundred) / statistics.median(ten)
    return [
        *latency_figures("list 50 of 10,000 jobs", ten, p50=2, p99=None, beside=beside, part=answer + statement),
        Figure(f"list 50 of 10,000 jobs, {CLIENTS} clients", rate, "/s", "≥ 1,500", rate >= 1500, beside=beside),
        Figure("list 50 of 100,000 jobs to 10,000", growth, "×", "≤ 1.1", growth <= 1.1),
        *latency_figures("history of 1,000 epochs", history, p50=5, p99=None, beside=beside, part=answer + statement),
    ]


async def _times(client: Connection, request: bytes) -> list[float]:
    for _ in range(50):
        await client.send(request)
    times = []
    for _ in range(COUNT):
        began = time.perf_counter()
        await client.send(request)
        times.append(1000 * (time.perf_counter() - began))
    return times


async def _rate(url: str, request: bytes) -> float:
    deadline = time.monotonic() + SECONDS

    async def loop() -> int:
        done = 0
        async with Connection(url) as client:
            while time.monotonic() < deadline:
                await client.send(request)
                done += 1
        return done

    return sum(await asyncio.gather(*(loop() for _ in range(CLIENTS)))) / SECONDS
