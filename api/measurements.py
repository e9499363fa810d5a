"""What was measured beside a job: its log lines and its step metrics, oldest first."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from fastapi import Query, Request, Response

from api import access
from api.answers import answered, moment, returns
from api.errors import invalid
from api.jobs import find
from api.pages import next_link
from api.routing import router as new_router
from api.services import CurrentCaller, services_of
from projections import measurements
from projections.measurements import BEGINNING, Place

router = new_router()
Limit = Annotated[int, Query(ge=1, le=1000, description="Entries of a page.")]
Since = Annotated[
    str | None, Query(alias="cursor", max_length=40, description="From the Link header of the page before.")
]
_lines = msgspec.json.Decoder(list[tuple[str, str]])
_PLACE = re.compile(r"(\d{1,9})\.(\d{1,18})")


class LineAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One line that a training process wrote."""

    attempt: int
    time: str
    stream: str
    text: str


class StepAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics of one step."""

    attempt: int
    epoch: int
    step: int
    time: str
    metrics: Any


@router.get("/train/{job_id}/logs", responses=returns(200, list[LineAnswer], problems=(401, 404, 422)))
@access.user
async def job_logs(
    job_id: str, request: Request, caller: CurrentCaller, limit: Limit = 500, cursor: Since = None
) -> Response:
    """What the job's training processes wrote. A page holds whole entries, each of one line or more."""
    services = await services_of(request)
    after = _place(cursor)
    job = await find(services, caller, job_id)
    found = await measurements.log_lines(services.pool, caller.workspace, job.id, after=after, limit=limit + 1)
    answers = [
        LineAnswer(attempt=entry.attempt, time=moment(entry.at), stream=stream, text=text)
        for entry in found[:limit]
        for stream, text in _lines.decode(entry.lines)
    ]
    return answered(request, answers, version=job.version, headers=_more(request, found, limit))


@router.get("/train/{job_id}/metrics", responses=returns(200, list[StepAnswer], problems=(401, 404, 422)))
@access.user
async def job_metrics(
    job_id: str, request: Request, caller: CurrentCaller, limit: Limit = 500, cursor: Since = None
) -> Response:
    """What the job's training processes measured, step by step; epochs are in the history."""
    services = await services_of(request)
    after = _place(cursor)
    job = await find(services, caller, job_id)
    found = await measurements.step_metrics(services.pool, caller.workspace, job.id, after=after, limit=limit + 1)
    answers = [
        StepAnswer(
            attempt=entry.attempt, epoch=entry.epoch, step=entry.step, time=moment(entry.at), metrics=entry.metrics
        )
        for entry in found[:limit]
    ]
    return answered(request, answers, version=job.version, headers=_more(request, found, limit))


def _place(cursor: str | None) -> Place:
    if cursor is None:
        return BEGINNING
    place = _PLACE.fullmatch(cursor)
    if place is None or not place[0].isascii() or int(place[1]) >= 2**31 or int(place[2]) >= 2**63:
        raise invalid(("cursor", "The cursor of a Link header is expected."))
    return int(place[1]), int(place[2])


def _more(request: Request, found: list[Any], limit: int) -> dict[str, str]:
    if len(found) <= limit:
        return {}
    last = found[limit - 1]
    return next_link(request, f"{last.attempt}.{last.sequence}")
