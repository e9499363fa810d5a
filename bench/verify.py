"""How fast an installation is verified: `python -m bench.verify --records 1000000`.

The log is read from offset 0, hashed, folded and compared with every row that two projectors made of it; beside it stands
reading the same log and doing nothing with it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import uuid

import uvloop

from adapters.settings import Settings
from adapters.topics import create_topics
from audit.log_reader import LogReader, bounds
from audit.verify import Wishes, verify
from bench.backlog import work_off
from bench.figures import Figure
from bench.history import fill
from bench.own_servers import delete_topics, own_database, run_beside, servers

MILLION = 1_000_000
AIM = 100_000


def measure() -> list[Figure]:
    """A million records over all partitions, by as many processes as there are cores."""
    with servers() as environment:
        found = run_beside(environment, "bench.verify", "--records", str(MILLION))
    rate, bare = found["records_per_s"], found["bare_reads_per_s"]
    return [
        Figure(
            "verify: records read, hashed, folded and compared",
            rate,
            "records/s",
            f"≥ {AIM:,}",
            rate >= AIM,
            f"{found['processes']} processes, {found['cpu_us_per_record']} µs of their CPU a record, {found['rows']:,} rows"
            " beside the journal's",
            f"one consumer that only reads: {bare:,.0f} records/s",
            rate / bare,
        )
    ]


async def _bare(settings: Settings) -> float:
    ends = await bounds(settings.kafka)
    began, count = time.monotonic(), 0
    for partition, (_, end) in ends.items():
        async for batch in LogReader(settings.kafka, partition).read(end):
            count += len(batch)
    return count / (time.monotonic() - began)


async def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.verify", description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    settings = Settings()
    settings.kafka.prefix = f"bench-{uuid.uuid4().hex[:8]}."
    async with own_database(settings):
        await create_topics(settings.kafka)
        try:
            await fill(settings.kafka, options.records, range(options.partitions))
            await work_off(settings, options.records, 2)
            bare = await _bare(settings)
            report = await verify(settings, Wishes(processes=options.processes))
            if not report.ok:
                raise SystemExit(f"broken: {report.breaks[0]}")
            found = {
                "records": report.records,
                "rows": report.rows,
                "processes": options.processes,
                "records_per_s": round(report.records / report.seconds),
                "cpu_us_per_record": round(report.cpu_seconds * 1e6 / report.records, 1),
                "bare_reads_per_s": round(bare),
            }
            print(json.dumps(found))
        finally:
            await delete_topics(settings.kafka)


if __name__ == "__main__":
    uvloop.run(main())
