"""How fast projectors work off a backlog, and what one record costs: `python -m bench.backlog --records 1000000`.

Real processes against the servers that the environment names (`ravand env`, or `python -m ops.dev_servers DIR`): topics
and a database of its own, filled with jobs of a hundred epochs each, about 755 bytes a record. Rates are those of the
stored cursor; the CPU time of the projectors beside them says what noise of the machine cannot.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from aiokafka import TopicPartition

from adapters.kafka import consumer, producer, topic_name
from adapters.settings import KafkaSettings, Settings, environment_of
from adapters.topics import create_topics
from bench.cpu import servers_cpu
from bench.figures import Figure
from bench.history import fill, records_of, workspaces_over
from bench.own_servers import delete_topics, own_database, run_beside, servers
from schemas.topics import EVENTS, FACTS

MILLION = 1_000_000
_EDGE = 100_000
_WEIGHED_EVERY_SECONDS = 0.5


def start_projector(settings: Settings) -> subprocess.Popen[bytes]:
    """A projector as `ravand projector` runs it."""
    environment = {**os.environ, **environment_of(settings), "RAVAND_LOG_LEVEL": "warning"}
    return subprocess.Popen([sys.executable, "-m", "cli", "projector"], env=environment)


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


def measure() -> list[Figure]:
    """A million records over all partitions by two projectors, and in one partition by one."""
    with servers() as environment:
        spread = _run(environment, partitions=12, projectors=2)
        alone = _run(environment, partitions=1, projectors=1)
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


def _run(environment: dict[str, str], *, partitions: int, projectors: int) -> dict[str, Any]:
    options = ("--records", str(MILLION), "--partitions", str(partitions), "--projectors", str(projectors))
    return run_beside(environment, "bench.backlog", *options)


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
    async with own_database(settings):
        await create_topics(settings.kafka)
        try:
            if options.trickle:
                print(json.dumps(await trickle(settings, options.trickle)))
            else:
                size = await fill(settings.kafka, options.records, range(options.partitions))
                found = await work_off(settings, options.records, options.projectors)
                print(json.dumps({"bytes_per_record": round(size), **found}))
        finally:
            await delete_topics(settings.kafka)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    asyncio.run(main())
