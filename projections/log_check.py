"""Compares the log with the journal: the journal keeps every byte, so a log that lost its tail can be completed.

A single broker acknowledges what it has not yet flushed. After a power loss its log may be shorter than the journal; the
missing records are appended again, with their own keys, values and headers, and get the offsets that they had. The broker
stamps them anew; the journal keeps the first time, which is the one that was judged, is in the facts and in the hash
chain, so whoever folds the log anew takes times from the journal where it has them. No verdict reads a time.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import msgspec
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError, NotLeaderForPartitionError

from adapters.kafka import abandon, producer
from adapters.postgres import create_pool
from adapters.settings import DatabaseSettings, KafkaSettings
from projections.kafka_clients import PartitionReader, ends_of
from schemas.topics import EVENTS

_READ_SECONDS = 15.0
_DEPOSED_SECONDS = 20.0
"""A broker that was frozen while others took over learns of it within a session, which is 9 s unless somebody changed it."""
_LOOK_AGAIN_SECONDS = 0.5
_CHUNK = 500
_COLUMNS = '"offset", id, type, key, value, headers'
_headers = msgspec.json.Decoder(list[tuple[str, bytes | None]])
log = structlog.get_logger(__name__)


class LogDiverged(Exception):
    """The log is not the one that the journal was written from. Nothing goes on, and nothing is reset."""

    def __init__(self, partition: int, detail: str) -> None:
        super().__init__(
            f"log_diverged: partition {partition}: {detail}. Nothing was changed. Either the broker or the database was"
            " replaced or restored by itself: bring back the one that belongs to the other."
        )


async def check(reader: PartitionReader, pool: asyncpg.Pool, settings: KafkaSettings, cursor: int) -> None:
    """Return with `reader` positioned at `cursor` and the log known to be the journal's.

    A log that is shorter is completed. Raises `LogDiverged`, and what Kafka and asyncpg raise.
    """
    partition = reader.at.partition
    first, end = await reader.bounds()
    if first > cursor:
        raise LogDiverged(partition, f"its records before {first} are gone, and {cursor} is the next to be judged")
    if end < cursor:
        if reader.copies() > 1 and not await _is_short(settings, partition, cursor):
            raise NotLeaderForPartitionError(f"partition {partition}: the broker that was asked does not lead any more")
        await _complete(reader, pool, settings, partition, cursor)
    last = await _journal_before(pool, partition, cursor)
    if last is None or last["offset"] < first:
        if cursor > 0 and last is None:
            raise LogDiverged(partition, f"the journal is empty, and its cursor stands at {cursor}")
        reader.seek(cursor)
        return
    await _compare(reader, last)
    if await reader.position() != cursor:
        reader.seek(cursor)


async def complete(kafka: KafkaSettings, database: DatabaseSettings) -> dict[int, int]:
    """Complete every partition whose log is shorter than what was judged of it; how many records each had lost.

    For the moment before anybody appends: what is appended to a log without its tail takes the tail's place. Where there are no
    tables yet, nothing can be missing. Raises `LogDiverged`, and what Kafka and asyncpg raise.
    """
    lost: dict[int, int] = {}
    pool = await create_pool(database, name="log-check", size=1, min_size=0)
    try:
        if not await pool.fetchval("SELECT to_regclass('log.cursors') IS NOT NULL"):
            return lost
        rows = await pool.fetch("SELECT partition, next_offset FROM log.cursors WHERE next_offset > 0")
        ends = await ends_of(kafka, [row["partition"] for row in rows])
        for partition, cursor in rows:
            if ends[partition] < cursor:
                reader = PartitionReader(kafka, EVENTS, partition)
                try:
                    await reader.start()
                    if reader.copies() > 1 and not await _is_short(kafka, partition, cursor):
                        continue
                    await _complete(reader, pool, kafka, partition, cursor)
                finally:
                    await reader.close()
                lost[partition] = cursor - ends[partition]
        return lost
    finally:
        await pool.close()


async def _is_short(settings: KafkaSettings, partition: int, cursor: int) -> bool:
    """Whether the log is shorter than `cursor` however often one asks anew.

    Where there are copies, a loss of power takes the tail only if it hits all of them, and another reason is likelier: a
    broker that was frozen, and has not yet heard that another one leads, answers with the end that it remembers.
    """
    clock = asyncio.get_running_loop().time
    sure_at = clock() + _DEPOSED_SECONDS
    while clock() < sure_at:
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        fresh = PartitionReader(settings, EVENTS, partition)
        try:
            await fresh.start()
            _, end = await fresh.bounds()
        finally:
            await fresh.close()
        if end >= cursor:
            return False
    return True


async def _journal_before(source: Any, partition: int, offset: int) -> asyncpg.Record | None:
    return await source.fetchrow(
        f'SELECT {_COLUMNS} FROM log.journal WHERE partition = $1 AND "offset" < $2 ORDER BY "offset" DESC LIMIT 1',  # noqa: S608
        partition,
        offset,
    )


async def _compare(reader: PartitionReader, row: asyncpg.Record) -> None:
    """See that the log holds this journal row's record at its offset."""
    offset = row["offset"]
    reader.seek(offset)
    try:
        async with asyncio.timeout(_READ_SECONDS):
            while not (found := await reader.records(at_most=1, seconds=1.0)):
                pass
    except TimeoutError:
        raise KafkaTimeoutError(f"partition {reader.at.partition}: no answer with offset {offset}") from None
    record = found[0]
    if record.offset != offset or record.key != row["key"] or record.value != row["value"]:
        raise LogDiverged(reader.at.partition, f"at offset {offset} the log holds another record than the journal")


async def _complete(
    reader: PartitionReader, pool: asyncpg.Pool, settings: KafkaSettings, partition: int, cursor: int
) -> None:
    fresh = producer(settings)
    try:
        await fresh.start()
        async with pool.acquire() as connection, connection.transaction():
            # Two who append would double the tail: whoever comes second waits here and then finds the log whole.
            await connection.execute("SELECT 1 FROM log.cursors WHERE partition = $1 FOR UPDATE", partition)
            first, end = await reader.bounds()
            if (last := await _journal_before(connection, partition, end)) is not None and last["offset"] >= first:
                await _compare(reader, last)
            log.warning("the log lost its tail", partition=partition, end=end, journal=cursor)
            while end < cursor:
                rows = await connection.fetch(
                    f'SELECT {_COLUMNS} FROM log.journal WHERE partition = $1 AND "offset" >= $2 AND "offset" < $3'  # noqa: S608
                    ' ORDER BY "offset" LIMIT $4',
                    partition,
                    end,
                    cursor,
                    _CHUNK,
                )
                end = await _append(fresh, reader, rows, end)
            log.warning("the log is completed from the journal", partition=partition, end=end)
    finally:
        await abandon(fresh)


async def _append(fresh: AIOKafkaProducer, reader: PartitionReader, rows: list[asyncpg.Record], end: int) -> int:
    partition = reader.at.partition
    if not rows:
        raise LogDiverged(partition, f"the journal has no record from offset {end} on, and its cursor stands beyond")
    batch = fresh.create_batch()
    for row in rows:
        if row["offset"] != end:
            raise LogDiverged(partition, f"offset {end} held no record, so those after it cannot be written again")
        # A batch, since it takes records without key and value too, which `send` does not.
        record = {"key": row["key"], "value": row["value"], "headers": _original_headers(row)}
        if batch.append(timestamp=None, **record) is None:
            await (await fresh.send_batch(batch, reader.at.topic, partition=partition))
            batch = fresh.create_batch()
            batch.append(timestamp=None, **record)
        end += 1
    await (await fresh.send_batch(batch, reader.at.topic, partition=partition))
    _, reached = await reader.bounds()
    if reached != end:
        raise LogDiverged(partition, f"somebody wrote while the log was completed: it ends at {reached}, not {end}")
    return end


def _original_headers(row: asyncpg.Record) -> list[tuple[str, bytes | None]]:
    if row["headers"] is not None:
        return _headers.decode(row["headers"])
    return [("ce_type", row["type"].encode()), ("ce_id", row["id"].encode())]
