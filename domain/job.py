"""The automaton of a training job: which records take effect, and what the job is after them.

`admit` says whether an event takes effect on a state, and if not, why; `evolve` applies an effective one and never
refuses. Neither reads a clock, draws an id or does I/O. `at` is the broker's timestamp of the record in milliseconds: it
is shown and delays the next claim, but no verdict reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, assert_never

import msgspec
from msgspec.structs import replace

from domain.backoff import backoff_ms
from domain.events import (
    AttemptLost,
    AttemptStarted,
    Checkpoint,
    CheckpointSaved,
    DatasetRef,
    EpochCompleted,
    JobCompleted,
    JobFailed,
    JobPaused,
    JobPauseRequested,
    JobRequested,
    JobResumed,
    JobRetried,
    JobStopped,
    JobStopRequested,
    Metrics,
    ModelRegistered,
    ObjectRef,
    PriorityChanged,
)
from domain.refusal import Refusal

JobEvent = (
    JobRequested
    | JobStopRequested
    | JobPauseRequested
    | JobResumed
    | JobRetried
    | PriorityChanged
    | AttemptStarted
    | EpochCompleted
    | CheckpointSaved
    | JobStopped
    | JobPaused
    | AttemptLost
    | ModelRegistered
    | JobCompleted
    | JobFailed
)

NEWEST_CHECKPOINTS = 4
"""How many checkpoints a job's state lists. Workers keep fewer files than that; older ones are rows."""


class Status(StrEnum):
    """Where a job is. The last three are ends, which only a retry leaves."""

    QUEUED = "queued"
    RUNNING = "running"
    STOPPING = "stopping"
    PAUSING = "pausing"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"


# In tuples, since a member of an enumeration is found in one by identity, and in a set by a hash that Python computes.
HELD = (Status.RUNNING, Status.STOPPING, Status.PAUSING)
OVER = (Status.COMPLETED, Status.FAILED, Status.STOPPED)


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for; never changes."""

    name: str
    recipe: str
    recipe_version: int
    parameters: Mapping[str, Any]
    epochs: int
    dataset: DatasetRef
    model: str
    max_losses: int


class SavedCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An effective checkpoint and the metrics that the job had reached with it."""

    checkpoint: Checkpoint
    metrics: Metrics
    best: bool = False


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """Where an attempt began: after `epoch` of the attempt `parent`, or from nothing (0, 0)."""

    attempt: int
    parent: int
    epoch: int


class JobError(msgspec.Struct, frozen=True, kw_only=True):
    """Why the job failed: a stable code, the exception's type, and where the last lines are kept."""

    code: str
    exception: str | None = None
    log: ObjectRef | None = None


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a registered model."""

    name: str
    number: int


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as folded from its effective records."""

    id: str
    spec: JobSpec
    status: Status
    priority: int
    requested_by: str
    requested_at: int
    version: int = 0
    """The workspace's version at the job's last effective record."""
    previous: int = 0
    """The one before that: a subscriber to this job proves with it that nothing is missing."""
    updated_at: int = 0
    started_at: int | None = None
    """When the last attempt began."""
    ended_at: int | None = None
    attempt: int = 0
    worker: str | None = None
    """Who holds the attempt; None when no attempt is running."""
    epoch: int = 0
    metrics: Metrics = {}
    epoch_seconds: float | None = None
    checkpoints: tuple[SavedCheckpoint, ...] = ()
    """The newest effective ones, in log order."""
    dropped_through: int = 0
    """Checkpoints of attempts up to this one were dropped by a fresh retry."""
    saved_steps: tuple[int, ...] = ()
    """Steps saved at the current attempt and epoch."""
    has_saved: bool = False
    """Whether the last attempt has an effective checkpoint."""
    origins: tuple[Origin, ...] = ()
    """Of the last attempt, and of those before it that a claim can still lead back to."""
    losses: int = 0
    setbacks: int = 0
    """Losses and releases since the last effective checkpoint; the backoff grows with it."""
    not_before: int = 0
    """When workers may claim again, ms since 1970; `admit` never reads it."""
    loss: str | None = None
    """Reason of the last loss, while it explains why the job waits."""
    model: ModelVersion | None = None
    error: JobError | None = None

    def is_held_by(self, worker: str, attempt: int) -> bool:
        """Whether that attempt is the last one, is not over, and belongs to that worker."""
        return attempt == self.attempt and worker == self.worker and self.status in HELD

    @property
    def is_over(self) -> bool:
        """Completed, failed or stopped."""
        return self.status in OVER

    @property
    def wanted(self) -> str | None:
        """What somebody asked of the running attempt: `stop`, `pause` or nothing."""
        match self.status:
            case Status.STOPPING:
                return "stop"
            case Status.PAUSING:
                return "pause"
            case _:
                return None

    def may_start_from(self, checkpoint: Checkpoint) -> bool:
        """Whether a fresh retry has not dropped it."""
        return checkpoint.attempt > self.dropped_through


def admit(
    job: Job | None,
    event: JobEvent,
    *,
    dataset_exists: bool = False,
    named: Checkpoint | None = None,
) -> Refusal | None:
    """Whether `event` takes effect on `job`; if not, why.

    `dataset_exists` tells whether the dataset version of a `JobRequested` is registered in the workspace; `named` is the
    effective, unstruck checkpoint of this job with the attempt, epoch and step that a claim names, if there is one.
    """
    if job is None:
        if type(event) is not JobRequested:
            return Refusal.UNKNOWN_JOB
        return None if dataset_exists else Refusal.UNKNOWN_DATASET
    match event:
        case EpochCompleted():  # First, since most are.
            if not job.is_held_by(event.worker, event.attempt):
                return Refusal.FENCED
            return None if event.epoch == job.epoch + 1 else Refusal.OUT_OF_ORDER
        case CheckpointSaved():
            if not job.is_held_by(event.worker, event.attempt):
                return Refusal.FENCED
            if event.epoch != job.epoch:
                return Refusal.OUT_OF_ORDER
            return Refusal.ALREADY_SAVED if event.step in job.saved_steps else None
        case AttemptStarted():
            if job.status is not Status.QUEUED or event.attempt != job.attempt + 1:
                return Refusal.CLAIM_LOST
            if event.checkpoint is None:
                return None
            if event.checkpoint != named or not job.may_start_from(event.checkpoint):
                return Refusal.UNKNOWN_CHECKPOINT
            return None
        case JobStopped() | JobPaused() | AttemptLost() | JobFailed():
            return None if job.is_held_by(event.worker, event.attempt) else Refusal.FENCED
        case ModelRegistered() | JobCompleted():
            if not job.is_held_by(event.worker, event.attempt):
                return Refusal.FENCED
            return None if event.last_epoch == job.epoch else Refusal.OUT_OF_ORDER
        case JobStopRequested():
            if job.is_over:
                return Refusal.ALREADY_OVER
            return Refusal.ALREADY_STOPPING if job.status is Status.STOPPING else None
        case JobPauseRequested():
            return None if job.status in (Status.QUEUED, Status.RUNNING) else Refusal.NOT_PAUSABLE
        case JobResumed():
            return None if job.status in (Status.PAUSED, Status.PAUSING) else Refusal.NOT_PAUSED
        case JobRetried():
            return None if job.status in (Status.FAILED, Status.STOPPED) else Refusal.NOT_RETRIABLE
        case PriorityChanged():
            return Refusal.ALREADY_OVER if job.is_over else None
        case JobRequested():
            return Refusal.DUPLICATE
        case _:
            assert_never(event)


def request(event: JobRequested, *, job_id: str, actor: str, at: int, version: int) -> Job:
    """The job that an effective `JobRequested` brings about."""
    return Job(
        id=job_id,
        spec=JobSpec(
            name=event.name,
            recipe=event.recipe,
            recipe_version=event.recipe_version,
            parameters=event.parameters,
            epochs=event.epochs,
            dataset=event.dataset,
            model=event.model,
            max_losses=event.max_losses,
        ),
        status=Status.QUEUED,
        priority=event.priority,
        requested_by=actor,
        requested_at=at,
        version=version,
        updated_at=at,
    )


def evolve(job: Job, event: JobEvent, *, at: int, version: int, model_number: int = 0) -> Job:
    """The job after an effective event. `model_number` is the next version of the model that a `ModelRegistered` names."""
    match event:
        case EpochCompleted():
            return replace(
                job,
                epoch=event.epoch,
                metrics=event.metrics,
                epoch_seconds=event.seconds,
                saved_steps=(),
                version=version,
                previous=job.version,
                updated_at=at,
            )
        case CheckpointSaved():
            saved = SavedCheckpoint(checkpoint=event.checkpoint(), metrics=job.metrics, best=event.best)
            return replace(
                job,
                checkpoints=(*job.checkpoints, saved)[-NEWEST_CHECKPOINTS:],
                saved_steps=(*job.saved_steps, event.step),
                has_saved=True,
                losses=0,
                setbacks=0,
                version=version,
                previous=job.version,
                updated_at=at,
            )
    return replace(
        _evolve_rarely(job, event, at, model_number),
        version=version,
        previous=job.version,
        updated_at=at,
    )


def _evolve_rarely(job: Job, event: JobEvent, at: int, model_number: int) -> Job:
    match event:
        case AttemptStarted():
            return _started(job, event, at)
        case JobStopped() | JobPaused():
            return _attempt_ended(job, at)
        case AttemptLost():
            return _attempt_lost(job, event, at)
        case ModelRegistered():
            model = ModelVersion(name=event.model, number=model_number)
            return _over(
                job,
                Status.COMPLETED,
                at,
                model=model,
                metrics=event.metrics or job.metrics,
            )
        case JobCompleted():
            return _over(job, Status.COMPLETED, at)
        case JobFailed():
            return _over(
                job,
                Status.FAILED,
                at,
                error=JobError(code=event.code, exception=event.exception, log=event.log),
            )
        case JobStopRequested():
            return replace(job, status=Status.STOPPING) if job.worker else _over(job, Status.STOPPED, at)
        case JobPauseRequested():
            return replace(job, status=Status.PAUSING if job.worker else Status.PAUSED)
        case JobResumed():
            return replace(job, status=Status.RUNNING if job.worker else Status.QUEUED)
        case JobRetried():
            return _retried(job, event)
        case PriorityChanged():
            return replace(job, priority=event.priority)
        case EpochCompleted() | CheckpointSaved() | JobRequested():
            raise AssertionError("evolved by its own function")
        case _:
            assert_never(event)


def _started(job: Job, event: AttemptStarted, at: int) -> Job:
    start = event.checkpoint
    origin = Origin(event.attempt, start.attempt, start.epoch) if start else Origin(event.attempt, 0, 0)
    # Nobody can start from an attempt that saved nothing, so a job that is handed back for months does not grow.
    ancestors = job.origins if job.has_saved else job.origins[:-1]
    reached = next((saved.metrics for saved in job.checkpoints if saved.checkpoint == start), {})
    return replace(
        job,
        status=Status.RUNNING,
        attempt=event.attempt,
        worker=event.worker,
        epoch=start.epoch if start else 0,
        metrics=reached,
        epoch_seconds=None,
        saved_steps=(),
        has_saved=False,
        origins=(*ancestors, origin),
        started_at=at,
        loss=None,
    )


def _attempt_ended(job: Job, at: int) -> Job:
    """No attempt is running any more, and what is wanted now decides what comes of the job."""
    match job.status:
        case Status.STOPPING:
            return _over(job, Status.STOPPED, at)
        case Status.PAUSING:
            return replace(job, status=Status.PAUSED, worker=None)
        case _:
            return replace(job, status=Status.QUEUED, worker=None)


def _attempt_lost(job: Job, event: AttemptLost, at: int) -> Job:
    losses = job.losses if event.reason == "released" else job.losses + 1
    setbacks = job.setbacks + 1
    kept = job.checkpoints
    if event.reason == "checkpoint_unreadable":
        kept = tuple(saved for saved in kept if saved.checkpoint != event.checkpoint)
    lost = replace(
        job,
        losses=losses,
        setbacks=setbacks,
        not_before=at + backoff_ms(setbacks),
        checkpoints=kept,
        loss=event.reason,
    )
    if job.wanted is None and losses >= job.spec.max_losses and event.reason != "released":
        return _over(lost, Status.FAILED, at, error=JobError(code=event.reason, log=event.log))
    return _attempt_ended(lost, at)


def _retried(job: Job, event: JobRetried) -> Job:
    queued = replace(
        job,
        status=Status.QUEUED,
        losses=0,
        setbacks=0,
        not_before=0,
        loss=None,
        error=None,
        ended_at=None,
    )
    if not event.fresh:
        return queued
    return replace(
        queued,
        checkpoints=(),
        dropped_through=job.attempt,
        has_saved=False,
        origins=(),
        epoch=0,
        metrics={},
        epoch_seconds=None,
    )


def _over(job: Job, status: Status, at: int, **changes: Any) -> Job:
    return replace(job, status=status, worker=None, ended_at=at, **changes)
