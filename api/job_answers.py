"""A job as answers show it, the same in every list, status and socket."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from api.answers import maybe_moment, moment
from api.kept import Kept
from domain.events import JobRequested
from domain.job import Job, JobError
from schemas import job_view
from schemas.job_view import ModelRef

_LISTED_BYTES = 4 * 1024 * 1024
_job = msgspec.json.Decoder(Job)
_encode = msgspec.json.Encoder().encode
_ERRORS = {
    "exception": "The training function raised an exception",
    "unusable_data": "The dataset cannot be trained on as asked",
    "diverged": "The numbers went out of bounds",
    "lease_expired": "Its workers went silent too often",
    "killed": "Its training process was killed too often",
    "out_of_memory": "It ran out of memory too often",
    "device_error": "Its device failed too often",
    "checkpoint_unreadable": "Its checkpoint could not be read too often",
}


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job failed. `log` holds the last lines that it wrote; null where there are none, and in lists."""

    code: str
    message: str
    log: str | None


class JobAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A training job. `version` is the workspace's at the job's last effective record."""

    job_id: str
    name: str
    status: str
    progress: float
    epoch: int
    epochs: int
    loss: float | None
    metrics: Mapping[str, float]
    message: str
    attempt: int
    version: int
    recipe: str
    parameters: Mapping[str, Any]
    dataset_id: str
    model_name: str
    priority: int
    worker: str | None
    losses: int
    eta_seconds: float | None
    requested_by: str
    created_at: str
    updated_at: str
    started_at: str | None
    ended_at: str | None
    model: ModelRef | msgspec.UnsetType = msgspec.UNSET
    error: ErrorAnswer | msgspec.UnsetType = msgspec.UNSET


def job_answer(job: Job, log: str | None = None) -> JobAnswer:
    """The answer about a job; `log` is the text of its error's log, where it was read."""
    seen, spec = job_view.view(job), job.spec
    return JobAnswer(
        job_id=job.id,
        name=spec.name,
        status=seen.status,
        progress=seen.progress,
        epoch=seen.epoch,
        epochs=seen.epochs,
        loss=seen.loss,
        metrics=seen.metrics,
        message=seen.message,
        attempt=seen.attempt,
        version=job.version,
        recipe=spec.recipe,
        parameters=spec.parameters,
        dataset_id=spec.dataset.id,
        model_name=spec.model,
        priority=job.priority,
        worker=job.worker,
        losses=job.losses,
        eta_seconds=seen.eta_seconds,
        requested_by=job.requested_by,
        created_at=moment(job.requested_at),
        updated_at=moment(job.updated_at),
        started_at=maybe_moment(job.started_at),
        ended_at=maybe_moment(job.ended_at),
        model=seen.model or msgspec.UNSET,
        error=_error(job.error, log) if job.error else msgspec.UNSET,
    )


class ListedJobs:
    """Jobs as lists show them, encoded. An answer depends on the job's stored state alone, so it is kept by that: of the
    rows of a page that is asked for again, few have changed."""

    def __init__(self) -> None:
        self._encoded: Kept[bytes, bytes] = Kept(_LISTED_BYTES)

    def page(self, states: Iterable[bytes]) -> bytes:
        """The JSON array of the jobs in these states."""
        return b"[" + b",".join(self._encoded.get(state) or self._encode(state) for state in states) + b"]"

    def _encode(self, state: bytes) -> bytes:
        encoded = _encode(job_answer(_job.decode(state)))
        return self._encoded.put(state, encoded, len(state) + len(encoded))


def _error(error: JobError, log: str | None) -> ErrorAnswer:
    message = _ERRORS.get(error.code, f"The job failed: {error.code}")
    if error.exception:
        message += f" ({error.exception})"
    return ErrorAnswer(code=error.code, message=f"{message}.", log=log)


class RequestedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is on the log and queued: as it was at that version."""

    job_id: str
    status: str
    version: int
    name: str
    recipe: str
    parameters: Mapping[str, Any]
    dataset_id: str
    model_name: str
    epochs: int
    priority: int


def requested_answer(job_id: str, version: int, event: JobRequested) -> RequestedAnswer:
    """The answer to an accepted request; the same however often the request is repeated."""
    return RequestedAnswer(
        job_id=job_id,
        status="queued",
        version=version,
        name=event.name,
        recipe=event.recipe,
        parameters=event.parameters,
        dataset_id=event.dataset.id,
        model_name=event.model,
        epochs=event.epochs,
        priority=event.priority,
    )
