"""Loads what a batch needs to be judged, in one statement: one snapshot of the read model and of the cursor."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import asyncpg
import msgspec

from domain.events import Checkpoint
from domain.job import Job
from domain.workspace import Dataset, Workspace
from projections.memory import Key, Memory
from projections.tables import LIVE, in_schema

_job = msgspec.json.Decoder(Job)
_dataset = msgspec.json.Decoder(Dataset)

# Single statements have a snapshot of their own, which is all that REPEATABLE READ would give, in one round trip.
_LOAD = """
SELECT 'cursor' AS kind, '' AS workspace, '' AS id, next_offset AS number, 0 AS attempt, 0 AS epoch,
       NULL::bytea AS state, '' AS uri, '' AS sha256
  FROM log.cursors WHERE partition = $1
UNION ALL
SELECT 'workspace', w.workspace, '', w.version, 0, 0, NULL, '', ''
  FROM unnest($2::text[]) AS k(workspace) JOIN log.workspaces w ON w.workspace = k.workspace AND w.partition = $1
UNION ALL
SELECT 'job', j.workspace, j.job_id, 0, 0, 0, j.state, '', ''
  FROM unnest($3::text[], $4::text[]) AS k(workspace, id)
  JOIN read.jobs j ON j.workspace = k.workspace AND j.job_id = k.id
UNION ALL
SELECT 'dataset', d.workspace, d.dataset_id, 0, 0, 0, d.state, '', ''
  FROM unnest($5::text[], $6::text[]) AS k(workspace, id)
  JOIN read.datasets d ON d.workspace = k.workspace AND d.dataset_id = k.id
UNION ALL
SELECT 'series', k.workspace, k.id, last.number, 0, 0, NULL, '', ''
  FROM unnest($7::text[], $8::text[]) AS k(workspace, id) CROSS JOIN LATERAL (
       SELECT number FROM read.datasets d WHERE d.workspace = k.workspace AND d.name = k.id
        ORDER BY number DESC LIMIT 1) AS last
UNION ALL
SELECT 'model', k.workspace, k.id, last.number, 0, 0, NULL, '', ''
  FROM unnest($9::text[], $10::text[]) AS k(workspace, id) CROSS JOIN LATERAL (
       SELECT number FROM read.models m WHERE m.workspace = k.workspace AND m.name = k.id
        ORDER BY number DESC LIMIT 1) AS last
UNION ALL
SELECT 'checkpoint', c.workspace, c.job_id, c.step, c.attempt, c.epoch, NULL, c.uri, c.sha256
  FROM unnest($11::text[], $12::text[], $13::int[], $14::int[], $15::bigint[]) AS k(workspace, id, attempt, epoch, step)
  JOIN read.checkpoints c ON c.workspace = k.workspace AND c.job_id = k.id AND c.attempt = k.attempt
       AND c.epoch = k.epoch AND c.step = k.step
 WHERE NOT c.struck
UNION ALL
SELECT 'request', r.workspace, r.id, 0, 0, 0, NULL, '', ''
  FROM unnest($16::text[], $17::text[]) AS k(workspace, id)
  JOIN log.requests r ON r.workspace = k.workspace AND r.id = k.id
"""


class ForeignCursor(Exception):
    """The stored cursor was moved by somebody else: what is in memory may be wrong, and is dropped."""


async def load(
    pool: asyncpg.Pool,
    memory: Memory,
    partition: int,
    keys: Iterable[Key],
    requests: Collection[tuple[str, str]],
    position: int,
    schema: str = LIVE,
) -> None:
    """Bring into `memory` whatever of `keys` it lacks, and which of `requests` (workspace, id) were used before.

    `position` is where the batch begins that will be judged on it; `schema` is where the rows lie. Raises `ForeignCursor`,
    and what asyncpg raises.
    """
    missing: dict[str, list[tuple[str, object]]] = {
        kind: [] for kind in ("workspace", "job", "dataset", "series", "model", "checkpoint")
    }
    absent = [key for key in keys if key not in memory]
    for kind, workspace, id in absent:
        missing[kind].append((workspace, id))
    if not absent and not requests:
        return
    checkpoints = missing["checkpoint"]
    rows = await pool.fetch(
        in_schema(_LOAD, schema),
        partition,
        [workspace for workspace, _ in missing["workspace"]],
        *_columns(missing["job"]),
        *_columns(missing["dataset"]),
        *_columns(missing["series"]),
        *_columns(missing["model"]),
        [workspace for workspace, _ in checkpoints],
        *([key[part] for _, key in checkpoints] for part in range(4)),  # type: ignore[index]
        *_columns(requests),
    )
    stored = next((row["number"] for row in rows if row["kind"] == "cursor"), None)
    if stored is None or not memory.committed <= stored <= position:
        raise ForeignCursor(f"stored cursor {stored}, own last commit {memory.committed}, position {position}")
    for _, workspace, _ in absent:
        if workspace not in memory.workspaces:
            memory.workspaces[workspace] = Workspace(workspace)
    for row in rows:
        _remember(memory, row)


def _columns(keys: Iterable[tuple[str, object]]) -> tuple[list[str], list[object]]:
    pairs = list(keys)
    return [workspace for workspace, _ in pairs], [id for _, id in pairs]


def _remember(memory: Memory, row: asyncpg.Record) -> None:
    kind, id = row["kind"], row["id"]
    if kind == "cursor":
        return
    workspace = memory.workspaces[row["workspace"]]
    match kind:
        case "workspace":
            workspace.version = row["number"]
        case "job":
            workspace.jobs[id] = _job.decode(row["state"])
        case "dataset":
            workspace.datasets[id] = _dataset.decode(row["state"])
        case "series":
            workspace.series[id] = row["number"]
        case "model":
            workspace.models[id] = row["number"]
        case "checkpoint":
            attempt, epoch, step = row["attempt"], row["epoch"], row["number"]
            workspace.checkpoints[(id, attempt, epoch, step)] = Checkpoint(
                attempt=attempt, epoch=epoch, step=step, uri=row["uri"], sha256=row["sha256"]
            )
        case "request":
            workspace.requests.add(id)
