"""Stores a judged batch: rows, journal and the new position in one transaction, guarded by the old position.

A large batch is copied, table by table. A small one, of which somebody may be waiting for a verdict, is one statement: one
round trip and one flush instead of nine round trips.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import asyncpg
import msgspec

from projections import announcements
from projections.batch import JOURNAL, Batch, Row
from projections.tables import LIVE, PROJECTED, in_schema

_encode = msgspec.json.Encoder().encode

_MOVE = """
UPDATE log.cursors SET next_offset = $3, published = greatest(published, $4), rules = $5, chain = $6
 WHERE partition = $1 AND next_offset = $2 AND generation = $7
"""
# Before the cursor's row, as the statement for a small batch does it by itself: whoever swaps these tables locks them first
# and the cursors then, so nobody waits in a circle.
_LOCK = f"LOCK TABLE {', '.join(PROJECTED)} IN ROW EXCLUSIVE MODE"
_JOBS = """
INSERT INTO read.jobs (workspace, job_id, status, priority, requested_version, version, state)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::bigint[], $6::bigint[], $7::bytea[])
    ON CONFLICT (workspace, job_id) DO UPDATE
   SET status = excluded.status, priority = excluded.priority, version = excluded.version, state = excluded.state
"""
_DATASETS = """
INSERT INTO read.datasets (workspace, dataset_id, name, number, version, state)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[])
"""
_MODELS = """
INSERT INTO read.models (workspace, name, number, version, job_id, state)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::bytea[])
"""
_WORKSPACES = """
INSERT INTO log.workspaces (workspace, partition, version)
SELECT workspace, $1, version FROM unnest($2::text[], $3::bigint[]) AS changed(workspace, version)
    ON CONFLICT (workspace, partition) DO UPDATE SET version = excluded.version
"""
_STRIKE = """
UPDATE read.checkpoints c SET struck = true
  FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::bigint[]) AS k(workspace, job_id, attempt, epoch, step)
 WHERE (c.workspace, c.job_id, c.attempt, c.epoch, c.step) = (k.workspace, k.job_id, k.attempt, k.epoch, k.step)
"""
_REQUESTS = ("workspace", "id", "partition", "offset", "type", "subject", "version", "refusal", "requesthash")
_EPOCHS = ("workspace", "job_id", "attempt", "epoch", "version", "at", "metrics")
_CHECKPOINTS = ("workspace", "job_id", "attempt", "epoch", "step", "uri", "sha256", "version", "struck")


_SMALL = 40
"""Records up to which one statement is the faster way."""
_TYPES = {
    "journal": ("int", "bigint", "bigint", *("text",) * 5, "bigint", "text", *("bytea",) * 5),
    "requests": ("text", "text", "int", "bigint", "text", "text", "bigint", "text", "text"),
    "epochs": ("text", "text", "int", "int", "bigint", "bigint", "bytea"),
    "checkpoints": ("text", "text", "int", "int", "bigint", "text", "text", "bigint", "boolean"),
    "jobs": ("text", "text", "text", "int", "bigint", "bigint", "bytea"),
    "workspaces": ("text", "int", "bigint"),
}
_INTO = {
    "journal": ("log.journal", JOURNAL, ""),
    "requests": ("log.requests", _REQUESTS, ""),
    "epochs": ("read.epochs", _EPOCHS, ""),
    "checkpoints": ("read.checkpoints", _CHECKPOINTS, ""),
    "jobs": (
        "read.jobs",
        ("workspace", "job_id", "status", "priority", "requested_version", "version", "state"),
        " ON CONFLICT (workspace, job_id) DO UPDATE SET status = excluded.status, priority = excluded.priority,"
        " version = excluded.version, state = excluded.state",
    ),
    "workspaces": (
        "log.workspaces",
        ("workspace", "partition", "version"),
        " ON CONFLICT (workspace, partition) DO UPDATE SET version = excluded.version",
    ),
}


def _at_once() -> str:
    """The statement for a small batch. Nothing is inserted, and nobody notified, unless the cursor moved."""
    parts, number = [f"moved AS ({_MOVE.strip()} RETURNING 1)"], 8
    for name, types in _TYPES.items():
        table, columns, conflict = _INTO[name]
        arrays = ", ".join(f"${number + i}::{kind}[]" for i, kind in enumerate(types))
        quoted = ", ".join(f'"{column}"' for column in columns)
        parts.append(
            f"{name}_in AS (INSERT INTO {table} ({quoted}) SELECT u.* FROM moved, unnest({arrays}) AS u{conflict})"  # noqa: S608
        )
        number += len(types)
    told = f"CASE WHEN ${number} <> '' THEN pg_notify('{announcements.VERDICTS}', ${number}) END"
    moved = f"pg_notify('{announcements.COMMITS}', ${number + 1})"
    return f"WITH {', '.join(parts)} SELECT {told}, {moved} FROM moved"  # noqa: S608


_AT_ONCE = _at_once()


class LostRace(Exception):
    """The stored cursor is not where this batch begins, or its tables were swapped. Nothing was written."""


async def write(pool: asyncpg.Pool, batch: Batch, published: int) -> None:
    """Commit `batch`, and that everything before the position `published` is acknowledged by the topics.

    Raises `LostRace`, and what asyncpg raises; then the outcome is unknown.
    """
    if len(batch.journal) <= _SMALL and not (batch.datasets or batch.models or batch.struck):
        await _write_at_once(pool, batch, published)
        return
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(_LOCK)
        # Before any row, since it locks the cursor: of two who judged the same stretch, the other waits here and loses.
        moved = await connection.execute(_MOVE, *_move(batch, published))
        if moved != "UPDATE 1":
            raise LostRace(f"partition {batch.partition} no longer stands at {batch.start}")
        await _copy(connection, "log.journal", JOURNAL, batch.journal)
        await write_rows(connection, batch)
        await connection.execute(
            "SELECT pg_notify($1, $2)", announcements.COMMITS, announcements.commit(batch.partition, batch.end)
        )


async def store_published(pool: asyncpg.Pool, partition: int, position: int, published: int) -> None:
    """Note at a clean stop what is acknowledged, so that the next one need not publish it again."""
    await pool.execute(
        "UPDATE log.cursors SET published = greatest(published, $3) WHERE partition = $1 AND next_offset = $2",
        partition,
        position,
        published,
    )


def _move(batch: Batch, published: int) -> tuple[Any, ...]:
    return batch.partition, batch.start, batch.end, published, batch.rules, batch.chain, batch.generation


async def write_rows(connection: Any, batch: Batch, schema: str = LIVE) -> None:
    """The rows of the read model that a batch brings about, into the live tables or those of another schema."""
    await _copy(connection, in_schema("log.requests", schema), _REQUESTS, batch.requests)
    await _copy(connection, in_schema("read.epochs", schema), _EPOCHS, batch.epochs)
    await _copy(connection, in_schema("read.checkpoints", schema), _CHECKPOINTS, batch.checkpoints)
    if batch.jobs:
        await connection.execute(in_schema(_JOBS, schema), *_columns(_job_rows(batch)))
    if batch.datasets:
        datasets = [(w, d.id, d.name, d.number, d.version, _encode(d)) for w, d in batch.datasets]
        await connection.execute(in_schema(_DATASETS, schema), *_columns(datasets))
    if batch.models:
        models = [(w, m.name, m.number, m.version, m.job_id, _encode(m)) for w, m in batch.models]
        await connection.execute(in_schema(_MODELS, schema), *_columns(models))
    if batch.struck:
        await connection.execute(in_schema(_STRIKE, schema), *_columns(batch.struck))
    if batch.workspaces:
        names, versions = list(batch.workspaces), list(batch.workspaces.values())
        await connection.execute(in_schema(_WORKSPACES, schema), batch.partition, names, versions)


async def _write_at_once(pool: asyncpg.Pool, batch: Batch, published: int) -> None:
    rows: dict[str, Sequence[Row]] = {
        "journal": batch.journal,
        "requests": batch.requests,
        "epochs": batch.epochs,
        "checkpoints": batch.checkpoints,
        "jobs": _job_rows(batch),
        "workspaces": [(name, batch.partition, version) for name, version in batch.workspaces.items()],
    }
    values: list[Any] = list(_move(batch, published))
    for name, types in _TYPES.items():
        values += _columns(rows[name]) if rows[name] else [()] * len(types)
    values.append(announcements.verdicts(batch.partition, batch.end, batch.requests))
    moved = await pool.fetch(_AT_ONCE, *values, announcements.commit(batch.partition, batch.end))
    if not moved:
        raise LostRace(f"partition {batch.partition} no longer stands at {batch.start}")


def _job_rows(batch: Batch) -> list[Row]:
    """The changed jobs, in one order everywhere, so that no two transactions wait for each other."""
    return [
        (
            workspace,
            job.id,
            job.status.value,
            job.priority,
            batch.requested.get((workspace, job.id), 0),
            job.version,
            _encode(job),
        )
        for (workspace, _), job in sorted(batch.jobs.items(), key=itemgetter(0))
    ]


async def _copy(connection: Any, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    if rows:
        schema, _, table = name.partition(".")
        await connection.copy_records_to_table(table, schema_name=schema, columns=columns, records=rows)


def _columns(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True))
