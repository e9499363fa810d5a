"""`ravand audit state`: a job, or the board and the registry, as they were."""

from __future__ import annotations

from typing import Any

import msgspec
import typer

from adapters.settings import Settings
from audit.reading import connected, workspace_of
from audit.story import moment
from cli.errors import CommandError
from cli.output import figure, print_table
from domain.job import Job
from projections import as_of
from schemas.job_view import view


async def show(
    settings: Settings, when: str, workspace: str | None, job_id: str | None, status: str | None, limit: int, json: bool
) -> None:
    """Print it."""
    try:
        moment_or_version = as_of.parse(when)
    except as_of.NoMoment as error:
        raise CommandError(f"--as-of {when!r}: {error}.") from None
    async with connected(settings) as connection:
        workspace = workspace or await workspace_of(connection, job=job_id)
        try:
            version = await as_of.resolve(connection, workspace, moment_or_version)
        except as_of.NotReached as error:
            raise CommandError(str(error), f"The newest is --as-of {error.current}.") from None
        if job_id is not None:
            await _job(connection, workspace, job_id, version, json)
        else:
            await _everything(connection, workspace, version, status, limit, json)


async def _job(connection: Any, workspace: str, job_id: str, version: int, json: bool) -> None:
    job = await as_of.job(connection, workspace, job_id, version)
    if job is None:
        raise CommandError(f"There was no job {job_id} at version {version}.")
    epochs = await as_of.history(connection, workspace, job, version)
    if json:
        _print({"workspace": workspace, "version": version, "job": job, "history": epochs})
        return
    seen = view(job)
    typer.echo(f"{job.spec.name} ({job.id}) at version {version}: {seen.status}, {seen.progress:.0f} %. {seen.message}")
    print_table(
        ("epoch", "attempt", "version", "time", "loss"),
        ((e.epoch, e.attempt, e.version, moment(e.at), figure(e.loss)) for e in epochs),
        empty="No epoch was done yet.",
    )


async def _everything(
    connection: Any, workspace: str, version: int, status: str | None, limit: int, json: bool
) -> None:
    board = await as_of.jobs_page(connection, workspace, version, limit=limit, status=status)
    models = await as_of.models_page(connection, workspace, version, limit=limit)
    datasets = await as_of.datasets_page(connection, workspace, version, limit=limit)
    if json:
        jobs = [row.job for row in board]
        _print({"workspace": workspace, "version": version, "jobs": jobs, "models": models, "datasets": datasets})
        return
    typer.echo(f"Workspace {workspace} at version {version}")
    print_table(
        ("id", "name", "status", "progress", "epoch", "loss"), (_line(row.job) for row in board), empty="No jobs."
    )
    print_table(("model", "number", "job"), ((m.name, m.number, m.job_id) for m in models), empty="No models.")
    print_table(
        ("dataset", "number", "rows", "id"), ((d.name, d.number, d.rows, d.id) for d in datasets), empty="No datasets."
    )


def _line(job: Job) -> tuple[Any, ...]:
    seen = view(job)
    epoch = f"{seen.epoch}/{seen.epochs}"
    return job.id, job.spec.name, seen.status, f"{seen.progress:.0f} %", epoch, figure(seen.loss)


def _print(document: dict[str, Any]) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
