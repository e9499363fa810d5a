"""Rebuilding the read model, for administrators: start it, watch it, end it, and bring the old one back.

The work is done by a process of its own, the same as `ravand admin rebuild-projections`; what is watched are its rows. So it
costs the requests here nothing, and one that was killed with this process is gone on with by starting it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Literal

import msgspec
import structlog
import uuid_utils
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from adapters.processes import dying_with_us
from adapters.settings import Settings, environment_of
from api import access
from api.answers import Answer, maybe_moment, moment, returns
from api.errors import Problem, unavailable
from api.routing import router as new_router
from api.services import CurrentCaller, Services, services_of
from projections.rebuild import runs
from projections.rebuild.runs import Difference, Status, TableReport

log = structlog.get_logger("api")
router = new_router()
_START_SECONDS = 30.0
_SHOWN = 100
ProjectionName = Literal["requests", "epochs", "checkpoints", "jobs", "workspaces", "datasets", "models"]


class RebuildRequest(BaseModel):
    """What to rebuild, and how."""

    model_config = ConfigDict(extra="forbid", strict=True)

    projection: ProjectionName | None = Field(None, description="Only this one; all of them by default.")
    processes: int | None = Field(None, ge=1, le=64, description="One a core by default.")
    dry_run: bool = Field(False, description="Make and compare, and throw the new tables away.")
    accept_differences: bool = Field(
        False, description="Swap though verdicts of the journal are not what the log comes to: an alarm."
    )


class PartitionProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far one partition of the log is judged anew."""

    partition: int
    position: int
    goal: int


class ParityAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How the rows of one projection compare with the log."""

    rows: int
    missing: int
    extra: int
    altered: int
    columns: dict[str, int]


class DifferenceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One row, or one verdict, that is not what the log comes to."""

    projection: str
    what: str
    key: str
    columns: str


class RebuildAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The rebuild or rollback that runs, or how the last one ended."""

    id: str | None
    kind: str | None
    state: str
    """none, running, interrupted, refused, compared, swapped or cancelled."""
    phase: str | None
    projections: list[str]
    dry_run: bool
    started_by: str | None
    started_at: str | None
    ended_at: str | None
    records: int
    seconds: float
    partitions: list[PartitionProgress]
    parity: dict[str, ParityAnswer]
    differing_rows: int
    differing_verdicts: int
    differences: list[DifferenceAnswer]
    error: str | None
    can_roll_back: bool


@router.get("/admin/projections/rebuild", responses=returns(200, RebuildAnswer, problems=(401, 403, 422)))
@access.admin
async def watch_rebuild(request: Request, caller: CurrentCaller) -> Response:
    """Where the rebuild is, or how the last one ended."""
    return Answer(await _shown(await services_of(request)))


@router.post(
    "/admin/projections/rebuild", responses=returns(202, RebuildAnswer, problems=(401, 403, 409, 422)), status_code=202
)
@access.admin
async def start_rebuild(body: RebuildRequest, request: Request, caller: CurrentCaller) -> Response:
    """Make the read model anew beside the live one, compare them, and swap; one that was interrupted goes on."""
    services = await services_of(request)
    status = await runs.status(services.pool)
    wanted = (body.projection,) if body.projection else runs.NAMES
    if status.run is not None and status.run.is_unfinished and status.run.projections != wanted:
        raise _unfinished(status)
    options: list[str] = [body.projection] if body.projection else []
    options += ["--processes", str(body.processes)] if body.processes else []
    options += ["--dry-run"] if body.dry_run else []
    options += ["--accept-differences"] if body.accept_differences else []
    return await _begin(services, caller.user, status, options)


@router.post(
    "/admin/projections/rollback", responses=returns(202, RebuildAnswer, problems=(401, 403, 409)), status_code=202
)
@access.admin
async def roll_back(request: Request, caller: CurrentCaller) -> Response:
    """Read again what the last swap has replaced; it catches up first."""
    services = await services_of(request)
    status = await runs.status(services.pool)
    is_going_on = status.run is not None and status.run.is_unfinished and status.run.kind == "rollback"
    if not status.can_roll_back and not is_going_on:
        if status.run is not None and status.run.is_unfinished:
            raise _unfinished(status)
        raise Problem(409, "nothing_kept", "There is nothing to roll back to. Nothing was changed.")
    return await _begin(services, caller.user, status, ["--rollback"])


@router.post("/admin/projections/rebuild/cancel", responses=returns(200, RebuildAnswer, problems=(401, 403, 409)))
@access.admin
async def cancel_rebuild(request: Request, caller: CurrentCaller) -> Response:
    """End the one that runs, or drop what an interrupted one has left; the live read model stays as it is."""
    services = await services_of(request)
    status = await runs.status(services.pool)
    if status.run is None or not status.run.is_unfinished:
        raise Problem(409, "nothing_to_cancel", "No rebuild is running or interrupted. Nothing was changed.")
    if status.state == "running":
        await runs.ask_to_cancel(services.pool)
    elif not await _ends(await _process(services.settings, ["--cancel"]), _START_SECONDS):
        raise unavailable("rebuild_not_cancelled", "The rebuild could not be cancelled in time. Try again shortly.")
    log.info("rebuild cancelled", run=status.run.id, user=caller.user)
    id = status.run.id
    until = asyncio.get_running_loop().time() + _START_SECONDS
    while (now := await runs.status(services.pool)).run is not None and now.run is not None and now.run.id == id:
        if not now.run.is_unfinished or asyncio.get_running_loop().time() > until:
            break
        await asyncio.sleep(0.1)
    return Answer(await _shown(services))


async def _begin(services: Services, user: str, status: Status, options: list[str]) -> Response:
    """Start the process, and answer once it has begun."""
    if status.state == "running":
        raise _running()
    id = str(uuid_utils.uuid7())
    process = await _process(services.settings, [*options, "--actor", user, "--id", id])
    goes_on = status.run.id if status.run is not None and status.run.is_unfinished else None
    until = asyncio.get_running_loop().time() + _START_SECONDS
    while True:
        in_time = asyncio.get_running_loop().time() < until
        if not in_time:
            await _ends(process, 0)  # What is answered now must stay true.
        is_over = process.returncode is not None
        now = await runs.status(services.pool)
        if now.run is not None and (now.run.id == id or (now.run.id == goes_on and now.state != status.state)):
            log.info("rebuild begun", run=now.run.id, user=user)
            return Answer(await _shown(services), 202, headers={"Location": "/api/admin/projections/rebuild"})
        if is_over:
            if now.state == "running":
                raise _running()
            if in_time and now.run is not None and now.run.id == goes_on:
                return Answer(await _shown(services), 202)
            break
        await asyncio.sleep(0.1)
    log.error("rebuild not begun", status=process.returncode)
    raise unavailable(
        "rebuild_not_begun", "The rebuild could not be begun; the operator's log says why. Nothing was changed."
    )


def _running() -> Problem:
    return Problem(
        409,
        "rebuild_running",
        "A rebuild or a rollback is running. Watch it, wait for it, or cancel it. Nothing was changed.",
    )


def _unfinished(status: Status) -> Problem:
    if status.state == "running":
        return _running()
    assert status.run is not None
    names = "a rollback" if status.run.kind == "rollback" else f"a rebuild of {', '.join(status.run.projections)}"
    return Problem(
        409,
        "rebuild_unfinished",
        f"Before this, {names} was interrupted: start it again to go on with it, or cancel it.",
    )


_processes: set[asyncio.Task[int]] = set()


async def _process(settings: Settings, options: list[str]) -> asyncio.subprocess.Process:
    """`ravand admin rebuild-projections` beside us; it ends when we do, and what it has done stays."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", "cli", "admin", "rebuild-projections", *options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        env={**os.environ, **environment_of(settings)},
        preexec_fn=dying_with_us(),
    )
    waiting = asyncio.create_task(process.wait())
    _processes.add(waiting)  # So that none is left to be reaped.
    waiting.add_done_callback(_processes.discard)
    return process


async def _ends(process: asyncio.subprocess.Process, seconds: float) -> bool:
    """Whether it ends in that time; it is killed otherwise."""
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return False
    return True


async def _shown(services: Services) -> RebuildAnswer:
    status = await runs.status(services.pool)
    run = status.run
    if run is None:
        return _answer(status, [])
    return _answer(status, await runs.differences(services.pool, run, _SHOWN))


def _answer(status: Status, differences: list[Difference]) -> RebuildAnswer:
    run, report = status.run, status.run.report if status.run is not None else runs.Report()
    positions = status.partitions
    return RebuildAnswer(
        id=run.id if run else None,
        kind=run.kind if run else None,
        state=status.state,
        phase=run.phase if run else None,
        projections=list(run.projections) if run else [],
        dry_run=run.dry_run if run else False,
        started_by=run.actor if run else None,
        started_at=moment(run.started_at) if run else None,
        ended_at=maybe_moment(run.ended_at) if run else None,
        records=sum(p.position for p in positions) if positions else report.records,
        seconds=report.seconds,
        partitions=[PartitionProgress(partition=p.partition, position=p.position, goal=p.goal) for p in positions],
        parity={name: _parity(table) for name, table in report.tables.items()},
        differing_rows=report.differing,
        differing_verdicts=report.verdicts,
        differences=[
            DifferenceAnswer(projection=d.projection, what=d.what, key=d.key, columns=d.columns) for d in differences
        ],
        error=run.error if run else None,
        can_roll_back=status.can_roll_back,
    )


def _parity(table: TableReport) -> ParityAnswer:
    return ParityAnswer(
        rows=table.rows, missing=table.missing, extra=table.extra, altered=table.altered, columns=table.columns
    )
