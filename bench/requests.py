"""`POST /api/train` until it is answered with its verdict: alone, and from eight clients at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

from bench.figures import Figure, latency_figures
from bench.installation import Installation
from bench.limits import bare_answers, bare_kafka_append, bare_statement
from bench.raw_http import Connection, prepared
from cli import datasets

WARM_UP, ALONE, CLIENTS, SECONDS = 200, 500, 8, 8.0


def measure() -> list[Figure]:
    """Workers are none, so that what is measured is the request and its verdict and nothing that follows."""
    with Installation(workers=0) as it:
        server = it.user()
        dataset = datasets.send(server, Path("examples/penguins.csv"))
        body = {"recipe": "tabular", "dataset_id": dataset["id"], "parameters": {"target": "species"}}
        headers = {"Authorization": f"Bearer {server.token}"}
        return asyncio.run(_measure(it, f"{server.url}/api/train", body, headers))


async def _measure(it: Installation, url: str, body: dict[str, object], headers: dict[str, str]) -> list[Figure]:
    request = prepared("POST", url, headers, body)
    async with Connection(url) as client:
        for _ in range(WARM_UP):
            await client.send(request)
        alone = []
        for _ in range(ALONE):
            began = time.perf_counter()
            await client.send(request)
            alone.append(1000 * (time.perf_counter() - began))
    settings = it.settings()
    answer, append, statement = await bare_answers(), await bare_kafka_append(settings), await bare_statement(settings)
    parts = sum(statistics.median(part) for part in (answer, append, statement))
    beside = (
        f"bare answer {statistics.median(answer):.2g} + Kafka append {statistics.median(append):.2g} + "
        f"SQL statement {statistics.median(statement):.2g} ms"
    )
    figures = latency_figures("`POST /api/train` → verdict", alone, p50=10, p99=None, beside=beside, part=parts)

    count = await _flood(url, request)
    rate = count / SECONDS
    spread = f"{count} in {SECONDS:g} s"
    name = f"`POST /api/train` → verdict, {CLIENTS} clients"
    figures.append(Figure(name, rate, "/s", "≥ 800", rate >= 800, spread, beside))
    return figures


async def _flood(url: str, request: bytes) -> int:
    deadline = time.monotonic() + SECONDS

    async def client_loop() -> int:
        done = 0
        async with Connection(url) as client:
            while time.monotonic() < deadline:
                await client.send(request)
                done += 1
        return done

    return sum(await asyncio.gather(*(client_loop() for _ in range(CLIENTS))))
