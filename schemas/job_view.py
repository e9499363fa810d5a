"""A job as people see it: in answers, in facts, in socket messages. One function makes it everywhere."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from domain.job import Job, Status


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
    epochs = job.spec.epochs
    completed = job.status is Status.COMPLETED
    return JobView(
        job_id=job.id,
        status=job.status.value,
        progress=100.0 if completed else min(100.0, round(100 * job.epoch / epochs, 2)),
        epoch=job.epoch,
        epochs=epochs,
        attempt=job.attempt,
        message=message(job),
        loss=job.metrics.get("loss"),
        metrics=job.metrics,
        model=ModelRef(name=job.model.name, number=job.model.number) if job.model else None,
        error=job.error.code if job.error else None,
        eta_seconds=(
            round(max(0, epochs - job.epoch) * job.epoch_seconds, 1)
            if job.epoch_seconds and job.status is Status.RUNNING
            else None
        ),
    )


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
    match job.status:
        case Status.QUEUED if job.loss:
            return f"Attempt {job.attempt} ended: {_LOSSES.get(job.loss, job.loss)}. Waiting for a worker."
        case Status.QUEUED:
            return "Waiting for a worker."
        case Status.RUNNING if job.epoch == 0:
            return "Starting."
        case Status.RUNNING:
            return f"Epoch {job.epoch} of {job.spec.epochs}."
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
