"""A job as people see it: in answers, in facts, in socket messages. One function makes it everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import msgspec

from domain.job import Job, Status

_RUNNING, _COMPLETED = Status.RUNNING, Status.COMPLETED


class ModelRef(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a registered model, by name."""

    name: str
    number: int


class JobView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a subscriber to a job is told after each of its records."""

    job_id: str
    status: str
    progress: float
    """Percent, 0 to 100."""
    epoch: int
    epochs: int
    attempt: int
    message: str
    loss: float | None = None
    metrics: Mapping[str, float] = {}
    model: ModelRef | None = None
    error: str | None = None
    """The stable code of what went wrong."""
    eta_seconds: float | None = None


def view(job: Job) -> JobView:
    """What to show of a job."""
    status, epoch, epochs = job.status, job.epoch, job.spec.epochs
    return JobView(
        job_id=job.id,
        status=str(status),
        progress=100.0 if status is _COMPLETED else _progress(epoch, epochs),
        epoch=epoch,
        epochs=epochs,
        attempt=job.attempt,
        message=message(job),
        loss=job.metrics.get("loss"),
        metrics=job.metrics,
        model=ModelRef(name=job.model.name, number=job.model.number) if job.model else None,
        error=job.error.code if job.error else None,
        eta_seconds=(
            round(max(0, epochs - epoch) * job.epoch_seconds, 1) if job.epoch_seconds and status is _RUNNING else None
        ),
    )


@lru_cache(maxsize=16_384)
def _progress(epoch: int, epochs: int) -> float:
    """Percent. Kept, since rounding costs 0.5 µs, and jobs go through the same steps."""
    return min(100.0, round(100 * epoch / epochs, 2))


_LOSSES = {
    "lease_expired": "its worker went silent",
    "released": "its worker handed it back",
    "killed": "its training process was killed",
    "out_of_memory": "it ran out of memory",
    "device_error": "its device failed",
    "checkpoint_unreadable": "its checkpoint could not be read",
}


def message(job: Job) -> str:
    """One plain sentence on where the job is and why."""
    if job.status is _RUNNING and job.epoch:  # Most records by far are epochs.
        return f"Epoch {job.epoch} of {job.spec.epochs}."
    match job.status:
        case Status.QUEUED if job.loss:
            return f"Attempt {job.attempt} ended: {_LOSSES.get(job.loss, job.loss)}. Waiting for a worker."
        case Status.QUEUED:
            return "Waiting for a worker."
        case Status.RUNNING:
            return "Starting."
        case Status.STOPPING:
            return "Stopping: the worker saves a checkpoint first."
        case Status.PAUSING:
            return "Pausing: the worker saves a checkpoint first."
        case Status.PAUSED:
            return f"Paused after epoch {job.epoch}."
        case Status.STOPPED:
            return f"Stopped after epoch {job.epoch}."
        case Status.COMPLETED if job.model:
            return f"Completed: model {job.model.name}, version {job.model.number}."
        case Status.COMPLETED:
            return "Completed."
        case Status.FAILED:
            return f"Failed: {job.error.code if job.error else 'unknown'}."
