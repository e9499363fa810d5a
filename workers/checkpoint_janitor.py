"""Deletes the checkpoints that nobody needs any more: all but the two newest effective ones and the best.

A claim names the newest checkpoint that its claimer sees in the table, and takes effect only if the table shows all that
the attempt before it saved. So what is older than two effective ones is named by no claim that counts, except when the
newer ones turned out to be unreadable; and whoever claims then looks first whether the file is there.

A worker that is killed, or whose job ends before it has seen which of its checkpoints took effect, leaves some behind. The
API deletes those (`api.abandoned_checkpoints`), which knows the whole history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from adapters.checkpoint_keys import checkpoints_among
from adapters.object_store import ObjectStore, StoreUnavailable
from domain.events import CheckpointSaved
from domain.job import Job, SavedCheckpoint
from domain.kept_checkpoints import surplus

LOOK_SECONDS = 5.0
"""A store that takes longer to say whether an object is there counts as away."""


def orphans(job: Job, keys: Iterable[str]) -> list[str]:
    """Of the objects of a job, the checkpoints of earlier attempts that no claim can name and that are not the best.

    A worker that died between writing and reporting leaves such files, and so does a retry from the beginning. When the
    best checkpoint is older than those that the row lists, it cannot be told from them, and everything is left alone.
    """
    listed = {saved.checkpoint.uri for saved in job.checkpoints}
    if job.checkpoints and not any(saved.best for saved in job.checkpoints):
        return []
    earlier = checkpoints_among(keys, job.id, through_attempt=job.attempt - 1)
    return [key for key in earlier if key not in listed]


class CheckpointJanitor:
    """Keeps the folder of one job tidy while a worker holds its current attempt."""

    def __init__(self, store: ObjectStore, job_id: str) -> None:
        """Nothing is known yet."""
        self._store = store
        self._job_id = job_id
        self._reported: list[SavedCheckpoint] = []
        """Of our attempt, in the order of the log, and no row has shown one of them or a later one yet."""
        self._known: list[SavedCheckpoint] = []
        """In log order."""
        self._done_with: set[str] = set()
        """Deleted ones, which rows go on to list for a while."""
        self._unwanted: list[str] = []
        self._log = structlog.get_logger("worker").bind(job=job_id)

    def report(self, event: CheckpointSaved) -> None:
        """Take note of a checkpoint of our attempt whose record goes to the log.

        A row lists only the newest few, and not each row is seen: of a training that saves faster than rows arrive, or that went
        on while the log was away, most would never be listed.
        """
        self._reported.append(SavedCheckpoint(checkpoint=event.checkpoint(), metrics={}, best=event.best))

    def see(self, job: Job) -> list[SavedCheckpoint]:
        """Take in a row that shows the attempt as ours; the checkpoints that nobody needs any more, for `work_off`."""
        listed = {saved.checkpoint.uri for saved in job.checkpoints}
        shown = [place for place, saved in enumerate(self._reported) if saved.checkpoint.uri in listed]
        count = shown[-1] + 1 if shown else 0
        # What was reported before a listed one and is not listed itself is older than all that are, or was refused.
        older = [saved for saved in self._reported[:count] if saved.checkpoint.uri not in listed]
        del self._reported[:count]
        known = {saved.checkpoint.uri for saved in self._known}
        fresh = [saved for saved in (*older, *job.checkpoints) if saved.checkpoint.uri not in known]
        self._known += [saved for saved in fresh if saved.checkpoint.uri not in self._done_with]
        unwanted = surplus(self._known)
        self._known = [saved for saved in self._known if saved not in unwanted]
        self._done_with |= {saved.checkpoint.uri for saved in unwanted}
        self._unwanted += [saved.checkpoint.uri for saved in unwanted]
        return unwanted

    async def work_off(self) -> None:
        """Delete what `see` has found. Whoever is cancelled in it leaves the rest for the next one."""
        while self._unwanted:
            key = self._unwanted.pop()
            try:
                await self.delete([key])
            except asyncio.CancelledError:
                self._unwanted.append(key)
                raise

    async def delete(self, unwanted: Iterable[str]) -> None:
        """Delete objects by key. A store that is away keeps them for now: they cost space, nothing else."""
        for key in unwanted:
            try:
                await self._store.delete(key)
                self._log.debug("deleted a checkpoint", key=key)
            except (StoreUnavailable, ValueError) as error:
                self._log.warning("a checkpoint could not be deleted", key=key, error=str(error))

    async def sweep(self, job: Job) -> None:
        """Delete what earlier attempts left behind; once, when the attempt has been granted."""
        try:
            keys = [info.key async for info in self._store.list(f"jobs/{self._job_id}")]
        except StoreUnavailable as error:
            self._log.warning("the checkpoints could not be listed", error=str(error))
            return
        await self.delete(orphans(job, keys))


async def newest_present(store: ObjectStore, job: Job) -> SavedCheckpoint | None:
    """The newest checkpoint to go on from whose object is there; None starts from the beginning.

    When the store is away, the newest one: whether it is there is then for the training child to find out.
    """
    candidates = [saved for saved in reversed(job.checkpoints) if job.may_start_from(saved.checkpoint)]
    for saved in candidates:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                if await store.head(saved.checkpoint.uri) is not None:
                    return saved
        except (StoreUnavailable, TimeoutError):
            return saved
        except ValueError:
            continue
    return None
