"""Compares the rows of the read model with the fold of one partition, and names the first that differs.

Epochs and checkpoints are compared by one hash for each attempt, which PostgreSQL computes over its rows; only where it
differs are the rows of that attempt read, and compared with the records of the journal, which by then is known to be the log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import msgspec

from audit.expected import CHECKPOINTS, EPOCHS, AttemptKey, Expected, Group, digest, groups_differ
from audit.findings import Break
from domain.events import CheckpointSaved, EpochCompleted
from domain.job import Job
from domain.workspace import Workspace
from schemas.envelope import decode

_encode = msgspec.json.Encoder().encode
_PREFETCH = 1_000
Row = tuple[Any, ...]


async def check(
    connection: Any, partition: int, workspaces: dict[str, Workspace], expected: Expected
) -> tuple[int, list[Break]]:
    """How many rows were compared, and the first break of each table. `connection` is in the verification's snapshot."""
    checker = _Checker(connection, partition, workspaces, expected)
    breaks = [
        found
        for table in (
            checker.workspaces_rows(),
            checker.jobs(),
            checker.attempts("read.epochs", EPOCHS, expected.epochs),
            checker.attempts("read.checkpoints", CHECKPOINTS, expected.checkpoints),
            checker.struck(),
            checker.datasets(),
            checker.models(),
            checker.snapshots(),
        )
        if (found := await table) is not None
    ]
    return checker.rows, breaks


class _Checker:
    def __init__(self, connection: Any, partition: int, workspaces: dict[str, Workspace], expected: Expected) -> None:
        self.rows = 0
        self._connection = connection
        self._partition = partition
        self._workspaces = workspaces
        self._names = list(workspaces)
        self._expected = expected

    def _break(self, what: str, table: str, key: Iterable[object], detail: str, **more: Any) -> Break:
        row = " ".join(str(part) for part in key)
        return Break(what=what, table=table, row=row, detail=detail, partition=self._partition, **more)

    async def _rows(self, query: str, *arguments: Any) -> AsyncIterator[Any]:
        async for row in self._connection.cursor(query, *arguments, prefetch=_PREFETCH):
            self.rows += 1
            yield row

    async def _compare(
        self, table: str, keys: int, columns: tuple[str, ...], rows: AsyncIterator[Row], expected: Iterator[Row]
    ) -> Break | None:
        """Rows begin with their key; what is expected is given the same way, and held here."""
        held = {row[:keys]: row[keys:] for row in expected}
        async for row in rows:
            key, values = row[:keys], row[keys:]
            wanted = held.pop(key, None)
            if wanted is None:
                return self._break("row_extra", table, key, "the log gives no such row")
            for column, value, right in zip(columns, values, wanted, strict=True):
                if value != right:
                    said = "" if isinstance(right, bytes) else f": {value!r}, and the log says {right!r}"
                    return self._break("row_altered", table, key, f"its {column} is not what the log comes to{said}",
                                       column=column)  # fmt: skip
        for key in sorted(held, key=str):
            return self._break("row_missing", table, key, "the log gives this row, and it is not there")
        return None

    async def workspaces_rows(self) -> Break | None:
        async def rows() -> AsyncIterator[Row]:
            query = "SELECT workspace, version FROM log.workspaces WHERE partition = $1"
            async for row in self._rows(query, self._partition):
                yield tuple(row)

        expected = ((name, workspace.version) for name, workspace in self._workspaces.items() if workspace.version)
        return await self._compare("log.workspaces", 1, ("version",), rows(), expected)

    async def jobs(self) -> Break | None:
        async def rows() -> AsyncIterator[Row]:
            query = (
                "SELECT workspace, job_id, status, priority, requested_version, version, state FROM read.jobs"
                " WHERE workspace = ANY($1)"
            )
            async for row in self._rows(query, self._names):
                yield tuple(row)

        def expected() -> Iterator[Row]:
            for name, workspace in self._workspaces.items():
                for job in workspace.jobs.values():
                    yield name, job.id, job

        held = {(name, id): job for name, id, job in expected()}
        async for row in rows():
            job = held.pop((row[0], row[1]), None)
            if job is None:
                return self._break("row_extra", "read.jobs", row[:2], "the log gives no such row")
            wanted = (job.status.value, job.priority, self._expected.requested[row[0], job.id], job.version)
            for column, value, right in zip(
                ("status", "priority", "requested_version", "version"), row[2:6], wanted, strict=True
            ):
                if value != right:
                    detail = f"its {column} is {value!r}, and the log says {right!r}"
                    return self._break("row_altered", "read.jobs", row[:2], detail, column=column)
            if row[6] != _encode(job):
                detail = f"its state differs from the fold of the log{_members(row[6], job)}"
                return self._break("row_altered", "read.jobs", row[:2], detail, column="state")
        for key in held:
            return self._break("row_missing", "read.jobs", key, "the log gives this row, and it is not there")
        return None

    async def datasets(self) -> Break | None:
        async def rows() -> AsyncIterator[Row]:
            query = "SELECT workspace, dataset_id, name, number, version, state FROM read.datasets WHERE workspace = ANY($1)"
            async for row in self._rows(query, self._names):
                yield (*tuple(row)[:-1], digest(row["state"]))

        expected = ((*key, *row) for key, row in self._expected.datasets.items())
        return await self._compare("read.datasets", 2, ("name", "number", "version", "state"), rows(), expected)

    async def models(self) -> Break | None:
        async def rows() -> AsyncIterator[Row]:
            query = "SELECT workspace, name, number, version, job_id, state FROM read.models WHERE workspace = ANY($1)"
            async for row in self._rows(query, self._names):
                yield (*tuple(row)[:-1], digest(row["state"]))

        expected = ((*key, *row) for key, row in self._expected.models.items())
        return await self._compare("read.models", 3, ("version", "job_id", "state"), rows(), expected)

    async def struck(self) -> Break | None:
        async def rows() -> AsyncIterator[Row]:
            query = (
                "SELECT workspace, job_id, attempt, epoch, step FROM read.checkpoints"
                " WHERE workspace = ANY($1) AND struck"
            )
            async for row in self._rows(query, self._names):
                yield tuple(row)

        found = await self._compare("read.checkpoints", 5, (), rows(), iter(self._expected.struck))
        if found is None:
            return None
        said = "is" if found.what == "row_extra" else "is not"
        return msgspec.structs.replace(
            found, what="row_altered", column="struck", detail=f"the row {said} marked as struck, against the log"
        )

    async def snapshots(self) -> Break | None:
        wrong = self._expected.wrong_snapshot
        if wrong is not None:
            return self._break("row_altered", "audit.job_states", wrong, "it is not what the job was at that version")
        self.rows += self._expected.found_snapshots
        for (workspace, version), (job, _) in sorted(self._expected.snapshots.items()):
            key = (workspace, job, version)
            return self._break("row_extra", "audit.job_states", key, "nothing took effect on the job at that version")
        return None

    async def attempts(self, table: str, query: str, groups: dict[AttemptKey, Group]) -> Break | None:
        """The rows of each attempt, by their hash."""
        seen = 0
        wrong: AttemptKey | None = None
        async for row in self._connection.cursor(query, self._names, prefetch=_PREFETCH):
            key = (row["workspace"], row["job_id"], row["attempt"])
            group = groups.get(key)
            self.rows += row["count"]
            seen += group is not None
            if groups_differ(group, row):
                wrong = key
                break
        if wrong is None and seen < len(groups):
            found = {
                (r["workspace"], r["job_id"], r["attempt"])
                for r in await self._connection.fetch(
                    f"SELECT DISTINCT workspace, job_id, attempt FROM {table} WHERE workspace = ANY($1)",  # noqa: S608
                    self._names,
                )
            }
            wrong = min(groups.keys() - found)
        return None if wrong is None else await self._first_row(table, wrong)

    async def _first_row(self, table: str, attempt: AttemptKey) -> Break:
        """Which row of an attempt differs from the journal's records."""
        stored, right = (
            (await self._stored_epochs(attempt), await self._epochs_of_journal(attempt))
            if table == "read.epochs"
            else (await self._stored_checkpoints(attempt), await self._checkpoints_of_journal(attempt))
        )
        for key in sorted(stored.keys() | right.keys()):
            if (row := stored.get(key)) == (wanted := right.get(key)):
                continue
            place = (*attempt, *key)
            if wanted is None:
                return self._break("row_extra", table, place, "the log gives no such row")
            if row is None:
                return self._break("row_missing", table, place, "the log gives this row, and it is not there")
            column = next(name for name in row if row[name] != wanted[name])
            return self._break("row_altered", table, place, f"its {column} is not what the log comes to", column=column)
        return self._break("row_altered", table, attempt, "the rows of this attempt are not those of the log")

    async def _stored_epochs(self, attempt: AttemptKey) -> dict[tuple[int, ...], dict[str, Any]]:
        rows = await self._connection.fetch(
            "SELECT epoch, version, at, metrics FROM read.epochs WHERE (workspace, job_id, attempt) = ($1, $2, $3)",
            *attempt,
        )
        return {(r["epoch"],): {"version": r["version"], "at": r["at"], "metrics": r["metrics"]} for r in rows}

    async def _stored_checkpoints(self, attempt: AttemptKey) -> dict[tuple[int, ...], dict[str, Any]]:
        rows = await self._connection.fetch(
            "SELECT epoch, step, version, uri, sha256 FROM read.checkpoints"
            " WHERE (workspace, job_id, attempt) = ($1, $2, $3)",
            *attempt,
        )
        return {
            (r["epoch"], r["step"]): {"version": r["version"], "uri": r["uri"], "sha256": r["sha256"]} for r in rows
        }

    async def _records(self, attempt: AttemptKey, kind: str) -> AsyncIterator[tuple[Any, int, int]]:
        workspace, job_id, number = attempt
        query = (
            "SELECT version, at, value FROM log.journal WHERE workspace = $1 AND subject = $2 AND partition = $3"
            ' AND version IS NOT NULL AND type = $4 ORDER BY "offset"'
        )
        async for row in self._connection.cursor(query, workspace, job_id, self._partition, kind, prefetch=_PREFETCH):
            event = decode(row["value"]).data
            if event.attempt == number:  # type: ignore[attr-defined]
                yield event, row["version"], row["at"]

    async def _epochs_of_journal(self, attempt: AttemptKey) -> dict[tuple[int, ...], dict[str, Any]]:
        found: dict[tuple[int, ...], dict[str, Any]] = {}
        async for event, version, at in self._records(attempt, "ravand.EpochCompleted"):
            assert isinstance(event, EpochCompleted)
            found[(event.epoch,)] = {"version": version, "at": at, "metrics": _encode(event.metrics)}
        return found

    async def _checkpoints_of_journal(self, attempt: AttemptKey) -> dict[tuple[int, ...], dict[str, Any]]:
        found: dict[tuple[int, ...], dict[str, Any]] = {}
        async for event, version, _ in self._records(attempt, "ravand.CheckpointSaved"):
            assert isinstance(event, CheckpointSaved)
            found[event.epoch, event.step] = {"version": version, "uri": event.uri, "sha256": event.sha256}
        return found


def _members(stored: bytes, job: Job) -> str:
    """Which members of a job's state differ, where the stored one can be read at all."""
    try:
        found = msgspec.json.decode(stored)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ", and is no JSON any more"
    right = msgspec.to_builtins(job)
    if not isinstance(found, dict):
        return ""
    names = sorted(name for name in found.keys() | right.keys() if found.get(name) != msgspec.json.decode(
        msgspec.json.encode(right.get(name))))  # fmt: skip
    return f" in {', '.join(names)}" if names else ""


_STRAYS = (
    ("log.journal", "SELECT partition::text || ' ' || \"offset\" FROM log.journal WHERE partition <> ALL($1) LIMIT 1"),
    (
        "log.cursors",
        "SELECT partition::text FROM log.cursors WHERE partition <> ALL($1)"
        " AND (next_offset, published, rules, chain) <> (0, 0, 1, decode(repeat('00', 32), 'hex')) LIMIT 1",
    ),
    ("log.requests", "SELECT workspace || ' ' || id FROM log.requests WHERE partition <> ALL($1) LIMIT 1"),
    ("log.workspaces", "SELECT workspace FROM log.workspaces WHERE partition <> ALL($1) LIMIT 1"),
)
_STRANGERS = "SELECT workspace FROM {} t WHERE NOT EXISTS (SELECT 1 FROM log.workspaces w WHERE w.workspace = t.workspace) LIMIT 1"
_READ_TABLES = ("read.jobs", "read.epochs", "read.checkpoints", "read.datasets", "read.models", "audit.job_states")


async def strays(connection: Any, partitions: list[int]) -> list[Break]:
    """Rows of partitions that there are not, and of workspaces in which nothing took effect."""
    found: list[Break] = []
    for table, query in _STRAYS:
        if (row := await connection.fetchval(query, partitions)) is not None:
            found.append(
                Break(what="row_extra", table=table, row=row, detail="the log has no records in its partition")
            )
    for table in _READ_TABLES:
        if (name := await connection.fetchval(_STRANGERS.format(table))) is not None:
            detail = "nothing has taken effect in its workspace"
            found.append(Break(what="row_extra", table=table, row=name, detail=detail))
    return found
