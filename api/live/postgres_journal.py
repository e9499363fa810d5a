"""The journal of the relay in PostgreSQL: few, small, indexed reads over the pool that it shares with the requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import asyncpg
import msgspec

from adapters.kafka import partition_of
from api.live import messages
from api.live.feed import COMMITTED, Update
from api.live.journal import Page, Snapshot
from domain.job import Job
from projections import queries
from schemas import facts
from schemas.topics import EVENTS

PAGE = 500
"""Updates read at once: about 350 kB of records."""

_SNAPSHOT = """
SELECT coalesce((SELECT version FROM log.workspaces WHERE workspace = $1 AND partition = $2), 0) AS version,
       (SELECT log_id FROM log.history) AS log,
       (SELECT state FROM read.jobs WHERE workspace = $1 AND job_id = $3) AS state
"""
_VERSIONS = "SELECT workspace, max(version) FROM log.workspaces WHERE workspace = ANY($1) GROUP BY workspace"

JobDocument = Callable[[Job], Any]
"""Makes the document that `GET /api/train/status` answers, of a job; msgspec must be able to encode it."""
_job = msgspec.json.Decoder(Job)


class PostgresJournal:
    """Reads `log` and `read`. Every statement sees one moment, so a snapshot needs no transaction around it."""

    def __init__(self, pool: asyncpg.Pool, document: JobDocument) -> None:
        self._pool = pool
        self._document = document

    async def snapshot(self, workspace: str, job_id: str | None) -> Snapshot:
        row = await self._pool.fetchrow(_SNAPSHOT, workspace, _home(workspace), job_id)
        state = row["state"]
        job = None if state is None else messages.document(self._document(_job.decode(state)))
        return Snapshot(row["version"], row["log"], job)

    async def since(self, workspace: str, version: int, job_id: str | None) -> Page:
        # Read first: whatever is committed up to here, the page that is read afterwards has.
        through = version if job_id is None else await queries.workspace_version(self._pool, workspace)
        rows = await queries.facts_since(self._pool, workspace, version, job_id=job_id, limit=PAGE)
        updates = [_update(row.value) for row in rows]
        if updates and (job_id is None or len(rows) == PAGE):
            through = updates[-1].version
        elif updates:
            through = max(through, updates[-1].version)
        return Page(updates, max(version, through))

    async def versions(self, workspaces: Sequence[str]) -> Mapping[str, int]:
        rows = await self._pool.fetch(_VERSIONS, list(workspaces))
        return dict(rows)


def _update(value: bytes) -> Update:
    fact = facts.decode(value)
    job_id = fact.job.job_id if fact.job else None
    return Update(fact.version, COMMITTED, job_id, messages.job_update(fact))


def _home(workspace: str) -> int:
    return partition_of(workspace.encode(), EVENTS.partitions)
