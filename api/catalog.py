"""What never changes once it exists, kept in memory: dataset versions, their profiles, the last words of failed jobs."""

from __future__ import annotations

import asyncpg
import msgspec

from adapters.object_store import ObjectMissing, ObjectStore, StoreUnavailable
from api.kept import Kept
from domain.events import ObjectRef
from domain.workspace import Dataset
from projections import queries
from schemas.dataset_profile import DatasetProfile

_LONGEST_LOG = 64 * 1024
_profile = msgspec.json.Decoder(DatasetProfile)


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
