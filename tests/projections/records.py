"""Records for the tests: single ones, and streams of plausible and implausible ones that cover most of the automaton."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from domain.events import (
    AttemptLost,
    AttemptStarted,
    CheckpointSaved,
    DatasetRef,
    DatasetRegistered,
    EpochCompleted,
    Event,
    JobFailed,
    JobPaused,
    JobPauseRequested,
    JobRequested,
    JobResumed,
    JobRetried,
    JobStopped,
    JobStopRequested,
    ModelRegistered,
    ObjectRef,
    PriorityChanged,
    StoredFile,
)
from domain.job import Job, Status
from domain.workspace import Workspace, judge
from schemas.envelope import encode, headers, record

SHA = "a" * 64


@dataclass(frozen=True)
class Written:
    """What a test appends. Without a partition, the key's own."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int | None = None


def written(
    event: Event,
    *,
    workspace: str,
    subject: str,
    id: str | None = None,
    actor: str = "user",
    request_hash: str | None = None,
) -> Written:
    """The record of an event."""
    envelope = record(
        event,
        id=id or str(uuid.uuid4()),
        source="ravand://test",
        subject=subject,
        time="2026-01-01T00:00:00.000Z",
        workspace=workspace,
        actor=actor,
        requesthash=request_hash,
    )
    return Written(workspace.encode(), encode(envelope), tuple(headers(envelope)))


def dataset_registered(name: str = "flowers") -> DatasetRegistered:
    """An upload."""
    profile = ObjectRef(uri=f"profiles/{SHA}", sha256=SHA)
    return DatasetRegistered(
        name=name, uri=f"datasets/{SHA}", sha256=SHA, format="csv", bytes=10, rows=2, profile=profile
    )


def job_requested(dataset: str, *, epochs: int = 20, max_losses: int = 3) -> JobRequested:
    """A request."""
    return JobRequested(
        name="job",
        recipe="tabular",
        recipe_version=1,
        parameters={"target": "label", "هدف": "برچسب"},
        epochs=epochs,
        dataset=DatasetRef(id=dataset, uri=f"datasets/{SHA}", sha256=SHA, format="csv"),
        model="flowers",
        max_losses=max_losses,
    )


def model_registered(worker: str, epoch: int, attempt: int = 1) -> ModelRegistered:
    """The end of a job."""
    files = (StoredFile(name="model.safetensors", uri="models/x", sha256=SHA, bytes=3),)
    return ModelRegistered(
        attempt=attempt, worker=worker, last_epoch=epoch, model="flowers", files=files, metrics={"loss": 0.1}
    )


def one_job(workspace: str, *, epochs: int = 5, job: str | None = None) -> list[Written]:
    """A job from its dataset to its model, without incident."""
    dataset, job, worker = str(uuid.uuid4()), job or str(uuid.uuid4()), str(uuid.uuid4())
    events: list[tuple[str, Event]] = [
        (job, AttemptStarted(attempt=1, worker=worker)),
        *((job, _epoch(1, worker, epoch)) for epoch in range(1, epochs + 1)),
        (job, model_registered(worker, epochs)),
    ]
    return [
        written(dataset_registered(), workspace=workspace, subject=dataset, id=dataset),
        written(job_requested(dataset, epochs=epochs), workspace=workspace, subject=job, id=job),
        *(written(event, workspace=workspace, subject=subject, actor=worker) for subject, event in events),
    ]


def _epoch(attempt: int, worker: str, epoch: int) -> EpochCompleted:
    return EpochCompleted(attempt=attempt, worker=worker, epoch=epoch, metrics={"loss": 1 / epoch}, seconds=1.5)


def stream(seed: int, workspaces: Sequence[str], count: int) -> list[Written]:
    """Records of several workspaces, mixed: what would take effect mostly, and what would not as well."""
    chance = random.Random(seed)
    lives = [_life(chance, workspace) for workspace in workspaces]
    made = [next(chance.choice(lives)) for _ in range(count)]
    # Now and then a record comes a second time, as after a lost acknowledgement.
    for _ in range(count // 25):
        twice = made[chance.randrange(len(made))]
        made.insert(chance.randrange(len(made)), twice)
    return made


def _life(chance: random.Random, name: str) -> Iterator[Written]:
    known = Workspace(name)
    dataset = str(uuid.UUID(int=chance.getrandbits(128)))
    workers = [f"worker-{number}" for number in range(3)]
    pending: tuple[str, str, Event] = (dataset, dataset, dataset_registered())
    while True:
        id, subject, event = pending
        # Only to choose plausibly what comes next; verdicts are computed elsewhere.
        judge(known, id=id, subject=subject, actor="a", event=event, at=0)
        yield written(event, workspace=name, subject=subject, id=id, actor=getattr(event, "worker", "user"))
        pending = _next(chance, known, dataset, workers)


def _next(chance: random.Random, known: Workspace, dataset: str, workers: Sequence[str]) -> tuple[str, str, Event]:
    id = str(uuid.UUID(int=chance.getrandbits(128)))
    open_jobs = [job for job in known.jobs.values() if not job.is_over]
    draw = chance.random()
    if draw < 0.03 or not known.jobs or (len(open_jobs) < 3 and draw < 0.5):
        return id, id, job_requested(dataset if draw > 0.002 else "no-such-dataset", epochs=6)
    if draw < 0.05:
        return id, id, dataset_registered(f"set-{chance.randrange(3)}")
    job = chance.choice(open_jobs or list(known.jobs.values()))
    if draw < 0.15:
        job = chance.choice(list(known.jobs.values()))
    worker = job.worker if job.worker and chance.random() < 0.9 else chance.choice(workers)
    event = _wish(chance) if chance.random() < 0.12 else _report(chance, job, worker)
    return id, job.id, event


def _wish(chance: random.Random) -> Event:
    return chance.choice(
        [
            JobStopRequested(),
            JobPauseRequested(),
            JobResumed(),
            JobResumed(),
            JobRetried(),
            JobRetried(fresh=True),
            PriorityChanged(priority=chance.randrange(-5, 5)),
        ]
    )


def _report(chance: random.Random, job: Job, worker: str) -> Event:
    attempt, draw = max(1, job.attempt), chance.random()
    named = job.checkpoints[-1].checkpoint if job.checkpoints and chance.random() < 0.8 else None
    if job.status is Status.QUEUED or draw < 0.05:
        return AttemptStarted(attempt=job.attempt + 1, worker=worker, checkpoint=named)
    if draw < 0.5 and job.epoch < job.spec.epochs:
        return _epoch(attempt, worker, job.epoch + 1)
    if draw < 0.7:
        where = f"jobs/{job.id}/{attempt}/{job.epoch}"
        return CheckpointSaved(
            attempt=attempt, worker=worker, epoch=job.epoch, step=chance.randrange(3), uri=where, sha256=SHA
        )
    if draw < 0.78:
        return AttemptLost(
            attempt=attempt, worker=worker, reason=chance.choice(["released", "killed", "lease_expired"])
        )
    if draw < 0.82 and named:
        return AttemptLost(attempt=attempt, worker=worker, reason="checkpoint_unreadable", checkpoint=named)
    if draw < 0.86:
        return chance.choice([JobStopped, JobPaused])(attempt=attempt, worker=worker)
    if draw < 0.88:
        return JobFailed(attempt=attempt, worker=worker, code="exception", exception="ValueError")
    if draw < 0.92 or job.epoch >= job.spec.epochs:
        return model_registered(worker, job.epoch, attempt)
    return _epoch(attempt, worker, chance.randrange(1, 8))
