"""`?as_of=`: what reads would have answered once, at a version of the workspace or at a moment."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.access import Caller
from api.errors import invalid, not_found
from api.ids import is_id
from api.services import Services
from domain.job import Job
from projections import as_of as past

AsOf = Annotated[
    str | None,
    Query(max_length=64, description="As it was then: a version of the workspace, or an RFC 3339 time."),
]


async def version_of(services: Services, caller: Caller, as_of: str | None) -> int | None:
    """The version that is meant; None where the present is. Raises 422 for what is neither, or not reached yet."""
    if as_of is None:
        return None
    try:
        return await past.resolve(services.pool, caller.workspace, past.parse(as_of))
    except past.NoMoment:
        raise invalid(
            ("as_of", "A version of the workspace or an RFC 3339 time with its offset (Z) is expected.")
        ) from None
    except past.NotReached as error:
        raise invalid(("as_of", f"The workspace is at version {error.current}; a later one cannot be shown.")) from None


async def job_of_then(services: Services, caller: Caller, job_id: str, version: int) -> Job:
    """The caller's job as it was. Raises 404 for what is not, was not yet, is no id, or is somebody else's."""
    job = await past.job(services.pool, caller.workspace, job_id, version) if is_id(job_id) else None
    if job is None:
        raise not_found("job")
    return job
