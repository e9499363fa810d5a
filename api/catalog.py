"""What never changes once it exists, kept in memory: dataset versions, their profiles, the last words of failed jobs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import asyncpg
import msgspec

from adapters.object_store import ObjectMissing, ObjectStore, StoreUnavailable
from domain.events import ObjectRef
from domain.workspace import Dataset
from projections import queries
from schemas.dataset_profile import DatasetProfile

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_LONGEST_LOG = 64 * 1024
_profile = msgspec.json.Decoder(DatasetProfile)


class Kept(Generic[K, V]):
    """The values used last, up to a number of them or a sum of their sizes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value, if it is still kept."""
        found = self._held.get(key)
        if found is None:
            return None
        self._held.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size: int = 1) -> V:
        """Keep a value, and drop the ones that were not used for longest."""
        before = self._held.pop(key, None)
        self._size += size - (before[1] if before else 0)
        self._held[key] = (value, size)
        while self._size > self._most and len(self._held) > 1:
            _, (_, dropped) = self._held.popitem(last=False)
            self._size -= dropped
        return value


class Catalog:
    """Reads through. Everything in it is asked for with its workspace, so nothing leaks from one to another."""

    def __init__(self, pool: asyncpg.Pool, store: ObjectStore) -> None:
        self._pool = pool
        self._store = store
        self._datasets: Kept[tuple[str, str], Dataset] = Kept(10_000)
        self._profiles: Kept[str, DatasetProfile] = Kept(8 * 1024 * 1024)
        self._logs: Kept[str, str] = Kept(4 * 1024 * 1024)

    async def dataset(self, workspace: str, id: str) -> Dataset | None:
        """A dataset version of the workspace."""
        kept = self._datasets.get((workspace, id))
        if kept is not None:
            return kept
        found = await queries.dataset(self._pool, workspace, id)
        return None if found is None else self._datasets.put((workspace, id), found)

    async def profile(self, dataset: Dataset) -> DatasetProfile:
        """Its profile. Raises what the object store raises."""
        ref = dataset.profile
        kept = self._profiles.get(ref.sha256)
        if kept is not None:
            return kept
        data = await self._store.get(ref.uri)
        return self._profiles.put(ref.sha256, _profile.decode(data), len(data))

    async def log(self, ref: ObjectRef | None) -> str | None:
        """The lines kept of a failure, as far as they can be had: whoever asks for a job must get it without them too."""
        if ref is None:
            return None
        kept = self.known_log(ref)
        if kept is not None:
            return kept
        try:
            data = await self._store.get(ref.uri)
        except (ObjectMissing, StoreUnavailable):
            return None
        text = data[-_LONGEST_LOG:].decode("utf-8", "replace")
        return self._logs.put(ref.sha256, text, len(text))

    def known_log(self, ref: ObjectRef | None) -> str | None:
        """The same, if it is in memory already."""
        return None if ref is None else self._logs.get(ref.sha256)
