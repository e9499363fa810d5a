"""How fast the read model is made anew, and what readers notice of it: `python -m bench.rebuild --records 1000000`.

The command `ravand admin rebuild-projections` as an administrator runs it, on a history that two projectors have stored:
judged from offset 0 on, compared row by row, swapped. Beside it somebody reads pages of jobs, ten at a time, before and meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import sys
import time
import uuid
from typing import Any

import asyncpg
import uvloop

from adapters.postgres import create_pool
from adapters.settings import Settings, environment_of
from adapters.topics import create_topics
from bench.backlog import start_projector, work_off
from bench.figures import Figure, percentile, spread_of
from bench.history import fill
from bench.own_servers import delete_topics, own_database, run_beside, servers
from projections import queries

MILLION = 1_000_000
AIM = 40_000
MOST_SECONDS = 30.0
_PAUSE_SECONDS = 0.005
_USUAL_SECONDS = 5.0


def measure() -> list[Figure]:
    """A million records over all partitions, by two processes."""
    with servers() as environment:
        found = run_beside(environment, "bench.rebuild", "--records", str(MILLION))
    rate, seconds = found["replayed_per_s"], found["seconds"]
    slower = found["reads_p99_ms"] / found["usual_reads_p99_ms"]
    return [
        Figure(
            "rebuild: records judged anew and stored",
            rate,
            "records/s",
            f"≥ {AIM:,}",
            rate >= AIM,
            f"{found['processes']} processes, {found['cpu_us_per_record']} µs of their CPU a record",
            f"{found['rows']:,} rows",
        ),
        Figure(
            "rebuild of 1,000,000 records: start, replay, indexes, comparison of every row, swap",
            seconds,
            "s",
            f"≤ {MOST_SECONDS:g}",
            seconds <= MOST_SECONDS,
            found["phases"],
        ),
        Figure(
            "rebuild: reads meanwhile, p99",
            slower,
            "× their usual",
            "≤ 3",
            slower <= 3,
            found["reads"],
            f"usual: {found['usual_reads']}",
        ),
    ]


async def _read(pool: asyncpg.Pool, workspaces: list[str], until: asyncio.Event) -> list[float]:
    """Milliseconds of each page of jobs, asked for every few milliseconds."""
    times: list[float] = []
    number = 0
    while not until.is_set():
        number += 1
        began = time.perf_counter()
        await queries.jobs_page(pool, workspaces[number % len(workspaces)], limit=10)
        times.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(_PAUSE_SECONDS)
    return times


async def _rebuild(settings: Settings, processes: int) -> tuple[float, float, dict[str, float], dict[str, Any]]:
    """The command: seconds, CPU seconds, when each phase was first seen, and what it printed last."""
    began, cpu = time.monotonic(), _cpu()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "cli", "admin", "rebuild-projections", "--json", "--processes", str(processes)),
        env={**os.environ, **environment_of(settings)},
        stdout=asyncio.subprocess.PIPE,
        limit=64 * 2**20,
    )
    assert process.stdout is not None
    phases: dict[str, float] = {}
    document: dict[str, Any] = {}
    async for line in process.stdout:
        document = json.loads(line)
        phases.setdefault(document.get("phase", "done"), time.monotonic() - began)
    if await process.wait() != 0:
        raise SystemExit("the rebuild failed")
    return phases["done"], _cpu() - cpu, phases, document


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.rebuild", description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    settings = Settings()
    settings.kafka.prefix = f"bench-{uuid.uuid4().hex[:8]}."
    async with own_database(settings):
        await create_topics(settings.kafka)
        try:
            await fill(settings.kafka, options.records, range(options.partitions))
            await work_off(settings, options.records, 2)
            print(json.dumps(await _measured(settings, options.records, options.processes)))
        finally:
            await delete_topics(settings.kafka)


async def _measured(settings: Settings, records: int, processes: int) -> dict[str, Any]:
    pool = await create_pool(settings.database, name="bench")
    projector = start_projector(settings)  # As in life: it has little to do, and notes what the rebuild says of itself.
    try:
        workspaces = [row[0] for row in await pool.fetch("SELECT DISTINCT workspace FROM read.jobs")]
        over = asyncio.Event()
        reading = asyncio.create_task(_read(pool, workspaces, over))
        await asyncio.sleep(_USUAL_SECONDS)
        over.set()
        usual = await reading
        over = asyncio.Event()
        reading = asyncio.create_task(_read(pool, workspaces, over))
        seconds, cpu, phases, document = await _rebuild(settings, processes)
        over.set()
        times = await reading
    finally:
        await pool.close()
        projector.send_signal(signal.SIGTERM)
        projector.wait(30)
    report = document["report"]
    # The rebuild's own first record may be among them.
    if document["state"] != "swapped" or report["differing"] or not records <= report["records"] <= records + 1:
        raise SystemExit(f"not as it must be: {document}")
    first = phases.get("replaying", 0.0)
    return {
        "records": records,
        "processes": processes,
        "rows": sum(table["rows"] for table in report["tables"].values()),
        "seconds": round(seconds, 2),
        "phases": ", ".join(f"{name} from {at:.1f}" for name, at in phases.items()),
        "replayed_per_s": round(records / (phases["indexing"] - first)),
        "cpu_us_per_record": round(cpu * 1e6 / records, 1),
        "usual_reads": spread_of(usual),
        "reads": spread_of(times),
        "usual_reads_p99_ms": percentile(usual, 99),
        "reads_p99_ms": percentile(times, 99),
    }


if __name__ == "__main__":
    uvloop.run(main())
