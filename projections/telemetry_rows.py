"""Measurements as rows: decoded one by one, written in sets, and writing them twice changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import asyncpg
import msgspec

from schemas.telemetry import AnyTelemetry, LogLines, ResourceSample, StepMetrics, decode

Row = tuple[Any, ...]
_encode = msgspec.json.Encoder().encode
_KEY = "workspace, job_id, attempt, sequence, at"
_KEY_TYPES = "$1::text[], $2::text[], $3::int[], $4::bigint[], $5::bigint[]"
# What is ours in these statements is only the names of columns.
_INSERTS = {
    kind: f"INSERT INTO telemetry.{table} ({_KEY}, {columns}) SELECT * FROM unnest({_KEY_TYPES}, {types})"  # noqa: S608
    " ON CONFLICT DO NOTHING"
    for kind, table, columns, types in (
        (StepMetrics, "step_metrics", "epoch, step, metrics", "$6::int[], $7::bigint[], $8::bytea[]"),
        (LogLines, "log_lines", "lines", "$6::bytea[]"),
        (
            ResourceSample,
            "resource_samples",
            "cpu_percent, memory_bytes, gpu_percent, gpu_memory_bytes",
            "$6::float8[], $7::bigint[], $8::float8[], $9::bigint[]",
        ),
    )
}


def row(value: bytes | None) -> tuple[type[AnyTelemetry], Row]:
    """A measurement's kind and row. Raises `ValueError` for what is none (`msgspec.DecodeError` is one)."""
    found = decode(value or b"")
    if "\0" in found.workspace or "\0" in found.job_id:
        raise ValueError("NUL character in an id")
    key = (found.workspace, found.job_id, found.attempt, found.sequence, found.at)
    match found:
        case StepMetrics():
            return StepMetrics, (*key, found.epoch, found.step, _encode(found.metrics))
        case LogLines():
            return LogLines, (*key, _encode(found.lines))
        case ResourceSample():
            return ResourceSample, (
                *key,
                found.cpu_percent,
                found.memory_bytes,
                found.gpu_percent,
                found.gpu_memory_bytes,
            )


def rows(values: Iterable[bytes | None]) -> tuple[dict[type[AnyTelemetry], list[Row]], int]:
    """The rows of a batch by kind, and how many values are no measurements."""
    sorted_out: dict[type[AnyTelemetry], list[Row]] = {}
    poison = 0
    for value in values:
        try:
            kind, made = row(value)
        except ValueError:
            poison += 1
        else:
            sorted_out.setdefault(kind, []).append(made)
    return sorted_out, poison


async def write(pool: asyncpg.Pool, batch: dict[type[AnyTelemetry], list[Row]]) -> None:
    """Store what is not stored yet. Whatever `row` accepts has room in its columns. Raises what `is_outage` knows."""
    for kind, made in batch.items():
        await pool.execute(_INSERTS[kind], *zip(*made, strict=True))
