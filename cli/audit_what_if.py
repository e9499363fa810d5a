"""`ravand audit what-if`: two simulations of the same work, side by side."""

from __future__ import annotations

import msgspec
import typer

from adapters.settings import Settings
from audit.entries import from_journal
from audit.reading import connected
from audit.selection import Selection
from audit.simulation import POLICIES, Circumstances, PolicyName
from audit.what_if import Outcome, WhatIf, compare
from audit.workload import Workload
from cli.errors import CommandError
from cli.output import duration, print_table


async def show(
    settings: Settings,
    policy: PolicyName | None,
    workers: int | None,
    lease: float | None,
    workers_then: int | None,
    workspace: str | None,
    json: bool,
) -> None:
    """Print it."""
    was_lease = settings.worker.lease_seconds
    workload = Workload(was_lease)
    async with connected(settings) as connection:
        await workload.read(from_journal(connection, Selection(workspace=workspace, verdict="effective")))
    if not workload.jobs:
        raise CommandError("The log holds no jobs yet, so nothing could have been different.")
    before = Circumstances(workers_then or max(1, workload.most_at_once()), was_lease)
    after = Circumstances(workers or before.workers, lease or was_lease, policy or before.policy)
    found = compare(workload, before, after)
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    _print(found)


def _print(found: WhatIf) -> None:
    typer.echo(f"{found.really.jobs} jobs, {found.records:,} effective records.")
    typer.echo(f"As it was:  {_circumstances(found.before)}")
    typer.echo(f"What if:    {_circumstances(found.after)}")
    columns = [found.really, found.simulated, found.would_be]
    rows: list[tuple[str, ...]] = [
        ("waiting, median", *(_seconds(o.waiting_p50) for o in columns)),
        ("waiting, 95 %", *(_seconds(o.waiting_p95) for o in columns)),
        ("waiting, longest", *(_seconds(o.waiting_max) for o in columns)),
        ("request to end, median", *(_seconds(o.turnaround_p50) for o in columns)),
        ("request to end, 95 %", *(_seconds(o.turnaround_p95) for o in columns)),
        ("work lost", *(_seconds(o.lost_work) for o in columns)),
        ("first request to last end", *(_seconds(o.last_end) for o in columns)),
        ("completed, failed, stopped, open", *(_counts(o) for o in columns)),
        ("workers busy", *("" if o.workers_busy is None else f"{o.workers_busy:.0%}" for o in columns)),
    ]
    print_table(("", "really", "simulated", "what if"), rows, empty="")
    if found.changed:
        typer.echo("The jobs that would have fared most differently:")
        print_table(
            ("job", "id", "waiting", "what if", "ended earlier by"),
            (
                (c.name, c.job_id, _maybe(c.waiting_before), _maybe(c.waiting_after), _earlier(c.ended_earlier_by))
                for c in found.changed
            ),
            empty="",
        )
    else:
        typer.echo("No job would have fared differently.")
    typer.echo("Compared are the two simulations; how far they are from what happened shows beside them. They assume:")
    for assumption in found.assumptions:
        typer.echo(f"  - {assumption}")


def _circumstances(c: Circumstances) -> str:
    return f"{c.workers} workers, a lease of {c.lease_seconds:g} s, {POLICIES[c.policy]}"


def _counts(o: Outcome) -> str:
    return f"{o.completed}, {o.failed}, {o.stopped}, {o.unfinished}"


def _seconds(value: float) -> str:
    return duration(value) if value >= 10 else f"{value:.2f} s"


def _maybe(value: float | None) -> str:
    return "never" if value is None else _seconds(value)


def _earlier(value: float | None) -> str:
    if value is None:
        return ""
    return _seconds(value) if value >= 0 else f"later by {_seconds(-value)}"
