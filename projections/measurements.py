"""Reads of what was measured beside a job: step metrics and log lines. Kept 30 days, never folded, so no version counts them.

Both are in the order in which the training process made them: by attempt, then by its own sequence.
"""

from __future__ import annotations

from typing import Any

import msgspec

Place = tuple[int, int]
"""Attempt and sequence: where a page ended."""
BEGINNING: Place = (0, -1)


class LoggedLines(msgspec.Struct, frozen=True):
    """Lines that came in one piece. `lines` is JSON: an array of [stream, text]."""

    attempt: int
    sequence: int
    at: int
    lines: msgspec.Raw


class MeasuredStep(msgspec.Struct, frozen=True):
    """The metrics of one step. `metrics` is JSON: an object of numbers."""

    attempt: int
    sequence: int
    at: int
    epoch: int
    step: int
    metrics: msgspec.Raw


async def log_lines(
    source: Any, workspace: str, job_id: str, *, after: Place = BEGINNING, limit: int
) -> list[LoggedLines]:
    """What the job's training processes wrote."""
    rows = await source.fetch(
        "SELECT attempt, sequence, at, lines FROM telemetry.log_lines WHERE workspace = $1 AND job_id = $2"
        " AND (attempt, sequence) > ($3, $4) ORDER BY attempt, sequence LIMIT $5",
        workspace,
        job_id,
        *after,
        limit,
    )
    return [LoggedLines(row[0], row[1], row[2], msgspec.Raw(row[3])) for row in rows]


async def step_metrics(
    source: Any, workspace: str, job_id: str, *, after: Place = BEGINNING, limit: int
) -> list[MeasuredStep]:
    """What the job's training processes measured, step by step."""
    rows = await source.fetch(
        "SELECT attempt, sequence, at, epoch, step, metrics FROM telemetry.step_metrics WHERE workspace = $1"
        " AND job_id = $2 AND (attempt, sequence) > ($3, $4) ORDER BY attempt, sequence LIMIT $5",
        workspace,
        job_id,
        *after,
        limit,
    )
    return [MeasuredStep(row[0], row[1], row[2], row[3], row[4], msgspec.Raw(row[5])) for row in rows]
