"""`POST /api/train` until it is answered with its verdict: alone, and from eight clients at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import httpx2

from bench.figures import Figure, latency_figures
from bench.installation import Installation
from bench.limits import bare_answers, bare_kafka_append, bare_statement
from cli import datasets

ALONE, CLIENTS, SECONDS = 500, 8, 8.0


def measure() -> list[Figure]:
    """Workers are none, so that what is measured is the request and its verdict and nothing that follows."""
    with Installation(workers=0) as it:
        server = it.user()
        dataset = datasets.send(server, Path("examples/penguins.csv"))
        body = {"recipe": "tabular", "dataset_id": dataset["id"], "parameters": {"target": "species"}}
        headers = {"Authorization": f"Bearer {server.token}"}
        return asyncio.run(_measure(it, f"{server.url}/api/train", body, headers))


async def _measure(it: Installation, url: str, body: dict[str, object], headers: dict[str, str]) -> list[Figure]:
    async with httpx2.AsyncClient(headers=headers, timeout=30.0) as client:
        for _ in range(50):
            (await client.post(url, json=body)).raise_for_status()
        alone = []
        for _ in range(ALONE):
            began = time.perf_counter()
            (await client.post(url, json=body)).raise_for_status()
            alone.append(1000 * (time.perf_counter() - began))
    settings = it.settings()
    answer, append, statement = await bare_answers(), await bare_kafka_append(settings), await bare_statement(settings)
    parts = sum(statistics.median(part) for part in (answer, append, statement))
    beside = (
        f"bare answer {statistics.median(answer):.2g} + Kafka append {statistics.median(append):.2g} + "
        f"SQL statement {statistics.median(statement):.2g} ms"
    )
    figures = latency_figures("`POST /api/train` → verdict", alone, p50=10, p99=None, beside=beside, part=parts)

    count = await _flood(url, body, headers)
    rate = count / SECONDS
    figures.append(
        Figure(
            f"`POST /api/train` → verdict, {CLIENTS} clients",
            rate,
            "/s",
            "≥ 800",
            rate >= 800,
            f"{count} in {SECONDS:g} s",
            beside,
        )
    )
    return figures


async def _flood(url: str, body: dict[str, object], headers: dict[str, str]) -> int:
    """Eight clients, each a process of its own, would be fairer to them and take the cores from what is measured."""
    deadline = time.monotonic() + SECONDS

    async def client_loop() -> int:
        done = 0
        async with httpx2.AsyncClient(headers=headers, timeout=30.0) as client:
            while time.monotonic() < deadline:
                (await client.post(url, json=body)).raise_for_status()
                done += 1
        return done

    return sum(await asyncio.gather(*(client_loop() for _ in range(CLIENTS))))
