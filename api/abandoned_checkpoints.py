"""Deletes the checkpoints of jobs that are over which their workers have left: killed, or before they knew what took effect.

Kept is what a retry could start from, and the best one, as `domain.kept_checkpoints` says of the job's effective checkpoints.
An object is looked for before the job's row: what a retry saves after that row has a higher attempt's number, or is not
among the objects found. So nothing is deleted that a claim could name, however far the row is behind the log.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import asyncpg
import msgspec
import structlog

from adapters.checkpoint_keys import FOLDER, checkpoints_among, place_of
from adapters.object_store import ObjectStore, StoreUnavailable
from domain.events import CheckpointSaved
from domain.job import Job, SavedCheckpoint
from domain.kept_checkpoints import KEPT, surplus
from projections.reading import home
from schemas.envelope import NAMES, decode

log = structlog.get_logger("api")
_SECONDS = 3_600.0
"""Between two looks at the whole store."""
_AT_ONCE = 200
"""Jobs that one statement asks for; it reads the whole table."""
_JOBS = "SELECT workspace, job_id, state FROM read.jobs WHERE job_id = ANY($1)"
_SAVED = """
SELECT j.value FROM log.journal j LEFT JOIN read.checkpoints c
    ON c.workspace = j.workspace AND c.job_id = j.subject AND c.version = j.version
 WHERE j.workspace = $1 AND j.subject = $2 AND j.partition = $3 AND j.type = $4 AND j.version IS NOT NULL
   AND c.struck IS NOT TRUE ORDER BY j."offset"
"""
_job = msgspec.json.Decoder(Job)


class AbandonedCheckpoints:
    """Several processes may do this at once: an object that is gone already is fine."""

    def __init__(self, pool: asyncpg.Pool, store: ObjectStore, now: Callable[[], float] = time.monotonic) -> None:
        """Looks at the store when it is first told to, and then once an hour at most."""
        self._pool = pool
        self._store = store
        self._now = now
        self._next = now()

    async def tidy(self) -> None:
        """Delete what nobody needs. A store that is away keeps it until the next time."""
        if self._now() < self._next:
            return
        self._next = self._now() + _SECONDS
        try:
            jobs = await self._with_many()
            for first in range(0, len(jobs), _AT_ONCE):
                await self._tidy(jobs[first : first + _AT_ONCE])
        except StoreUnavailable as error:
            log.warning("abandoned checkpoints are kept for now", error=str(error))

    async def _with_many(self) -> list[str]:
        """The jobs with more checkpoints than are kept: the two newest, and the best one."""
        found: Counter[str] = Counter()
        async for one in self._store.list(FOLDER):
            if (place := place_of(one.key)) is not None:
                found[place.job_id] += 1
        return [job_id for job_id, count in found.items() if count > KEPT + 1]

    async def _tidy(self, job_ids: Sequence[str]) -> None:
        keys = {id: [one.key async for one in self._store.list(f"{FOLDER}/{id}")] for id in job_ids}
        rows = await self._pool.fetch(_JOBS, job_ids)
        owners = Counter(row["job_id"] for row in rows)
        for row in rows:
            job = _job.decode(row["state"])
            if not job.is_over or owners[job.id] > 1:  # Ids are drawn; who forged one has no claim to space.
                continue
            workspace = row["workspace"]
            values = await self._pool.fetch(_SAVED, workspace, job.id, home(workspace.encode()), NAMES[CheckpointSaved])
            unwanted = abandoned(job, _saved(value for (value,) in values), keys[job.id])
            for key in unwanted:
                await self._store.delete(key)
            if unwanted:
                log.info("deleted abandoned checkpoints", job=job.id, count=len(unwanted))


def _saved(records: Iterable[bytes]) -> list[SavedCheckpoint]:
    events = [decode(value).data for value in records]
    return [
        SavedCheckpoint(checkpoint=event.checkpoint(), metrics={}, best=event.best)
        for event in events
        if isinstance(event, CheckpointSaved)
    ]


def abandoned(job: Job, saved: list[SavedCheckpoint], keys: Iterable[str]) -> list[str]:
    """Of the objects of a job that is over, the checkpoints to delete. `saved` are the effective ones, in log order."""
    named = [one for one in saved if job.may_start_from(one.checkpoint)]
    unwanted = surplus(named)
    kept = {one.checkpoint.uri for one in named if one not in unwanted}
    kept |= {one.checkpoint.uri for one in job.checkpoints[-KEPT:]}  # The same, unless rows were damaged.
    return [key for key in checkpoints_among(keys, job.id, through_attempt=job.attempt) if key not in kept]
