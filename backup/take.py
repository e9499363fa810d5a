"""Takes a backup while everything runs.

Objects first, since they take longest; then the cut, the objects that came since, the tables and the log. A checkpoint that
the cut refers to may have been superseded and deleted before it could be copied: then another, newer cut is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from adapters.migrations import check as check_schema
from adapters.migrations import newest
from adapters.object_store import ObjectStore
from adapters.settings import Settings
from adapters.topics import check_topics
from backup import log_copy
from backup.cut import SAVED, Cut, cut, size_of
from backup.files import hashed_file
from backup.manifest import FORMAT, OBJECTS, Manifest
from backup.objects import ObjectCopies
from backup.writing import Unfinished, require_space, require_unused, unfinished

Told = Callable[[str, int, int], None]
"""Hears what is being done (`objects`, `log`), how much of it is done, and how much there is."""
_CUTS = 10
"""How many cuts are tried before one is taken whose newest checkpoint is gone: older ones are there, and serve."""
_encode = msgspec.json.Encoder().encode


async def take(settings: Settings, target: Path, told: Told = lambda what, done, of: None) -> Manifest:
    """Make `target` a backup of the installation.

    Raises `BackupRefused`, `WrongSchema`, `WrongTopics`, `StoreUnavailable`, `KafkaError`, `OSError`, and what asyncpg raises;
    then there is no `target`.
    """
    require_unused(target)
    await check_schema(settings.database.url.get_secret_value())
    await check_topics(settings.kafka)
    store = ObjectStore(settings.store.url)
    try:
        listed = {info.key: info.size async for info in store.list()}
        require_space(target, sum(listed.values()) + await size_of(settings.database))
        with unfinished(target) as into:
            return await _Taking(settings, store, into, told).run(listed)
    finally:
        await store.close()


class _Taking:
    def __init__(self, settings: Settings, store: ObjectStore, into: Unfinished, told: Told) -> None:
        self._settings, self._store, self._into, self._told = settings, store, into, told
        self._bytes = self._of_bytes = 0
        self._objects = ObjectCopies(store, into, self._copied)

    def _copied(self, more: int) -> None:
        self._bytes += more
        self._told("objects", self._bytes, max(self._bytes, self._of_bytes))

    async def run(self, listed: dict[str, int]) -> Manifest:
        self._of_bytes = sum(listed.values())
        await self._objects.copy(listed)
        missing_before: set[str] = set()
        for number in range(_CUTS):
            async with cut(self._settings.database) as moment:
                needed = moment.references
                await self._objects.copy(needed)
                missing = needed.keys() - self._objects.copied.keys()
                # What two cuts in a row miss was not superseded between them: the source itself lacks it.
                if missing and missing != missing_before and number < _CUTS - 1:
                    missing_before = missing
                    continue
                return await self._finish(moment, needed)
        raise AssertionError("the last cut is always taken")

    async def _finish(self, moment: Cut, needed: dict[str, str]) -> Manifest:
        now_there = {info.key async for info in self._store.list()}
        await self._objects.copy(now_there)
        copied = self._objects.copied
        self._objects.drop(copied.keys() - now_there - needed.keys())
        tables = [await moment.table(name, self._into) for name in SAVED]
        partitions, lost = [], 0
        done, of = 0, sum(cursor.next_offset for cursor in moment.cursors)

        def told(more: int) -> None:
            nonlocal done
            done += more
            self._told("log", done, of)

        for cursor in moment.cursors:
            one = await log_copy.copy(moment, cursor, self._settings.kafka, self._into, told)
            partitions.append(one.cut)
            lost += one.from_journal
        self._list_objects()
        manifest = Manifest(
            format=FORMAT,
            made_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            software=version("ravand"),
            schema=newest(),
            log_id=moment.log_id,
            rules=max((cursor.rules for cursor in moment.cursors), default=1),
            partitions=tuple(partitions),
            tables=tuple(tables),
            files=tuple(self._into.files),
            objects=len(copied),
            object_bytes=sum(one.bytes for one in copied.values()),
            from_journal=lost,
            unsound=tuple(
                sorted(key for key, sha256 in needed.items() if key not in copied or copied[key].sha256 != sha256)
            ),
        )
        self._into.write_manifest(manifest)
        return manifest

    def _list_objects(self) -> None:
        with hashed_file(self._into.folder, OBJECTS) as file:
            for _, stored in sorted(self._objects.copied.items()):
                file.write(_encode(stored) + b"\n")
        assert file.stored is not None
        self._into.add(file.stored)
