"""How long it takes to see a job or a board as it was, in a workspace of 1,000,000 records: `python -m bench.time_travel`.

The history is stored as a projector stores it, without a broker; then the snapshots are made. What is asked for is open at
the moment that is asked for, so that its present row is of no use: the hardest that there is.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import asyncpg
import uvloop

from adapters.settings import Settings
from bench import filling
from bench.figures import Figure, percentile, spread_of
from bench.history import records_of
from bench.limits import bare_statement
from bench.own_servers import own_database, run_beside, servers
from projections import as_of, snapshots
from projections.chain import GENESIS
from projections.judging import Judge
from projections.memory import Memory
from projections.reading import home
from projections.writing import write
from schemas import envelope

MILLION = 1_000_000
WORKSPACE = "bench"
NOON = 1_800_000_000_000
_BATCH = 10_000
JOB_AIM, BOARD_AIM = 50.0, 200.0
_NAMES = {
    "job": ("time travel: a job", JOB_AIM),
    "job_by_instant": ("time travel: a job, by an instant", JOB_AIM),
    "long_job": ("time travel: a job of 100,000 epochs", JOB_AIM),
    "board": ("time travel: a board of 50 jobs", BOARD_AIM),
    "board_of_200": ("time travel: a board of 200 jobs", BOARD_AIM),
    "board_of_status": ("time travel: a board of what was running", BOARD_AIM),
    "registry": ("time travel: models and datasets", BOARD_AIM),
}


def measure() -> list[Figure]:
    """In a workspace of a million records, with snapshots."""
    with servers() as environment:
        found = run_beside(environment, "bench.time_travel", "--records", str(MILLION))
    figures = []
    for key, (name, aim) in _NAMES.items():
        times = found[key]
        high = percentile(times, 99)
        beside = f"bare statement p50 {found['bare']:.2g} ms"
        figures.append(Figure(f"{name}, p99", high, "ms", f"≤ {aim:g}", high <= aim, spread_of(times), beside))
    rate = found["snapshots_per_s"]
    figures.append(
        Figure(
            "time travel: records that snapshots are made of",
            rate,
            "records/s",
            "≥ 20,000",
            rate >= 20_000,
            f"{found['snapshots']:,} snapshots, {found['snapshot_mb']} MB beside a journal of {found['journal_mb']} MB",
        )
    )
    return figures


async def store(pool: asyncpg.Pool, records: Iterable[Any]) -> int:
    """Judge and store, as a projector does; how many."""
    partition, memory, start, chain = home(WORKSPACE.encode()), Memory(0, 1_000_000), 0, GENESIS
    await pool.execute(
        "INSERT INTO log.cursors (partition, next_offset, published, rules, chain) VALUES ($1, 0, 0, 1, $2)",
        partition,
        GENESIS,
    )
    judge = Judge(pool, partition, memory, rules=1, chain=chain)
    numbered = enumerate(records)
    while chunk := list(itertools.islice(numbered, _BATCH)):
        batch = [
            SimpleNamespace(offset=n, timestamp=NOON + n, key=WORKSPACE.encode(), value=value, headers=copies)
            for n, (value, copies) in chunk
        ]
        judged = await judge.judge(batch, start, set())
        await write(pool, judged, 0)
        memory.committed_through(judged.end)
        start = judged.end
    return start


def history(count: int, epochs: int) -> Iterable[tuple[bytes, list[tuple[str, bytes]]]]:
    """Jobs, twenty at a time, and at the end one long one."""
    for _, value, copies in records_of(WORKSPACE, count - epochs - 2):
        yield value, copies
    dataset = {"id": "", "sha256": "0" * 64}
    first = next(iter(records_of(WORKSPACE, 1)))[1]
    dataset["id"] = envelope.decode(first).subject
    registered = envelope.decode(first)
    yield first, envelope.headers(registered)
    [request] = filling.requests(dataset, 1, epochs)
    for line in [request, *filling.epochs(request[0], epochs)]:
        made = filling.record(WORKSPACE, line)
        yield envelope.encode(made), envelope.headers(made)


async def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.time_travel", description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    settings = Settings()
    async with (
        own_database(settings),
        asyncpg.create_pool(settings.database.url.get_secret_value(), min_size=1, max_size=3) as pool,
    ):
        stored = await store(pool, history(options.records, options.records // 10))
        await pool.execute("VACUUM ANALYZE")
        began = time.monotonic()
        made = await snapshots.catch_up(pool)
        rate = stored / (time.monotonic() - began)
        await pool.execute("VACUUM ANALYZE audit.job_states")
        found = await _measured(pool, options.count)
        sizes = "SELECT pg_total_relation_size('audit.job_states') / 1000000, pg_total_relation_size('log.journal') / 1000000"
        row = await pool.fetchrow(sizes)
        bare = percentile(list(await bare_statement(settings, 200)), 50)
        figures = {"snapshots": made, "snapshots_per_s": round(rate), "snapshot_mb": row[0], "journal_mb": row[1]}
        print(json.dumps({**found, **figures, "bare": bare}))


async def _measured(pool: asyncpg.Pool, count: int) -> dict[str, list[float]]:
    chance = random.Random(7)
    last = await pool.fetchval("SELECT version FROM log.workspaces WHERE workspace = $1", WORKSPACE)
    jobs = await pool.fetch(
        "SELECT job_id, requested_version, version FROM read.jobs WHERE workspace = $1 ORDER BY requested_version",
        WORKSPACE,
    )
    long_job = max(jobs, key=lambda job: job["version"] - job["requested_version"])
    others = [job for job in jobs if job is not long_job]

    def then(job: Any) -> int:
        return chance.randrange(job["requested_version"], max(job["version"], job["requested_version"] + 1))

    async def one() -> None:
        job = chance.choice(others)
        assert await as_of.job(pool, WORKSPACE, job["job_id"], then(job)) is not None

    async def by_instant() -> None:
        job = chance.choice(others)
        moment = datetime.fromtimestamp((NOON + then(job)) / 1000, UTC)
        version = await as_of.resolve(pool, WORKSPACE, moment)
        assert await as_of.job(pool, WORKSPACE, job["job_id"], version) is not None

    async def long() -> None:
        assert await as_of.job(pool, WORKSPACE, long_job["job_id"], then(long_job)) is not None

    def board(limit: int, status: str | None = None) -> Callable[[], Awaitable[None]]:
        async def read() -> None:
            version = chance.randrange(last // 4, last)
            await as_of.jobs_page(pool, WORKSPACE, version, limit=limit, status=status)

        return read

    async def registry() -> None:
        version = chance.randrange(1, last)
        await as_of.models_page(pool, WORKSPACE, version, limit=50)
        await as_of.datasets_page(pool, WORKSPACE, version, limit=50)

    work: dict[str, Callable[[], Awaitable[None]]] = {
        "job": one,
        "job_by_instant": by_instant,
        "long_job": long,
        "board": board(50),
        "board_of_200": board(200),
        "board_of_status": board(50, "running"),
        "registry": registry,
    }
    return {name: [await _timed(read) for _ in range(count)] for name, read in work.items()}


async def _timed(read: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await read()
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    uvloop.run(main())
