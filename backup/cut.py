"""The cut: one moment of the database, which everything in the backup belongs to.

A REPEATABLE READ transaction sees accounts, measurements, cursors and journal as of one commit of the projector; the log is
taken up to those cursors. Writes go on meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec

from adapters.postgres import connection_options, patient_options
from adapters.settings import DatabaseSettings
from backup.files import hashed_file
from backup.manifest import TableCut
from backup.writing import Unfinished
from domain.job import Job, Status
from domain.workspace import Dataset, Model

SAVED = (
    "accounts.users",
    "accounts.workspaces",
    "accounts.memberships",
    "telemetry.step_metrics",
    "telemetry.log_lines",
    "telemetry.resource_samples",
    "audit.seals",
    "log.ancestors",
)
"""Tables that are in no log, in an order in which they can be filled."""
FOLDED = (
    "log.cursors",
    "log.journal",
    "log.requests",
    "log.workspaces",
    "read.jobs",
    "read.epochs",
    "read.checkpoints",
    "read.datasets",
    "read.models",
    "audit.job_states",
    "audit.snapshots",
)
"""Tables that the projector, or who goes back in time, makes anew."""
LEFT_OUT = (
    "log.history",
    *("accounts.sessions", "accounts.tickets", "accounts.login_failures"),
    *("rebuild.runs", "rebuild.differences", "rebuild.records"),
)
"""The log's id, which is new after a restore; logins, since one that was ended after the backup must not live again; and the
work sheets of rebuilds, which are about read models that a restore makes anew (that one ran is in the log)."""
_CURSORS = "SELECT partition, next_offset, rules, chain FROM log.cursors WHERE next_offset > 0 ORDER BY partition"
_ROWS = 1_000
_dataset = msgspec.json.Decoder(Dataset).decode
_model = msgspec.json.Decoder(Model).decode
_job = msgspec.json.Decoder(Job).decode


class Cursor(msgspec.Struct, frozen=True):
    """Up to where a partition belongs to the cut."""

    partition: int
    next_offset: int
    rules: int
    chain: bytes


class Cut:
    """An open transaction and what it sees."""

    def __init__(self, connection: Any, log_id: str, cursors: tuple[Cursor, ...], references: dict[str, str]) -> None:
        self.connection = connection
        self.log_id = log_id
        self.cursors = cursors
        self.references = references
        """The objects that the state refers to, with the hashes of their bytes."""

    async def table(self, name: str, into: Unfinished) -> TableCut:
        """Copy the rows of a table into a file."""
        schema, _, table = name.partition(".")
        columns = tuple(
            row["column_name"]
            for row in await self.connection.fetch(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = $1 AND table_name = $2"
                " AND is_generated = 'NEVER' ORDER BY ordinal_position",
                schema,
                table,
            )
        )
        path = f"database/{name}.copy"
        with hashed_file(into.folder, path) as file:
            said = await self.connection.copy_from_table(
                table, schema_name=schema, columns=columns, output=file.take, format="binary"
            )
        assert file.stored is not None
        into.add(file.stored)
        return TableCut(name, columns, int(said.rpartition(" ")[2]), path)


@asynccontextmanager
async def cut(settings: DatabaseSettings) -> AsyncIterator[Cut]:
    """A new one, of this moment. Raises what asyncpg raises."""
    async with _connected(settings) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        references = await _joined(settings, connection)
        log_id = str(await connection.fetchval("SELECT log_id FROM log.history"))
        cursors = tuple(Cursor(*row.values()) for row in await connection.fetch(_CURSORS))
        yield Cut(connection, log_id, cursors, references)


async def _joined(settings: DatabaseSettings, connection: Any) -> dict[str, str]:
    """Let the transaction of `connection` see a moment, and read what the read model refers to at it.

    A rebuild may put other tables in the place of the read model's. They are held against that before the moment begins, and let
    go as soon as they are read, since a rebuild waits for that, and readers behind it.
    """
    async with _connected(settings) as brief, brief.transaction(isolation="repeatable_read", readonly=True):
        await brief.execute("LOCK TABLE read.jobs, read.datasets, read.models IN ACCESS SHARE MODE")
        snapshot = await brief.fetchval("SELECT pg_export_snapshot()")
        await connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
        return await _references(brief)


async def _references(connection: Any) -> dict[str, str]:
    """The objects that the state needs, with the hashes of their bytes.

    Of the checkpoints that is the newest one of each job that may go on from it; what else is there is saved too, and
    missed by nobody.
    """
    found: dict[str, str] = {}
    async for row in connection.cursor("SELECT state FROM read.datasets", prefetch=_ROWS):
        dataset = _dataset(row["state"])
        found[dataset.uri] = dataset.sha256
        found[dataset.profile.uri] = dataset.profile.sha256
    async for row in connection.cursor("SELECT state FROM read.models", prefetch=_ROWS):
        found.update((file.uri, file.sha256) for file in _model(row["state"]).files)
    async for row in connection.cursor("SELECT state FROM read.jobs", prefetch=_ROWS):
        job = _job(row["state"])
        if job.error is not None and job.error.log is not None:
            found[job.error.log.uri] = job.error.log.sha256
        if job.status is not Status.COMPLETED and job.checkpoints:
            newest = job.checkpoints[-1].checkpoint
            found[newest.uri] = newest.sha256
    return found


@asynccontextmanager
async def _connected(settings: DatabaseSettings) -> AsyncIterator[Any]:
    """A connection on which a moment may last as long as the copying does."""
    connection = await asyncpg.connect(**patient_options(settings, name="backup"))
    try:
        yield connection
    finally:
        await connection.close()


async def size_of(settings: DatabaseSettings) -> int:
    """About how many bytes the log and the saved tables will take: never much less than it is."""
    connection = await asyncpg.connect(**connection_options(settings, name="backup"))
    try:
        query = "SELECT sum(pg_table_size(name::regclass))::bigint FROM unnest($1::text[]) AS name"
        return int(await connection.fetchval(query, ["log.journal", *SAVED]))
    finally:
        await connection.close()
