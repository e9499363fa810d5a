"""Stores histories as a projector does, without a broker: for what only reads the database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import asyncpg

from adapters.kafka import partition_of
from projections.chain import GENESIS
from projections.judging import Judge
from projections.memory import Memory
from projections.writing import write
from schemas.topics import EVENTS
from tests.projections.records import Written

NOON = 1_800_000_000_000
STEP_MS = 1_000


async def store(pool: asyncpg.Pool, records: Sequence[Written]) -> dict[int, list[Any]]:
    """Judge and store them, a record a second; what the log would hold, by partition."""
    logs: dict[int, list[Any]] = defaultdict(list)
    for number, record in enumerate(records):
        partition = partition_of(record.key or b"", EVENTS.partitions)
        as_read = SimpleNamespace(
            offset=len(logs[partition]),
            timestamp=NOON + number * STEP_MS,
            key=record.key,
            value=record.value,
            headers=record.headers,
        )
        logs[partition].append(as_read)
    for partition, found in logs.items():
        await pool.execute(
            "INSERT INTO log.cursors (partition, next_offset, published, rules, chain) VALUES ($1, 0, 0, 1, $2)",
            partition,
            GENESIS,
        )
        judge = Judge(pool, partition, Memory(0, 1_000_000), rules=1, chain=GENESIS)
        await write(pool, await judge.judge(found, 0, set()), 0)
    return dict(logs)
