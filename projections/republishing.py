"""Publishes again, out of the journal, what may not have reached the topics before a stop or a take-over."""

from __future__ import annotations

import asyncio

import asyncpg
import structlog

from adapters.settings import KafkaSettings
from projections.batch import JOURNAL, REFUSAL
from projections.kafka_clients import PartitionReader
from projections.publishing import Publisher
from schemas.facts import POSITION_HEADER
from schemas.topics import FACTS

_CHUNK = 2_000
_LOOK_BACK = 20
_READ_SECONDS = 15.0
_SELECT = f"""
SELECT {", ".join(f'"{name}"' for name in JOURNAL)} FROM log.journal
 WHERE partition = $1 AND "offset" >= $2 AND "offset" < $3 AND (tail IS NOT NULL OR refusal = 'undecodable')
 ORDER BY "offset" LIMIT {_CHUNK}
"""  # noqa: S608
log = structlog.get_logger(__name__)


async def publish_again(
    pool: asyncpg.Pool, publisher: Publisher, settings: KafkaSettings, partition: int, *, published: int, cursor: int
) -> int:
    """Facts and dead letters from the smaller of `published` and the last fact found in the topic, up to `cursor`.

    Returns how many journal rows were gone through. Raises what Kafka and asyncpg raise.
    """
    since = min(published, await _after_last_fact(settings, partition, published))
    again = 0
    position = since
    while rows := await pool.fetch(_SELECT, partition, position, cursor):
        await publisher.facts(partition, rows)
        undecodable = [row for row in rows if row[REFUSAL] == "undecodable"]
        await publisher.dead_letters(partition, undecodable, {})
        position = rows[-1]["offset"] + 1
        again += len(rows)
    if again:
        log.info("facts are published again", partition=partition, since=since, until=cursor, records=again)
    return again


async def _after_last_fact(settings: KafkaSettings, partition: int, otherwise: int) -> int:
    """The position after that of the last fact in the topic; `otherwise` where retention has taken all of them."""
    reader = PartitionReader(settings, FACTS, partition)
    try:
        await reader.start()
        first, end = await reader.bounds()
        if end == 0:
            return 0  # Nothing was ever published, or the topic lost all that was.
        if first == end:
            return otherwise
        reader.seek(max(first, end - _LOOK_BACK))
        found: int | None = None
        async with asyncio.timeout(_READ_SECONDS):
            while await reader.position() < end:
                for record in await reader.records(at_most=_LOOK_BACK, seconds=1.0):
                    position = dict(record.headers).get(POSITION_HEADER)
                    if position is not None:
                        found = int(position)
        return otherwise if found is None else found + 1
    finally:
        await reader.close()
