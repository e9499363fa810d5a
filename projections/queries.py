"""Reads of the read model: one statement each, found by an index, always within one workspace.

`source` is a pool or a connection. Lists are newest first; `before` is the version at which the page before ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from domain.history import chain
from domain.job import Job
from domain.workspace import Dataset, Model
from projections.reading import home
from schemas.envelope import PREFIX
from schemas.facts import join

_NEWEST = 2**63 - 1
_LAST_EPOCH = 2**31 - 1
_job = msgspec.json.Decoder(Job)
_dataset = msgspec.json.Decoder(Dataset)
_model = msgspec.json.Decoder(Model)


class JobRow(msgspec.Struct, frozen=True):
    """A job in a list. `requested_version` is the workspace's at its request: the list's order."""

    job: Job
    requested_version: int


class JobSeen(msgspec.Struct, frozen=True):
    """A job, if there is one, and the version of its workspace at the moment when it was so."""

    job: Job | None
    version: int


class EpochRow(msgspec.Struct, frozen=True):
    """An epoch of one attempt. `at` is the broker's time, milliseconds since 1970.

    `metrics` is the JSON object that is stored: a job of a thousand epochs is answered sooner if none is read and written anew.
    """

    attempt: int
    epoch: int
    version: int
    at: int
    loss: float | None
    metrics: msgspec.Raw


class _Loss(msgspec.Struct):
    loss: float | None = None


_loss = msgspec.json.Decoder(_Loss)


def epoch_row(row: Any) -> EpochRow:
    """Of a row of attempt, epoch, version, at, metrics."""
    return EpochRow(row[0], row[1], row[2], row[3], _loss.decode(row[4]).loss, msgspec.Raw(row[4]))


class JobEvent(msgspec.Struct, frozen=True):
    """A record about a job, effective (then it has a version) or refused. `type` is the bare name."""

    partition: int
    offset: int
    at: int
    id: str
    type: str
    actor: str
    version: int | None
    refusal: str | None
    data: msgspec.Raw
    """The event's own JSON, as it was written."""


class RequestVerdict(msgspec.Struct, frozen=True):
    """What became of the first occurrence of a request's id. `type` is the name on the log."""

    id: str
    type: str
    subject: str
    version: int | None
    refusal: str | None
    requesthash: str | None


class FactRow(msgspec.Struct, frozen=True):
    """A fact out of the journal, byte for byte as it was published."""

    version: int
    value: bytes


def _below(before: int | None) -> int:
    return _NEWEST if before is None else before


class _Data(msgspec.Struct):
    data: msgspec.Raw


_data = msgspec.json.Decoder(_Data)


async def jobs_seen(source: Any, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], JobSeen]:
    """The jobs of these (workspace, id), each with its workspace's version, all as of one moment."""
    rows = await source.fetch(
        "SELECT k.workspace, k.id, w.version, j.state FROM unnest($1::text[], $2::text[], $3::int[]) AS"
        " k(workspace, id, partition) LEFT JOIN log.workspaces w ON w.workspace = k.workspace AND"
        " w.partition = k.partition LEFT JOIN read.jobs j ON j.workspace = k.workspace AND j.job_id = k.id",
        [workspace for workspace, _ in keys],
        [id for _, id in keys],
        [home(workspace.encode()) for workspace, _ in keys],
    )
    return {(row[0], row[1]): JobSeen(None if row[3] is None else _job.decode(row[3]), row[2] or 0) for row in rows}


async def jobs_page(
    source: Any, workspace: str, *, limit: int, before: int | None = None, status: str | None = None
) -> list[JobRow]:
    """Jobs, all or of one status."""
    rows = await job_states_page(source, workspace, limit=limit, before=before, status=status)
    return [JobRow(_job.decode(state), requested_version) for state, requested_version in rows]


async def job_states_page(
    source: Any, workspace: str, *, limit: int, before: int | None = None, status: str | None = None
) -> list[tuple[bytes, int]]:
    """The same, each job as the JSON of `domain.job.Job`, for whoever keeps what it made of it; and its requested version."""
    # Two statements, each with its own index: one with "OR status IS NULL" in it would be planned for neither.
    if status is None:
        rows = await source.fetch(
            "SELECT state, requested_version FROM read.jobs WHERE workspace = $1 AND requested_version < $2"
            " ORDER BY requested_version DESC LIMIT $3",
            workspace,
            _below(before),
            limit,
        )
    else:
        rows = await source.fetch(
            "SELECT state, requested_version FROM read.jobs WHERE workspace = $1 AND status = $4"
            " AND requested_version < $2 ORDER BY requested_version DESC LIMIT $3",
            workspace,
            _below(before),
            limit,
            status,
        )
    return [(row[0], row[1]) for row in rows]


async def history(source: Any, workspace: str, job: Job) -> list[EpochRow]:
    """The epochs that count, each once, from the first on: along the chain of attempts that leads to where the job is."""
    segments = chain(job.origins)
    rows = await source.fetch(
        "SELECT e.attempt, e.epoch, e.version, e.at, e.metrics"
        " FROM unnest($3::int[], $4::int[], $5::int[]) AS s(attempt, after, through)"
        " JOIN read.epochs e ON e.workspace = $1 AND e.job_id = $2 AND e.attempt = s.attempt"
        " AND e.epoch > s.after AND e.epoch <= s.through ORDER BY e.epoch",
        workspace,
        job.id,
        [segment.attempt for segment in segments],
        [segment.after for segment in segments],
        [_LAST_EPOCH if segment.through is None else segment.through for segment in segments],
    )
    return [epoch_row(row) for row in rows]


async def job_events(
    source: Any, workspace: str, job_id: str, *, after: int = -1, limit: int | None = None
) -> list[JobEvent]:
    """Every record about the job in log order, refused ones included, from behind the offset `after`.

    Records that only claim to be of this workspace (another key, another partition) are not its own.
    """
    rows = await source.fetch(
        'SELECT partition, "offset", at, id, type, actor, version, refusal, value FROM log.journal'
        ' WHERE workspace = $1 AND subject = $2 AND partition = $3 AND "offset" > $4 AND key = $5'
        ' ORDER BY "offset" LIMIT $6',
        workspace,
        job_id,
        home(workspace.encode()),
        after,
        workspace.encode(),
        limit,
    )
    return [
        JobEvent(
            partition=row["partition"],
            offset=row["offset"],
            at=row["at"],
            id=row["id"],
            type=row["type"].removeprefix(PREFIX),
            actor=row["actor"],
            version=row["version"],
            refusal=row["refusal"],
            data=_data.decode(row["value"]).data,
        )
        for row in rows
    ]


async def dataset(source: Any, workspace: str, dataset_id: str) -> Dataset | None:
    """The dataset version, if this workspace has it."""
    state = await source.fetchval(
        "SELECT state FROM read.datasets WHERE workspace = $1 AND dataset_id = $2", workspace, dataset_id
    )
    return None if state is None else _dataset.decode(state)


async def datasets_page(source: Any, workspace: str, *, limit: int, before: int | None = None) -> list[Dataset]:
    """Dataset versions; their order is their own version."""
    rows = await source.fetch(
        "SELECT state FROM read.datasets WHERE workspace = $1 AND version < $2 ORDER BY version DESC LIMIT $3",
        workspace,
        _below(before),
        limit,
    )
    return [_dataset.decode(row[0]) for row in rows]


async def models_page(source: Any, workspace: str, *, limit: int, before: int | None = None) -> list[Model]:
    """The newest version of each model; their order is that version's own version."""
    rows = await source.fetch(
        "SELECT m.state FROM read.models m WHERE m.workspace = $1 AND m.version < $2 AND NOT EXISTS ("
        " SELECT 1 FROM read.models newer WHERE newer.workspace = m.workspace AND newer.name = m.name"
        " AND newer.number > m.number) ORDER BY m.version DESC LIMIT $3",
        workspace,
        _below(before),
        limit,
    )
    return [_model.decode(row[0]) for row in rows]


async def model_versions(
    source: Any, workspace: str, name: str, *, limit: int | None = None, before: int | None = None
) -> list[Model]:
    """The versions of one model, newest first; `before` is a number of the model's. Empty where there is no such model."""
    rows = await source.fetch(
        "SELECT state FROM read.models WHERE workspace = $1 AND name = $2 AND number < $3 ORDER BY number DESC LIMIT $4",
        workspace,
        name,
        _below(before),
        limit,
    )
    return [_model.decode(row[0]) for row in rows]


async def model_version(source: Any, workspace: str, name: str, number: int) -> Model | None:
    """One version of a model, if this workspace has it."""
    state = await source.fetchval(
        "SELECT state FROM read.models WHERE workspace = $1 AND name = $2 AND number = $3", workspace, name, number
    )
    return None if state is None else _model.decode(state)


async def workspace_version(source: Any, workspace: str) -> int:
    """How many records have taken effect in the workspace, and are stored."""
    found = await source.fetchval(
        "SELECT version FROM log.workspaces WHERE workspace = $1 AND partition = $2",
        workspace,
        home(workspace.encode()),
    )
    return int(found or 0)


async def request_verdict(source: Any, workspace: str, id: str) -> RequestVerdict | None:
    """The verdict on the first record of that id, once it is judged and stored."""
    row = await source.fetchrow(
        "SELECT id, type, subject, version, refusal, requesthash FROM log.requests WHERE workspace = $1 AND id = $2",
        workspace,
        id,
    )
    return None if row is None else RequestVerdict(*row)


async def facts_since(
    source: Any, workspace: str, version: int, *, job_id: str | None = None, limit: int = 1000
) -> list[FactRow]:
    """The facts after `version`, oldest first: of the workspace, or of one job."""
    if job_id is None:
        rows = await source.fetch(
            "SELECT version, value, tail FROM log.journal WHERE workspace = $1 AND version > $2"
            " ORDER BY version LIMIT $3",
            workspace,
            version,
            limit,
        )
    else:
        # Versions rise with offsets, so the job's own index, which is in offset order, gives them in order too.
        rows = await source.fetch(
            "SELECT version, value, tail FROM log.journal WHERE workspace = $1 AND subject = $4 AND partition = $5"
            ' AND version > $2 AND "offset" > coalesce((SELECT "offset" FROM log.journal WHERE workspace = $1'
            ' AND version = $2), -1) ORDER BY "offset" LIMIT $3',
            workspace,
            version,
            limit,
            job_id,
            home(workspace.encode()),
        )
    return [FactRow(row[0], join(row[1], row[2])) for row in rows]


async def log_id(source: Any) -> str:
    """The name of this history; a restored backup has another."""
    return str(await source.fetchval("SELECT log_id FROM log.history"))
