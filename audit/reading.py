"""Connections for whoever audits: read-only, without a limit in time, each statement in its own snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from adapters.postgres import patient_options
from adapters.settings import Settings
from audit.entries import Entry
from domain.job import Job
from projections import as_of
from projections.reading import home


@asynccontextmanager
async def connected(settings: Settings, *, read_only: bool = True) -> AsyncIterator[Any]:
    """A connection. Raises what `adapters.postgres.is_outage` knows."""
    session = {"default_transaction_read_only": "on" if read_only else "off"}
    connection = await asyncpg.connect(**patient_options(settings.database, name="audit", session=session))
    try:
        yield connection
    finally:
        await connection.close()


class Unnamed(LookupError):
    """Several workspaces could be meant, or none is known."""


async def workspace_of(connection: Any, *, job: str | None = None, dataset: str | None = None) -> str:
    """The workspace of a job or a dataset; without either the only one that there is. Raises `Unnamed`."""
    if job is not None:
        found = await connection.fetch("SELECT workspace FROM read.jobs WHERE job_id = $1 LIMIT 2", job)
        what = f"No job {job} is known"
    elif dataset is not None:
        found = await connection.fetch("SELECT workspace FROM read.datasets WHERE dataset_id = $1 LIMIT 2", dataset)
        what = f"No dataset {dataset} is known"
    else:
        found = await connection.fetch(
            "SELECT DISTINCT workspace FROM log.workspaces WHERE workspace <> 'system' ORDER BY workspace LIMIT 6"
        )
        names = ", ".join(row["workspace"] for row in found[:5])
        what = (
            f"There are several workspaces ({names}{', …' if len(found) > 5 else ''})" if found else "There is none yet"
        )
    if len(found) != 1:
        raise Unnamed(f"{what}: which workspace is meant?")
    return str(found[0]["workspace"])


async def job_before(connection: Any, entry: Entry) -> Job | None:
    """The job that a record is about, as it was before it."""
    version = await connection.fetchval(
        "SELECT version FROM log.journal WHERE workspace = $1 AND subject = $2 AND partition = $3"
        ' AND "offset" < $4 AND version IS NOT NULL ORDER BY "offset" DESC LIMIT 1',
        entry.workspace,
        entry.subject,
        home(entry.workspace.encode()),
        entry.offset,
    )
    if version is None:
        return None
    return await as_of.job(connection, entry.workspace, entry.subject, version)
