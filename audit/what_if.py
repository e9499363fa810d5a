"""What would have been different under other circumstances: the simulation of what was, beside that of what might have been.

What is compared are two simulations, so that what the model leaves out falls on both sides. What really happened stands
beside them, and shows how far the model is from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

import msgspec

from audit.simulation import ASSUMPTIONS, Circumstances, Simulation
from audit.workload import Workload

_MOST_CHANGED = 10


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Figures over all jobs, in seconds. Waiting is from the request to the first claim, of jobs that were claimed."""

    jobs: int
    completed: int
    failed: int
    stopped: int
    unfinished: int
    waiting_p50: float
    waiting_p95: float
    waiting_mean: float
    waiting_max: float
    turnaround_p50: float
    """From the request to the end, of jobs that ended."""
    turnaround_p95: float
    lost_work: float
    last_end: float
    """From the first request to the last end."""
    workers_busy: float | None
    """Share of the workers' time; None where it is not known."""


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """A job that would have fared otherwise."""

    job_id: str
    name: str
    waiting_before: float | None
    waiting_after: float | None
    ended_earlier_by: float | None
    """Negative: later. None where it ended in one of the two alone."""


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """The answer."""

    records: int
    before: Circumstances
    after: Circumstances
    really: Outcome
    simulated: Outcome
    would_be: Outcome
    changed: tuple[Changed, ...]
    assumptions: tuple[str, ...]


def compare(workload: Workload, before: Circumstances, after: Circumstances) -> WhatIf:
    """Both simulations of one workload."""
    one, other = Simulation(workload, before).run(), Simulation(workload, after).run()
    return WhatIf(
        records=workload.records,
        before=before,
        after=after,
        really=_lived(workload),
        simulated=_outcome(workload, one),
        would_be=_outcome(workload, other),
        changed=_changed(one, other),
        assumptions=ASSUMPTIONS,
    )


def _lived(workload: Workload) -> Outcome:
    jobs = list(workload.jobs.values())
    return _figures(
        [(j.requested_at, j.lived.started_at, j.lived.ended_at, j.lived.status) for j in jobs],
        sum(j.lived.lost_seconds for j in jobs),
        workload,
        None,
    )


def _outcome(workload: Workload, simulation: Simulation) -> Outcome:
    fates = simulation.fates
    begun = workload.first_at if workload.first_at is not None else 0.0
    capacity = (simulation.end - begun) * simulation.circumstances.workers
    return _figures(
        [(f.work.requested_at, f.started_at, f.ended_at, f.status) for f in fates],
        sum(f.lost_seconds for f in fates),
        workload,
        round(simulation.busy_seconds / capacity, 4) if capacity > 0 else None,
    )


def _figures(
    jobs: Sequence[tuple[float, float | None, float | None, str]], lost: float, workload: Workload, busy: float | None
) -> Outcome:
    waits = sorted(started - asked for asked, started, _, _ in jobs if started is not None)
    spans = sorted(ended - asked for asked, _, ended, _ in jobs if ended is not None)
    counts = {name: sum(1 for job in jobs if job[3] == name) for name in ("completed", "failed", "stopped")}
    first = min((asked for asked, *_ in jobs), default=0.0)
    return Outcome(
        jobs=len(jobs),
        **counts,
        unfinished=len(jobs) - sum(counts.values()),
        waiting_p50=round(median(waits), 3) if waits else 0.0,
        waiting_p95=round(_high(waits), 3),
        waiting_mean=round(fmean(waits), 3) if waits else 0.0,
        waiting_max=round(waits[-1], 3) if waits else 0.0,
        turnaround_p50=round(median(spans), 3) if spans else 0.0,
        turnaround_p95=round(_high(spans), 3),
        lost_work=round(lost, 3),
        last_end=round(max((ended for *_, ended, _ in jobs if ended is not None), default=first) - first, 3),
        workers_busy=busy,
    )


def _high(ordered: list[float]) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))] if ordered else 0.0


def _changed(one: Simulation, other: Simulation) -> tuple[Changed, ...]:
    found: list[tuple[float, Changed]] = []
    for a, b in zip(one.fates, other.fates, strict=True):
        waits = [None if f.started_at is None else round(f.started_at - f.work.requested_at, 3) for f in (a, b)]
        earlier = None if a.ended_at is None or b.ended_at is None else round(a.ended_at - b.ended_at, 3)
        if waits[0] == waits[1] and earlier == 0.0:
            continue
        if waits == [None, None] and earlier is None:
            continue
        weight = max(abs(earlier or 0.0), abs((waits[1] or 0.0) - (waits[0] or 0.0)))
        if weight < 0.001 and a.status == b.status:
            continue
        found.append(
            (
                weight,
                Changed(
                    job_id=a.work.id,
                    name=a.work.name,
                    waiting_before=waits[0],
                    waiting_after=waits[1],
                    ended_earlier_by=earlier,
                ),
            )
        )
    found.sort(key=lambda pair: (-pair[0], pair[1].job_id))
    return tuple(changed for _, changed in found[:_MOST_CHANGED])
