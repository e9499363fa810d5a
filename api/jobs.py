"""Jobs: where they are, what has been of them, and what people want of them now."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import structlog
from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api import access
from api.access import Caller
from api.answers import answered, moment, returns
from api.errors import Problem, not_found
from api.ids import is_id
from api.job_answers import JobAnswer, job_answer
from api.pages import Cursor, Limit, link, read_cursor
from api.past import AsOf, job_of_then, version_of
from api.proposals import told_of
from api.routing import router as new_router
from api.services import CurrentCaller, Services, services_of
from api.verdicts import Verdict
from domain import job as jobs
from domain.events import Event, JobPauseRequested, JobResumed, JobRetried, JobStopRequested, PriorityChanged
from domain.job import Job, Status
from domain.refusal import Refusal
from projections import as_of as past
from projections import queries

log = structlog.get_logger("api")
router = new_router()
StatusName = Literal["queued", "running", "stopping", "stopped", "pausing", "paused", "completed", "failed"]


class JobRequest(BaseModel):
    """Which job."""

    model_config = ConfigDict(extra="forbid", strict=True)

    job_id: str


class RetryRequest(JobRequest):
    """Which job, and whether from the beginning."""

    fresh: bool = Field(False, description="Forget the checkpoints and start over.")


class PriorityRequest(JobRequest):
    """Which job, and its place in the queue."""

    priority: int = Field(ge=-1000, le=1000, description="Higher goes first.")


class EpochAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One epoch of the chain of attempts that counts."""

    attempt: int
    epoch: int
    version: int
    time: str
    loss: float | None
    metrics: Annotated[
        msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object", "additionalProperties": {"type": "number"}})
    ]


STEERED = returns(200, JobAnswer, problems=(401, 404, 409, 422))


@router.get("/train/status", responses=returns(200, JobAnswer, problems=(401, 404, 422)))
@access.user
async def job_status(request: Request, caller: CurrentCaller, job_id: str, as_of: AsOf = None) -> Response:
    """Where a job is, or was."""
    services = await services_of(request)
    then = await version_of(services, caller, as_of)
    if then is not None:
        job = await job_of_then(services, caller, job_id, then)
        log_text = await services.catalog.log(job.error.log) if job.error else None
        return answered(request, job_answer(job, log_text), version=then)
    return await _shown(request, services, *await seen(services, caller, job_id))


@router.get("/train/jobs", responses=returns(200, list[JobAnswer], problems=(401, 422)))
@access.user
async def list_jobs(
    request: Request,
    caller: CurrentCaller,
    status: Annotated[StatusName | None, Query()] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_of: AsOf = None,
) -> Response:
    """The workspace's jobs, newest first."""
    services = await services_of(request)
    before = read_cursor(cursor)
    then = await version_of(services, caller, as_of)
    if then is not None:
        rows = await past.jobs_page(
            services.pool, caller.workspace, then, status=status, limit=limit + 1, before=before
        )
        more = link(request, rows[limit - 1].requested_version) if len(rows) > limit else {}
        return answered(request, [job_answer(row.job) for row in rows[:limit]], version=then, headers=more)
    version = await services.versions.current(caller.workspace)
    found = await queries.job_states_page(
        services.pool, caller.workspace, status=status, limit=limit + 1, before=before
    )
    more = link(request, found[limit - 1][1]) if len(found) > limit else {}
    page = services.listed.page(state for state, _ in found[:limit])
    return answered(request, page, version=version, headers=more)


@router.post("/train/stop", responses=STEERED)
@access.user
async def stop_job(body: JobRequest, request: Request, caller: CurrentCaller) -> Response:
    """End a job: at once when nothing runs, else after its worker has saved a checkpoint."""
    return await _steer(request, caller, "stop", body, JobStopRequested())


@router.post("/train/pause", responses=STEERED)
@access.user
async def pause_job(body: JobRequest, request: Request, caller: CurrentCaller) -> Response:
    """Let a job rest; it keeps what it has reached."""
    return await _steer(request, caller, "pause", body, JobPauseRequested())


@router.post("/train/resume", responses=STEERED)
@access.user
async def resume_job(body: JobRequest, request: Request, caller: CurrentCaller) -> Response:
    """Let a paused job go on."""
    return await _steer(request, caller, "resume", body, JobResumed())


@router.post("/train/retry", responses=STEERED)
@access.user
async def retry_job(body: RetryRequest, request: Request, caller: CurrentCaller) -> Response:
    """Queue a failed or stopped job again, from its last checkpoint or fresh."""
    return await _steer(request, caller, "retry", body, JobRetried(fresh=body.fresh))


@router.post("/train/priority", responses=STEERED)
@access.user
async def change_priority(body: PriorityRequest, request: Request, caller: CurrentCaller) -> Response:
    """Move a job in the queue."""
    return await _steer(request, caller, "priority", body, PriorityChanged(priority=body.priority))


@router.get("/train/{job_id}/history", responses=returns(200, list[EpochAnswer], problems=(401, 404, 422)))
@access.user
async def job_history(job_id: str, request: Request, caller: CurrentCaller, as_of: AsOf = None) -> Response:
    """Every epoch that counts, once, with all its metrics."""
    services = await services_of(request)
    then = await version_of(services, caller, as_of)
    if then is None:
        # The version is not younger than what is read: who follows on from it misses nothing.
        job, version = await seen(services, caller, job_id)
        epochs = await queries.history(services.pool, caller.workspace, job)
    else:
        job, version = await job_of_then(services, caller, job_id, then), then
        epochs = await past.history(services.pool, caller.workspace, job, then)
    answers = [
        EpochAnswer(
            attempt=row.attempt,
            epoch=row.epoch,
            version=row.version,
            time=moment(row.at),
            loss=row.loss,
            metrics=row.metrics,
        )
        for row in epochs
    ]
    return answered(request, answers, version=version)


async def find(services: Services, caller: Caller, job_id: str) -> Job:
    """The caller's job of that id. Raises 404 for what is not, is no id, or is somebody else's."""
    job, _ = await seen(services, caller, job_id)
    return job


async def seen(services: Services, caller: Caller, job_id: str) -> tuple[Job, int]:
    """The same, and the workspace's version at that moment."""
    found = await services.jobs.get((caller.workspace, job_id)) if is_id(job_id) else None
    if found is None or found.job is None:
        raise not_found("job")
    return found.job, found.version


async def _shown(request: Request, services: Services, job: Job, version: int) -> Response:
    log_text = await services.catalog.log(job.error.log) if job.error else None
    return answered(request, job_answer(job, log_text), version=version)


async def _steer(request: Request, caller: Caller, operation: str, body: JobRequest, event: Event) -> Response:
    """Check against the read model, so that a clear error comes at once; then let the log's order decide."""
    services = await services_of(request)
    ask = services.proposals.ask(caller, operation, request.headers, body.model_dump())
    verdict = await services.proposals.earlier(ask)
    if verdict is None:
        job, version = await seen(services, caller, body.job_id)
        refusal = jobs.admit(job, event)  # type: ignore[arg-type]  # One of the job's events, by the callers above.
        if refusal is Refusal.ALREADY_STOPPING:
            return await _shown(request, services, job, version)
        if refusal is not None and not ask.repeatable:
            raise _impossible(refusal, job.status)
        # Under a key that the client chose, an earlier sending may be under way: on the log and not judged, or not even
        # there yet. The read model cannot tell, so what it would refuse goes to the log as well. The first occurrence of
        # the id decides then, whichever that is, and no refusal is followed by an effect.
        verdict = await services.proposals.append(ask, job.id, event)
        log.info("job steered", operation=operation, job=job.id, workspace=caller.workspace)
    with told_of(ask, verdict.subject):
        return await _outcome(request, services, caller, verdict)


async def _outcome(request: Request, services: Services, caller: Caller, verdict: Verdict) -> Response:
    job, version = await seen(services, caller, verdict.subject)
    if verdict.refusal not in (None, Refusal.ALREADY_STOPPING):
        raise _impossible(Refusal(str(verdict.refusal)), job.status)
    if verdict.version is not None and job.version > verdict.version:
        # A worker was faster than this answer, or the request is a repeated one: what it brought about is answered.
        job = await past.job(services.pool, caller.workspace, job.id, verdict.version) or job
    if verdict.version is not None:
        services.versions.saw(caller.workspace, verdict.version)
        version = verdict.version  # As of which the job is shown.
    return await _shown(request, services, job, version)


_IMPOSSIBLE = {
    Refusal.ALREADY_OVER: "The job is over",
    Refusal.NOT_PAUSABLE: "Only a queued or running job can be paused",
    Refusal.NOT_PAUSED: "Only a paused job can be resumed",
    Refusal.NOT_RETRIABLE: "Only a failed or stopped job can be retried",
}


def _impossible(refusal: Refusal, status: Status) -> Problem:
    said = _IMPOSSIBLE.get(refusal, "The log's order refused it")
    return Problem(
        409, refusal.value, f"{said}; this one is {status.value}. Nothing was changed.", job_status=status.value
    )
