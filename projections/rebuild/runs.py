"""What is known of rebuilds: one row for each, which whoever watches reads, and the lock that says that one runs.

The lock belongs to the session of the process that rebuilds, so a killed one leaves its row without it: interrupted, and to
be gone on with by the same command.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import asyncpg
import msgspec
import uuid_utils

from adapters.migrations import newest
from projections.tables import HOMES, NEXT, PREVIOUS

LOCK = 0x72617662
Kind = Literal["rebuild", "rollback"]
NAMES = tuple(HOMES)
"""The projections there are, by name."""
KEPT_DIFFERENCES = 1_000
"""Of each projection; all are counted."""
_RUNS = "id, kind, projections, dry_run, state, phase, actor, step, cancel, report, error, started_at, ended_at"
_KEPT_RUNS = 20


class AlreadyRunning(Exception):
    """Another process rebuilds, rolls back or cancels at this moment. Nothing was changed."""


class TableReport(msgspec.Struct, kw_only=True):
    """How one projection compares with what the log comes to."""

    rows: int = 0
    """That the log gives."""
    missing: int = 0
    """Rows that the log gives and the live table had not."""
    extra: int = 0
    """Rows of the live table that the log does not give."""
    altered: int = 0
    columns: dict[str, int] = {}
    """In how many of the altered rows each column differed."""

    @property
    def differing(self) -> int:
        """Rows that were not as the log says."""
        return self.missing + self.extra + self.altered


class Report(msgspec.Struct, kw_only=True):
    """What a run came to, as far as it is."""

    records: int = 0
    """That were judged anew by this run and those that it went on with."""
    seconds: float = 0.0
    verdicts: int = 0
    """Verdicts of the journal that are not what the log comes to."""
    tables: dict[str, TableReport] = {}

    @property
    def differing(self) -> int:
        """Rows that were not as the log says."""
        return sum(table.differing for table in self.tables.values())


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One row, or one verdict, of the live model that is not what the log comes to."""

    projection: str
    """Its name; `journal` for a verdict."""
    what: Literal["missing", "extra", "altered", "verdict"]
    key: str
    columns: str = ""
    """Those that differ; of a verdict, what is stored and what was computed."""


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far one partition is."""

    partition: int
    position: int
    goal: int


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One rebuild or rollback, as its row has it."""

    id: str
    kind: Kind
    projections: tuple[str, ...]
    dry_run: bool
    state: Literal["running", "refused", "compared", "swapped", "cancelled"]
    phase: str
    actor: str
    step: str
    cancel: bool
    report: Report
    error: str | None
    started_at: int
    ended_at: int | None

    @property
    def schema(self) -> str:
        """Where the tables lie that it makes, or brings back."""
        return NEXT if self.kind == "rebuild" else PREVIOUS

    @property
    def is_unfinished(self) -> bool:
        """Whether something of it is left to go on with."""
        return self.state in ("running", "refused")


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What whoever watches sees."""

    state: Literal["none", "running", "interrupted", "refused", "compared", "swapped", "cancelled"]
    run: Run | None
    partitions: tuple[Position, ...] = ()
    can_roll_back: bool = False


_report = msgspec.json.Decoder(Report)
_encode = msgspec.json.Encoder().encode


def now_ms() -> int:
    """Milliseconds since 1970, by this machine's clock; shown, never judged by."""
    return int(time.time() * 1000)


async def lock(connection: Any) -> None:
    """Be the one who rebuilds, as long as the connection lives. Raises `AlreadyRunning`."""
    if not await connection.fetchval("SELECT pg_try_advisory_lock($1, 0)", LOCK):
        raise AlreadyRunning("a rebuild or a rollback is running")


async def is_locked(source: Any) -> bool:
    """Whether somebody rebuilds at this moment."""
    return bool(
        await source.fetchval(
            "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND objid = 0 AND"
            " objsubid = 2 AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
            LOCK,
        )
    )


async def newest_run(source: Any) -> Run | None:
    """The last one that was begun."""
    row = await source.fetchrow(f"SELECT {_RUNS} FROM rebuild.runs ORDER BY started_at DESC, id DESC LIMIT 1")  # noqa: S608
    return None if row is None else _run(row)


async def last_swap(source: Any) -> Run | None:
    """The last one that has exchanged tables."""
    row = await source.fetchrow(
        f"SELECT {_RUNS} FROM rebuild.runs WHERE state = 'swapped' ORDER BY ended_at DESC, id DESC LIMIT 1"  # noqa: S608
    )
    return None if row is None else _run(row)


def _run(row: Any) -> Run:
    fields = dict(row)
    fields["projections"] = tuple(fields["projections"].split(","))
    fields["report"] = _report.decode(fields["report"])
    return Run(**fields)


async def begin(
    connection: Any, kind: Kind, projections: Sequence[str], actor: str, *, id: str | None, dry_run: bool
) -> Run:
    """A new row. Rows of long ago go."""
    run = Run(
        id=id or str(uuid_utils.uuid7()),
        kind=kind,
        projections=tuple(projections),
        dry_run=dry_run,
        state="running",
        phase="starting",
        actor=actor,
        step=newest(),
        cancel=False,
        report=Report(),
        error=None,
        started_at=now_ms(),
        ended_at=None,
    )
    await connection.execute(
        "INSERT INTO rebuild.runs (id, kind, projections, dry_run, state, phase, actor, step, cancel, report, started_at)"
        " VALUES ($1, $2, $3, $4, 'running', 'starting', $5, $6, false, $7, $8)",
        run.id,
        run.kind,
        ",".join(run.projections),
        run.dry_run,
        run.actor,
        run.step,
        _encode(run.report),
        run.started_at,
    )
    await connection.execute(
        "DELETE FROM rebuild.runs WHERE id NOT IN (SELECT id FROM rebuild.runs ORDER BY started_at DESC, id DESC LIMIT $1)",
        _KEPT_RUNS,
    )
    return run


async def go_on(connection: Any, run: Run, *, dry_run: bool) -> Run:
    """Take up a run that was interrupted, or refused."""
    await connection.execute(
        "UPDATE rebuild.runs SET state = 'running', cancel = false, error = NULL, ended_at = NULL, dry_run = $2 WHERE id = $1",
        run.id,
        dry_run,
    )
    return msgspec.structs.replace(run, state="running", cancel=False, error=None, ended_at=None, dry_run=dry_run)


async def enter(connection: Any, run: Run, phase: str) -> None:
    """What it does now, for whoever watches."""
    await connection.execute(
        "UPDATE rebuild.runs SET phase = $2, report = $3 WHERE id = $1", run.id, phase, _encode(run.report)
    )


async def end(connection: Any, run: Run, state: str, error: str | None = None) -> None:
    """How it ended; `running` with an error for one that can be gone on with."""
    await connection.execute(
        "UPDATE rebuild.runs SET state = $2, report = $3, error = $4, ended_at = $5, cancel = false WHERE id = $1",
        run.id,
        state,
        _encode(run.report),
        error,
        None if state == "running" else now_ms(),
    )


async def ask_to_cancel(source: Any) -> None:
    """Whoever rebuilds sees it within a second, drops what it has made, and ends."""
    await source.execute("UPDATE rebuild.runs SET cancel = true WHERE state = 'running'")


async def cancel_is_wanted(source: Any, run: Run) -> bool:
    """Whether somebody asked for that."""
    return bool(await source.fetchval("SELECT cancel FROM rebuild.runs WHERE id = $1", run.id))


# --- differences ------------------------------------------------------------------------------------------------------


async def note(connection: Any, run: str, found: Iterable[Difference]) -> None:
    """Keep these of the run of that id; whoever finds them bounds them."""
    rows = list(found)
    if not rows:
        return
    await connection.executemany(
        "INSERT INTO rebuild.differences (run, projection, what, key, columns) VALUES ($1, $2, $3, $4, $5)",
        [(run, d.projection, d.what, d.key, d.columns) for d in rows],
    )


async def odd_verdicts(source: Any, run: Run) -> int:
    """How many verdicts of the journal were found not to be what the log comes to."""
    return int(
        await source.fetchval("SELECT count(*) FROM rebuild.differences WHERE run = $1 AND what = 'verdict'", run.id)
    )


async def forget_rows(connection: Any, run: Run) -> None:
    """Before comparing rows once more: what was noted of verdicts stays."""
    await connection.execute("DELETE FROM rebuild.differences WHERE run = $1 AND what <> 'verdict'", run.id)


async def differences(source: Any, run: Run, limit: int = KEPT_DIFFERENCES * (len(NAMES) + 1)) -> list[Difference]:
    """Those that were kept, verdicts first."""
    rows = await source.fetch(
        "SELECT projection, what, key, columns FROM rebuild.differences WHERE run = $1"
        " ORDER BY what <> 'verdict', number LIMIT $2",
        run.id,
        limit,
    )
    return [Difference(**row) for row in rows]


# --- status -----------------------------------------------------------------------------------------------------------


async def positions(source: Any, schema: str) -> tuple[Position, ...]:
    """How far each partition of the tables in `schema` is; nothing where there are none."""
    if await source.fetchval("SELECT to_regclass($1)", f"{schema}.cursors") is None:
        return ()
    try:
        rows = await source.fetch(
            "SELECT l.partition, coalesce(n.next_offset, 0) AS position, l.next_offset AS goal FROM log.cursors l"  # noqa: S608
            f" LEFT JOIN {schema}.cursors n ON n.partition = l.partition ORDER BY l.partition"
        )
    except asyncpg.UndefinedTableError:  # Dropped or swapped since we looked.
        return ()
    return tuple(Position(**row) for row in rows)


async def status(source: Any) -> Status:
    """What runs, or what became of the last one."""
    locked, run = await is_locked(source), await newest_run(source)
    if run is not None and run.state == "running" and not locked:
        # It may have begun since we looked for its lock: only one that is still without it then is interrupted.
        locked, run = await is_locked(source), await newest_run(source) or run
    kept = await source.fetchval("SELECT to_regclass('previous.cursors') IS NOT NULL")
    if run is None:
        return Status(state="running" if locked else "none", run=None, can_roll_back=kept)
    state = "interrupted" if run.state == "running" and not locked else run.state
    at = await positions(source, run.schema) if run.is_unfinished else ()
    return Status(state=state, run=run, partitions=at, can_roll_back=kept and not run.is_unfinished)


def unknown(names: Iterable[str]) -> list[str]:
    """Those that are no projection's name."""
    return [name for name in names if name not in NAMES]


def shown(report: Report) -> Mapping[str, Any]:
    """The report as JSON has it, with the sums that it implies."""
    return {**msgspec.to_builtins(report), "differing": report.differing}
