"""The records of a job, as the log holds them: what took effect, and what was refused and why."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import Query, Request, Response

from api import access
from api.answers import answered, moment, returns
from api.jobs import find
from api.pages import Cursor, link, read_cursor
from api.routing import router as new_router
from api.services import CurrentCaller, services_of
from projections import queries

router = new_router()
MOST = 10_000
"""Records in one answer; a job with more has a next page."""


class PositionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Where on the log a record stands: an operator's number."""

    partition: int
    offset: int


class EventAnswer(msgspec.Struct, frozen=True, kw_only=True, rename={"kind": "type"}):
    """A record of the job: effective, with a version, or refused, with a reason."""

    kind: str
    position: PositionAnswer
    verdict: Literal["effective", "refused"]
    actor: str
    time: str
    data: Any
    id: str
    version: int | msgspec.UnsetType = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET


@router.get("/train/{job_id}/events", responses=returns(200, list[EventAnswer], problems=(401, 404, 422)))
@access.user
async def job_events(
    job_id: str,
    request: Request,
    caller: CurrentCaller,
    limit: Annotated[int, Query(ge=1, le=MOST, description="Records of a page.")] = MOST,
    cursor: Cursor = None,
) -> Response:
    """Every record of the job in log order, refused ones included."""
    services = await services_of(request)
    job = await find(services, caller, job_id)
    after = read_cursor(cursor, least=0)
    version = await services.versions.current(caller.workspace)
    found = await queries.job_events(
        services.pool, caller.workspace, job.id, after=-1 if after is None else after, limit=limit + 1
    )
    more = link(request, found[limit - 1].offset) if len(found) > limit else {}
    return answered(request, [_answer(event) for event in found[:limit]], version=version, headers=more)


def _answer(event: queries.JobEvent) -> EventAnswer:
    effective = event.version is not None
    return EventAnswer(
        kind=event.type,
        position=PositionAnswer(partition=event.partition, offset=event.offset),
        verdict="effective" if effective else "refused",
        actor=event.actor,
        time=moment(event.at),
        data=event.data,
        id=event.id,
        version=msgspec.UNSET if event.version is None else event.version,
        reason=event.refusal or msgspec.UNSET,
    )
