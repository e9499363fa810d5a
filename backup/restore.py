"""Makes an empty installation what a backup holds, under a new log id.

First the whole backup is checked, then the target. From the first write on until the log is whole no service starts on it, so
what an interrupted restore leaves can be gone on with, and nothing else. Last the read models are folded from the log, and
every verdict is compared with what it was.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from adapters import log_times
from adapters.migrations import migrate, newest
from adapters.object_store import ObjectStore
from adapters.settings import Settings
from adapters.topics import check_topics, create_topics
from backup.check import check, objects
from backup.log_copy import verdict_line
from backup.log_restore import LogRestore
from backup.manifest import OBJECTS_FOLDER, BackupRefused, Manifest, StoredObject
from backup.objects import AT_ONCE, together
from backup.target import Target, connected, heads, inspect
from domain.rules import KNOWN_RULES
from projections.projector import run as run_projector

Told = Callable[[str, int, int], None]
"""Hears what is being done (`checking`, `objects`, `log`, `folding`), how much of it is done, and how much there is."""
_CHUNK = 1 << 20
_LOOK_SECONDS = 0.1


async def restore(settings: Settings, folder: Path, told: Told = lambda what, done, of: None) -> tuple[Manifest, str]:
    """Restore the backup in `folder`; what it holds, and the id of the new log.

    Raises `BackupRefused`, which says whether anything was written; and `WrongSchema`, `StoreUnavailable`, `ObjectExists`,
    `KafkaError`, `OSError`, and what asyncpg raises: then the same command goes on where it was interrupted.
    """
    manifest = await asyncio.to_thread(check, folder, lambda done, of: told("checking", done, of))
    if manifest.schema > newest():
        raise BackupRefused(
            f"it was made by a newer Ravand (schema step {manifest.schema}; this build knows {newest()}). Use that one"
        )
    if manifest.rules > KNOWN_RULES:
        raise BackupRefused(f"rule set {manifest.rules} is in force in it; this build knows up to {KNOWN_RULES}")
    store = ObjectStore(settings.store.url)
    try:
        listed = list(objects(folder))
        target = await inspect(settings, store, manifest, {stored.key for stored in listed})
        restoring = _Restoring(settings, store, folder, manifest, told)
        await restoring.begin()
        await restoring.put_objects(listed)
        await restoring.fill_tables(target)
        await restoring.write_log()
        await log_times.stamp(settings.kafka)
        await check_topics(settings.kafka)
        log_id = await restoring.fold()
    finally:
        await store.close()
    return manifest, log_id


class _Restoring:
    def __init__(self, settings: Settings, store: ObjectStore, folder: Path, manifest: Manifest, told: Told) -> None:
        self._settings, self._store, self._folder = settings, store, folder
        self._manifest, self._told = manifest, told

    async def begin(self) -> None:
        """The topics, marked; then tables and the store, empty."""
        await create_topics(self._settings.kafka)
        await log_times.keep_own(self._settings.kafka)
        await migrate(self._settings.database.url.get_secret_value())
        await self._store.init()

    async def put_objects(self, listed: list[StoredObject]) -> None:
        """Each under its key; those of an interrupted restore are compared."""
        done, wanted = 0, iter(listed)

        async def work() -> None:
            nonlocal done
            for stored in wanted:
                await self._store.put_file(stored.key, self._folder / OBJECTS_FOLDER / stored.key, "create")
                done += stored.bytes
                self._told("objects", done, self._manifest.object_bytes)

        await together(work() for _ in range(AT_ONCE))

    async def fill_tables(self, target: Target) -> None:
        """All in one transaction, with a new log id and what it descends from."""
        if target.rows_are_in:
            return
        connection = await connected(self._settings)
        try:
            async with connection.transaction():
                for cut in self._manifest.tables:
                    schema, _, table = cut.table.partition(".")
                    await connection.copy_to_table(
                        table,
                        schema_name=schema,
                        columns=cut.columns,
                        source=_chunks(self._folder / cut.file),
                        format="binary",
                    )
                await connection.execute("UPDATE log.history SET log_id = gen_random_uuid()::text")
                await connection.executemany(
                    "INSERT INTO log.ancestors (log_id, partition, next_offset, chain) VALUES ($1, $2, $3, $4)",
                    [(self._manifest.log_id, partition, *head) for partition, head in heads(self._manifest).items()],
                )
        finally:
            await connection.close()

    async def write_log(self) -> None:
        """Every partition, and then read it back."""
        done, of = 0, 2 * self._manifest.records

        def told(more: int) -> None:
            nonlocal done
            done += more
            self._told("log", done, of)

        async with LogRestore(self._settings.kafka, self._folder, told) as log:
            for cut in self._manifest.partitions:
                await log.write(cut)
            for cut in self._manifest.partitions:
                await log.read_back(cut)

    async def fold(self) -> str:
        """Let a projector make the read models and publish; then compare every verdict. Returns the log's id."""
        connection = await connected(self._settings)
        try:
            async with _projecting(self._settings) as projector:
                wanted = {cut.partition: cut.next_offset for cut in self._manifest.partitions}
                while True:
                    reached = dict(await connection.fetch("SELECT partition, next_offset FROM log.cursors"))
                    done = sum(min(reached.get(partition, 0), end) for partition, end in wanted.items())
                    self._told("folding", done, sum(wanted.values()))
                    if done == sum(wanted.values()):  # What is not yet published is, before the projector ends.
                        break
                    await asyncio.wait({projector}, timeout=_LOOK_SECONDS)
                    if projector.done():
                        projector.result()
                        raise BackupRefused(
                            "the projector ended before all was folded; start it once more (`ravand up`)"
                        )
            for cut in self._manifest.partitions:
                if await _verdicts(connection, cut.partition, cut.next_offset) != cut.verdicts:
                    raise BackupRefused(
                        f"partition {cut.partition}: this build judges the log otherwise than the one that wrote it"
                        f" ({self._manifest.software}). The log is restored; read it with that build"
                    )
            return str(await connection.fetchval("SELECT log_id FROM log.history"))
        finally:
            await connection.close()


@asynccontextmanager
async def _projecting(settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    stop = asyncio.Event()
    projector = asyncio.create_task(run_projector(settings, stop))
    try:
        yield projector
    finally:
        stop.set()
        await asyncio.gather(projector, return_exceptions=True)


async def _verdicts(connection: Any, partition: int, end: int) -> str:
    found = hashlib.sha256()
    query = (
        'SELECT "offset", version, refusal FROM log.journal WHERE partition = $1 AND "offset" < $2 ORDER BY "offset"'
    )
    async with connection.transaction():
        async for row in connection.cursor(query, partition, end, prefetch=1_000):
            found.update(verdict_line(row))
    return found.hexdigest()


async def _chunks(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk
