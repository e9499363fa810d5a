"""A workspace: one total order of records, and everything folded from it.

`judge` is the one place where a verdict is computed: the projector, the auditor, the API's check before it appends and the
tests all call it. The container is mutable so that a million records cost no copies; every value in it is frozen.
"""

from __future__ import annotations

from typing import final

import msgspec

from domain import job as jobs
from domain.events import (
    AttemptLost,
    AttemptStarted,
    Checkpoint,
    CheckpointSaved,
    DatasetRegistered,
    EpochCompleted,
    Event,
    JobRequested,
    JobRetried,
    ModelRegistered,
    ObjectRef,
    RulesActivated,
    StoredFile,
    SystemEvent,
)
from domain.job import Job
from domain.refusal import Refusal
from domain.rules import SYSTEM_WORKSPACE

CheckpointKey = tuple[str, int, int, int]
"""Job, attempt, epoch, step."""


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable dataset version. `number` is its ordinal under the name."""

    id: str
    name: str
    number: int
    uri: str
    sha256: str
    format: str
    bytes: int
    rows: int
    profile: ObjectRef
    registered_by: str
    registered_at: int
    version: int


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a registered model."""

    name: str
    number: int
    job_id: str
    attempt: int
    dataset_id: str
    recipe: str
    files: tuple[StoredFile, ...]
    metrics: dict[str, float]
    registered_at: int
    version: int


class Needs(msgspec.Struct, frozen=True, array_like=True):
    """The keys of the state that judging one record reads; whoever folds loads them before."""

    job: str | None = None
    dataset: str | None = None
    series: str | None = None
    model: str | None = None
    checkpoint: CheckpointKey | None = None
    request: str | None = None


@final
class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """What an effective record changed. `version` is the workspace's after it."""

    version: int
    job: Job | None = None
    dataset: Dataset | None = None
    model: Model | None = None
    checkpoint: Checkpoint | None = None
    """A checkpoint that was saved."""
    struck: Checkpoint | None = None
    """A checkpoint that nobody may start from any more."""


class Workspace:
    """The folded state of one workspace, or as much of it as the records in hand need."""

    __slots__ = (
        "checkpoints",
        "datasets",
        "id",
        "jobs",
        "models",
        "requests",
        "series",
        "version",
    )

    def __init__(self, id: str, version: int = 0) -> None:
        self.id = id
        self.version = version
        self.jobs: dict[str, Job] = {}
        self.datasets: dict[str, Dataset | None] = {}
        self.series: dict[str, int] = {}
        """How many versions each dataset name has."""
        self.models: dict[str, int] = {}
        """How many versions each model name has."""
        self.checkpoints: dict[CheckpointKey, Checkpoint | None] = {}
        """Checkpoints that may be named; None where it is known that there is none."""
        self.requests: set[str] = set()


def needs(id: str, subject: str, event: Event) -> Needs:
    """The keys that `judge` will read for this record."""
    request = id if event.is_request else None
    match event:
        case JobRequested():
            return Needs(job=subject, dataset=event.dataset.id, request=request)
        case DatasetRegistered():
            return Needs(series=event.name, dataset=subject, request=request)
        case ModelRegistered():
            return Needs(job=subject, model=event.model)
        case AttemptStarted(checkpoint=Checkpoint() as named) | AttemptLost(checkpoint=Checkpoint() as named):
            return Needs(
                job=subject,
                checkpoint=(subject, named.attempt, named.epoch, named.step),
            )
        case RulesActivated():
            return Needs()
        case SystemEvent():
            return Needs(request=request)
        case _:
            return Needs(job=subject, request=request)


def judge(workspace: Workspace, *, id: str, subject: str, actor: str, event: Event, at: int) -> Effect | Refusal:
    """The verdict on one record after all before it; an effective one has changed `workspace` when this returns.

    `at` is the broker's timestamp in milliseconds. `RulesActivated` is a matter of the partition (`domain.rules`): in a
    workspace it is misrouted. Raises nothing: an exception from here is a bug, never a verdict.
    """
    if event.is_request:
        if id in workspace.requests:
            return Refusal.DUPLICATE
        workspace.requests.add(id)
    elif type(event) is not RulesActivated:
        return _judge_job(workspace, subject, event, at)
    match event:
        case DatasetRegistered():
            return _register_dataset(workspace, id, subject, actor, event, at)
        case JobRequested() if id != subject:
            return Refusal.MISROUTED
        case JobRequested():
            exists = workspace.datasets.get(event.dataset.id) is not None
            refusal = jobs.admit(workspace.jobs.get(subject), event, dataset_exists=exists)
            if refusal is not None:
                return refusal
            workspace.version += 1
            job = jobs.request(event, job_id=subject, actor=actor, at=at, version=workspace.version)
            workspace.jobs[subject] = job
            return Effect(version=workspace.version, job=job)
        case SystemEvent() if workspace.id == SYSTEM_WORKSPACE:
            # What was done is noted, whatever was done before.
            workspace.version += 1
            return Effect(version=workspace.version)
        case SystemEvent() | RulesActivated():
            return Refusal.MISROUTED
    return _judge_job(workspace, subject, event, at)


def _judge_job(workspace: Workspace, subject: str, event: Event, at: int) -> Effect | Refusal:
    before = workspace.jobs.get(subject)
    named = None
    if type(event) is AttemptStarted and event.checkpoint is not None:
        c = event.checkpoint
        named = workspace.checkpoints.get((subject, c.attempt, c.epoch, c.step))
    refusal = jobs.admit(before, event, named=named)  # type: ignore[arg-type]  # RulesActivated never comes here.
    if refusal is not None:
        return refusal
    assert before is not None  # Only a JobRequested is admitted without a job.
    workspace.version = version = workspace.version + 1
    match event:
        case EpochCompleted():  # First, since most are.
            job = jobs.evolve(before, event, at=at, version=version)
            workspace.jobs[subject] = job
            return Effect(version=version, job=job)
        case ModelRegistered():
            return _register_model(workspace, before, event, at)
        case CheckpointSaved():
            checkpoint = event.checkpoint()
            workspace.checkpoints[(subject, event.attempt, event.epoch, event.step)] = checkpoint
            job = jobs.evolve(before, event, at=at, version=version)
            workspace.jobs[subject] = job
            return Effect(version=version, job=job, checkpoint=checkpoint)
        case AttemptLost(reason="checkpoint_unreadable", checkpoint=Checkpoint() as struck):
            job = jobs.evolve(before, event, at=at, version=version)
            workspace.jobs[subject] = job
            key = (subject, struck.attempt, struck.epoch, struck.step)
            if workspace.checkpoints.get(key) != struck:
                return Effect(version=version, job=job)
            workspace.checkpoints[key] = None
            return Effect(version=version, job=job, struck=struck)
        case JobRetried() | _:
            job = jobs.evolve(before, event, at=at, version=version)  # type: ignore[arg-type]
            workspace.jobs[subject] = job
            return Effect(version=version, job=job)


def _register_dataset(
    workspace: Workspace,
    id: str,
    subject: str,
    actor: str,
    event: DatasetRegistered,
    at: int,
) -> Effect | Refusal:
    if id != subject:
        return Refusal.MISROUTED
    if workspace.datasets.get(subject) is not None:
        return Refusal.DUPLICATE
    workspace.version += 1
    number = workspace.series.get(event.name, 0) + 1
    workspace.series[event.name] = number
    dataset = Dataset(
        id=subject,
        name=event.name,
        number=number,
        uri=event.uri,
        sha256=event.sha256,
        format=event.format,
        bytes=event.bytes,
        rows=event.rows,
        profile=event.profile,
        registered_by=actor,
        registered_at=at,
        version=workspace.version,
    )
    workspace.datasets[subject] = dataset
    return Effect(version=workspace.version, dataset=dataset)


def _register_model(workspace: Workspace, before: Job, event: ModelRegistered, at: int) -> Effect:
    number = workspace.models.get(event.model, 0) + 1
    workspace.models[event.model] = number
    job = jobs.evolve(before, event, at=at, version=workspace.version, model_number=number)
    workspace.jobs[before.id] = job
    model = Model(
        name=event.model,
        number=number,
        job_id=before.id,
        attempt=event.attempt,
        dataset_id=before.spec.dataset.id,
        recipe=before.spec.recipe,
        files=event.files,
        metrics=dict(event.metrics or before.metrics),
        registered_at=at,
        version=workspace.version,
    )
    return Effect(version=workspace.version, job=job, model=model)
