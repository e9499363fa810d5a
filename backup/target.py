"""What a backup is to be restored into: an installation without a record, a row or an object, and with nobody at work.

A restore that was begun and not finished shows by the log's topic, which keeps the times of its records as long as one lasts
(`adapters.log_times`); no service starts on it.
"""

from __future__ import annotations

import contextlib
from typing import Any

import asyncpg
import msgspec
from aiokafka import TopicPartition

from adapters import log_times
from adapters.kafka import consumer, topic_name
from adapters.migrations import MissingTables
from adapters.migrations import check as check_schema
from adapters.object_store import ObjectStore, StoreUnavailable
from adapters.postgres import patient_options
from adapters.settings import KafkaSettings, Settings
from backup.cut import FOLDED, SAVED
from backup.manifest import BackupRefused, Manifest
from schemas.topics import EVENTS, HEARTBEATS, TOPICS

_EMPTY = "a backup is restored into an empty installation"
_OTHERS = """
SELECT DISTINCT application_name FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'ravand-%' AND application_name <> 'ravand-restore'
 ORDER BY 1
"""


class Target(msgspec.Struct, frozen=True):
    """What was found."""

    begun: bool
    """Whether an earlier restore was interrupted here."""
    rows_are_in: bool
    """Whether it had come as far as the tables, which are filled at once."""


async def connected(settings: Settings) -> Any:
    """A connection for a restore."""
    return await asyncpg.connect(**patient_options(settings.database, name="restore"))


async def inspect(settings: Settings, store: ObjectStore, manifest: Manifest, keys: set[str]) -> Target:
    """See whether the backup with the objects `keys` may be restored here.

    Raises `BackupRefused` if not, and what the servers' clients raise.
    """
    begun = await log_times.are_own(settings.kafka)
    rows_are_in = await _tables(settings, manifest, begun=begun)
    for name, end in (await _ends(settings.kafka)).items():
        if end and not begun and name != topic_name(settings.kafka, HEARTBEATS):
            raise BackupRefused(f"the topic {name} holds records already; {_EMPTY}")
    with contextlib.suppress(StoreUnavailable):  # There is none yet. If it is away, making it will say so.
        async for info in store.list():
            if not begun or info.key not in keys:
                raise BackupRefused(f"the object store holds {info.key} already; {_EMPTY}")
    return Target(begun, rows_are_in)


def heads(manifest: Manifest) -> dict[int, tuple[int, bytes]]:
    """Up to where each partition is that of the source, and the hash of that; also those in which nothing was written."""
    written = {cut.partition: (cut.next_offset, bytes.fromhex(cut.chain)) for cut in manifest.partitions}
    return {partition: written.get(partition, (0, bytes(32))) for partition in range(EVENTS.partitions)}


async def _tables(settings: Settings, manifest: Manifest, *, begun: bool) -> bool:
    with contextlib.suppress(
        MissingTables
    ):  # There are none, or those of an older build, which may hold rows all the same.
        await check_schema(settings.database.url.get_secret_value())
    connection = await connected(settings)
    try:
        if others := await connection.fetch(_OTHERS):
            names = ", ".join(row[0].removeprefix("ravand-") for row in others)
            raise BackupRefused(f"services work on this database ({names}); a backup is restored while none runs")
        there = {
            table
            for table in (*SAVED, *FOLDED)
            if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table)
        }
        if begun and "log.ancestors" in there:
            query = "SELECT partition, next_offset, chain FROM log.ancestors WHERE log_id = $1"
            found = {row[0]: (row[1], row[2]) for row in await connection.fetch(query, manifest.log_id)}
            if found == heads(manifest):
                return True
        for table in sorted(there):
            condition = " WHERE next_offset > 0" if table == "log.cursors" else ""
            if await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table}{condition})"):  # noqa: S608
                why = " of another backup" if begun else ""
                raise BackupRefused(f"the table {table} holds rows{why} already; {_EMPTY}")
        return False
    finally:
        await connection.close()


async def _ends(settings: KafkaSettings) -> dict[str, int]:
    """How many records each topic ever held; those that are not there are left out."""
    reader = consumer(settings)
    await reader.start()
    try:
        known = await reader.topics()
        ends: dict[str, int] = {}
        for topic in TOPICS:
            if (name := topic_name(settings, topic)) in known:
                parts = [TopicPartition(name, number) for number in range(topic.partitions)]
                ends[name] = sum((await reader.end_offsets(parts)).values())
        return ends
    finally:
        await reader.stop()
