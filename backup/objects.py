"""Copies objects of the store into the backup. Workers write new ones meanwhile, and delete checkpoints that are superseded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from adapters.object_store import ObjectMissing, ObjectStore
from backup.files import HashedFile
from backup.manifest import OBJECTS_FOLDER, StoredObject
from backup.writing import Unfinished

AT_ONCE = 4
Told = Callable[[int], None]
"""Hears how many bytes more are copied."""


async def together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at once. The first that fails ends the others, and its error is raised as it is."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class ObjectCopies:
    """What was copied so far."""

    def __init__(self, store: ObjectStore, into: Unfinished, told: Told) -> None:
        self._store, self._into, self._told = store, into, told
        self.copied: dict[str, StoredObject] = {}

    async def copy(self, keys: Iterable[str]) -> None:
        """Those of these objects that are still there and not copied yet. Raises `StoreUnavailable` and `OSError`."""
        wanted = iter([key for key in keys if key not in self.copied])

        async def work() -> None:
            for key in wanted:
                await self._copy(key)

        await together(work() for _ in range(AT_ONCE))

    async def _copy(self, key: str) -> None:
        path = f"{OBJECTS_FOLDER}/{key}"
        file = HashedFile(self._into.folder, path)
        try:
            async for chunk in self._store.stream(key):
                file.write(chunk)
                self._told(len(chunk))
        except BaseException as error:
            file.abandon()
            (self._into.folder / path).unlink(missing_ok=True)
            if isinstance(error, ObjectMissing):
                return  # Superseded since it was listed.
            raise
        stored = await asyncio.to_thread(file.finish)
        self.copied[key] = StoredObject(key, stored.bytes, stored.sha256)

    def drop(self, keys: Iterable[str]) -> None:
        """Take these copies out again."""
        for key in keys:
            (self._into.folder / OBJECTS_FOLDER / key).unlink()
            del self.copied[key]
