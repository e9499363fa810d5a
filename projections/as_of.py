"""Time travel: a job, the board and the registry as they were after a version of the workspace.

A job is the nearest snapshot before that version (`projections.snapshots`) and the few effective records after it, folded
by `domain`. What the journal says took effect is not judged again. Datasets, model versions and epochs never change once
they exist, so as of a version they are those that are not younger. Every function is one to three statements, found by
an index, whatever the length of the history. `version` must be one that the read model has reached (`resolve`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from domain import job as jobs
from domain.events import JobRequested, ModelRegistered
from domain.history import chain
from domain.job import Job
from domain.workspace import Dataset, Model
from projections.queries import EpochRow, JobRow, epoch_row, workspace_version
from projections.reading import home
from schemas.envelope import decode

EVERY = 64
"""A snapshot of a job after so many effective records of it: the most that has to be folded for one, and about 3 % of the
journal's size."""
_CHUNK = 2_000
_NEWEST = 2**63 - 1
_LAST_EPOCH = 2**31 - 1
_SLICE = 256
"""Records folded before others on the loop get their turn: about two milliseconds."""
_job = msgspec.json.Decoder(Job)
_dataset = msgspec.json.Decoder(Dataset)
_model = msgspec.json.Decoder(Model)
_encode = msgspec.json.Encoder().encode


class NotReached(Exception):
    """A version that the workspace has not come to yet. `current` is the one that it has."""

    def __init__(self, version: int, current: int) -> None:
        super().__init__(f"The workspace is at version {current}; there is no version {version} yet.")
        self.version = version
        self.current = current


class NoMoment(ValueError):
    """Neither a version nor an RFC 3339 time with its offset from UTC."""


class Standing(msgspec.Struct, frozen=True):
    """A job at some version, and how much was folded since its last snapshot."""

    job: Job
    offset: int
    since: int


def parse(text: str) -> int | datetime:
    """What `?as_of=` says: a version, or a moment. Raises `NoMoment`."""
    if text.isascii() and text.isdigit() and len(text) < 17:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise NoMoment("a version (a whole number) or an RFC 3339 time like 2026-05-01T12:00:00Z is expected")
    return moment


async def resolve(source: Any, workspace: str, as_of: int | datetime) -> int:
    """The version that `as_of` means now: itself, or the last one at that moment.

    Raises `NotReached`. Moments are the broker's time; where its clock was set back, there are two answers, and this
    gives one of them.
    """
    current = await workspace_version(source, workspace)
    if isinstance(as_of, int):
        if as_of > current:
            raise NotReached(as_of, current)
        return as_of
    return await version_at(source, workspace, int(as_of.timestamp() * 1000), current)


_VERSION_AT = """
WITH RECURSIVE search(low, high) AS (
    SELECT 0::bigint, $3::bigint
    UNION ALL
    SELECT CASE WHEN found.at <= $2 THEN middle ELSE low END, CASE WHEN found.at <= $2 THEN high ELSE middle - 1 END
      FROM search
     CROSS JOIN LATERAL (SELECT (low + high + 1) / 2 AS middle) AS half
     CROSS JOIN LATERAL (SELECT at FROM log.journal WHERE workspace = $1 AND version = middle) AS found
     WHERE low < high
)
SELECT low FROM search WHERE low = high
"""


async def version_at(source: Any, workspace: str, at: int, current: int) -> int:
    """The last version of the workspace at `at` (ms since 1970), of `current` ones: a binary search in the index."""
    found = await source.fetchval(_VERSION_AT, workspace, at, current)
    return int(found or 0)


async def job(source: Any, workspace: str, job_id: str, version: int) -> Job | None:
    """The job as it was then; None if it did not exist yet."""
    row = await source.fetchrow(
        "SELECT requested_version, version, state FROM read.jobs WHERE workspace = $1 AND job_id = $2",
        workspace,
        job_id,
    )
    if row is None or row["requested_version"] > version:
        return None
    if row["version"] <= version:
        return _job.decode(row["state"])
    found = (await standings(source, workspace, [job_id], version)).get(job_id)
    return found.job if found else None


_PAGE = """
SELECT job_id, requested_version, version, CASE WHEN version <= $2 THEN state END AS state
  FROM read.jobs WHERE workspace = $1 AND requested_version <= $2 AND requested_version < $3
"""
_PAGE_OF_STATUS = f"{_PAGE} AND (version > $2 OR status = $5) ORDER BY requested_version DESC LIMIT $4"
_PAGE_OF_ALL = f"{_PAGE} ORDER BY requested_version DESC LIMIT $4"


async def jobs_page(
    source: Any, workspace: str, version: int, *, limit: int, before: int | None = None, status: str | None = None
) -> list[JobRow]:
    """The board as it was then, newest first; as `projections.queries.jobs_page`."""
    found: list[JobRow] = []
    below = _NEWEST if before is None else before
    while len(found) < limit:
        wanted = limit - len(found)
        if status is None:
            rows = await source.fetch(_PAGE_OF_ALL, workspace, version, below, wanted)
        else:
            # Of those that changed since, some had another status then: a few more are looked at than are wanted.
            wanted = max(wanted, 50)
            rows = await source.fetch(_PAGE_OF_STATUS, workspace, version, below, wanted, status)
        changed = [row["job_id"] for row in rows if row["state"] is None]
        then = await standings(source, workspace, changed, version)
        for row in rows:
            state = then[row["job_id"]].job if row["state"] is None else _job.decode(row["state"])
            if status is None or state.status.value == status:
                found.append(JobRow(state, row["requested_version"]))
        if len(rows) < wanted:
            break
        below = rows[-1]["requested_version"]
    return found[:limit]


async def history(source: Any, workspace: str, job: Job, version: int) -> list[EpochRow]:
    """The epochs that counted then, of a job as it was then; as `projections.queries.history`."""
    segments = chain(job.origins)
    rows = await source.fetch(
        "SELECT e.attempt, e.epoch, e.version, e.at, e.metrics"
        " FROM unnest($3::int[], $4::int[], $5::int[]) AS s(attempt, after, through)"
        " JOIN read.epochs e ON e.workspace = $1 AND e.job_id = $2 AND e.attempt = s.attempt"
        " AND e.epoch > s.after AND e.epoch <= s.through WHERE e.version <= $6 ORDER BY e.epoch",
        workspace,
        job.id,
        [segment.attempt for segment in segments],
        [segment.after for segment in segments],
        # Beyond the epoch that the job had reached there is nothing of then, so nothing younger is read.
        [min(_LAST_EPOCH if s.through is None else s.through, max(job.epoch, 0)) for s in segments],
        version,
    )
    return [epoch_row(row) for row in rows]


async def dataset(source: Any, workspace: str, dataset_id: str, version: int) -> Dataset | None:
    """The dataset version, if the workspace had it then."""
    state = await source.fetchval(
        "SELECT state FROM read.datasets WHERE workspace = $1 AND dataset_id = $2 AND version <= $3",
        workspace,
        dataset_id,
        version,
    )
    return None if state is None else _dataset.decode(state)


async def datasets_page(
    source: Any, workspace: str, version: int, *, limit: int, before: int | None = None
) -> list[Dataset]:
    """The dataset versions of then, newest first; as `projections.queries.datasets_page`."""
    rows = await source.fetch(
        "SELECT state FROM read.datasets WHERE workspace = $1 AND version < $2 ORDER BY version DESC LIMIT $3",
        workspace,
        min(version + 1, _NEWEST if before is None else before),
        limit,
    )
    return [_dataset.decode(row[0]) for row in rows]


async def models_page(
    source: Any, workspace: str, version: int, *, limit: int, before: int | None = None
) -> list[Model]:
    """The newest version of each model then; as `projections.queries.models_page`."""
    # Numbers rise with versions and have no holes, so one look at the next number tells whether there was a newer one.
    rows = await source.fetch(
        "SELECT m.state FROM read.models m WHERE m.workspace = $1 AND m.version < $2 AND NOT coalesce(("
        " SELECT newer.version <= $4 FROM read.models newer WHERE newer.workspace = m.workspace AND newer.name = m.name"
        " AND newer.number = m.number + 1), false) ORDER BY m.version DESC LIMIT $3",
        workspace,
        min(version + 1, _NEWEST if before is None else before),
        limit,
        version,
    )
    return [_model.decode(row[0]) for row in rows]


async def model_versions(
    source: Any, workspace: str, name: str, version: int, *, limit: int | None = None, before: int | None = None
) -> list[Model]:
    """The versions that a model had then, newest first; as `projections.queries.model_versions`."""
    rows = await source.fetch(
        "SELECT state FROM read.models WHERE workspace = $1 AND name = $2 AND number < $3 AND version <= $5"
        " ORDER BY number DESC LIMIT $4",
        workspace,
        name,
        _NEWEST if before is None else before,
        limit,
        version,
    )
    return [_model.decode(row[0]) for row in rows]


# --- folding ----------------------------------------------------------------------------------------------------------

_SNAPSHOTS = """
SELECT k.id, s.version, s."offset", s.state
  FROM unnest($2::text[]) AS k(id) CROSS JOIN LATERAL (
       SELECT version, "offset", state FROM audit.job_states
        WHERE workspace = $1 AND job_id = k.id AND version <= $3 ORDER BY version DESC LIMIT 1) AS s
"""
# Records are found by the job's own index, from behind its snapshot up to the offset of the version.
_TAILS = """
SELECT k.id, r."offset", r.at, r.version, r.actor, r.value, r.tail
  FROM unnest($2::text[], $3::bigint[]) AS k(id, after) CROSS JOIN LATERAL (
       SELECT "offset", at, version, actor, value, CASE WHEN type = 'ravand.ModelRegistered' THEN tail END AS tail
         FROM log.journal
        WHERE workspace = $1 AND subject = k.id AND partition = $4 AND "offset" > k.after AND version <= $5
          AND "offset" <= (SELECT "offset" FROM log.journal WHERE workspace = $1 AND version = $5)
        ORDER BY "offset" LIMIT $6) AS r
"""


async def standings(source: Any, workspace: str, job_ids: Sequence[str], version: int) -> dict[str, Standing]:
    """Those of the jobs that existed after `version`, as they were then.

    Where a job had more records than a snapshot should leave to be folded, the snapshots that were passed are kept, so
    that the next one to ask waits for less. They are a cache: a reader that may not write just does not.
    """
    found: dict[str, Standing] = {}
    for row in await source.fetch(_SNAPSHOTS, workspace, list(job_ids), version) if job_ids else ():
        found[row["id"]] = Standing(_job.decode(row["state"]), row["offset"], 0)
    missing: list[tuple[str, str, int, int, bytes]] = []
    behind = list(job_ids)
    while behind:
        rows = await source.fetch(
            _TAILS,
            workspace,
            behind,
            [found[id].offset if id in found else -1 for id in behind],
            home(workspace.encode()),
            version,
            max(2 * EVERY, _CHUNK // len(behind)),
        )
        counts: dict[str, int] = {}
        for number, row in enumerate(rows):
            id = row["id"]
            counts[id] = counts.get(id, 0) + 1
            then = step(found.get(id), id, row)
            if then is None:
                continue
            if then.since >= EVERY:
                missing.append((workspace, id, row["version"], then.offset, _encode(then.job)))
                then = Standing(then.job, then.offset, 0)
            found[id] = then
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        full = max(2 * EVERY, _CHUNK // len(behind))
        behind = [id for id in behind if counts.get(id, 0) == full]
    if missing:
        with contextlib.suppress(asyncpg.ReadOnlySQLTransactionError, asyncpg.InsufficientPrivilegeError):
            await store(source, missing)
    return found


def step(before: Standing | None, job_id: str, row: Mapping[str, Any]) -> Standing | None:
    """The job after one more of its effective records, a row of the journal. None before it was requested."""
    envelope = decode(row["value"])
    event, at, version = envelope.data, row["at"], row["version"]
    if isinstance(event, JobRequested):
        after = jobs.request(event, job_id=job_id, actor=envelope.actor, at=at, version=version)
    elif before is None:
        return None
    else:
        number = _model_number(row["tail"]) if isinstance(event, ModelRegistered) else 0
        after = jobs.evolve(before.job, event, at=at, version=version, model_number=number)  # type: ignore[arg-type]
    return Standing(after, row["offset"], (before.since if before else 0) + 1)


class _ModelOf(msgspec.Struct):
    class _Job(msgspec.Struct):
        class _Model(msgspec.Struct):
            number: int

        model: _Model

    job: _Job


_model_of = msgspec.json.Decoder(_ModelOf)


def _model_number(tail: bytes) -> int:
    """The number that the model's version was given: what the fact of the record says."""
    return _model_of.decode(b"{" + tail[1:]).job.model.number


async def store(source: Any, snapshots: Sequence[tuple[str, str, int, int, bytes]]) -> None:
    """Keep snapshots: (workspace, job, version, offset, state). Those that exist are the same."""
    await source.execute(
        'INSERT INTO audit.job_states (workspace, job_id, version, "offset", state)'
        " SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[]) ON CONFLICT DO NOTHING",
        *zip(*snapshots, strict=True),
    )
