"""given(what happened).when(a record).then_…: the domain in sentences. One job `J` on one dataset `D`, unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from domain.events import (
    AttemptLost,
    AttemptStarted,
    Checkpoint,
    CheckpointSaved,
    DatasetRef,
    DatasetRegistered,
    EpochCompleted,
    Event,
    JobCompleted,
    JobFailed,
    JobPaused,
    JobPauseRequested,
    JobRequested,
    JobResumed,
    JobRetried,
    JobStopped,
    JobStopRequested,
    LossReason,
    ModelRegistered,
    ObjectRef,
    PriorityChanged,
    StoredFile,
)
from domain.job import Job, Status
from domain.refusal import Refusal
from domain.workspace import Effect, Workspace, judge

J, D = "job-1", "dataset-1"
W1, W2 = "worker-1", "worker-2"
NOON = 1_800_000_000_000
"""When the first record of a scenario was written; each later one a second after the one before."""


@dataclass(frozen=True)
class Record:
    """An event with as much of its envelope as judging reads."""

    event: Event
    subject: str
    id: str | None = None
    """None: an id of its own, or for what creates something the subject."""
    actor: str = "user-1"

    def numbered(self, number: int) -> str:
        """The id it is judged under as the `number`th record."""
        if self.id is not None:
            return self.id
        creates = isinstance(self.event, (JobRequested, DatasetRegistered))
        return self.subject if creates else f"record-{number}"


def of_job(event: Event, job: str = J, **envelope: Any) -> Record:
    """A record about a job."""
    return Record(event, job, **envelope)


def dataset(subject: str = D, name: str = "iris", **envelope: Any) -> Record:
    """`DatasetRegistered`."""
    event = DatasetRegistered(
        name=name,
        uri=f"datasets/{subject}",
        sha256="d" * 64,
        format="csv",
        bytes=1000,
        rows=150,
        profile=ObjectRef(uri=f"profiles/{subject}", sha256="e" * 64),
    )
    return Record(event, subject, **envelope)


def job_spec(dataset: str = D, model: str = "iris", max_losses: int = 3, epochs: int = 10) -> JobRequested:
    """What is asked for."""
    return JobRequested(
        name="a run",
        recipe="tabular",
        recipe_version=1,
        parameters={"target": "species", "epochs": epochs},
        epochs=epochs,
        dataset=DatasetRef(id=dataset, uri=f"datasets/{dataset}", sha256="d" * 64, format="csv"),
        model=model,
        max_losses=max_losses,
    )


def requested(job: str = J, *, id: str | None = None, actor: str = "user-1", **spec: Any) -> Record:
    """`JobRequested`."""
    return Record(job_spec(**spec), job, id=id, actor=actor)


def checkpoint(epoch: int, *, attempt: int = 1, step: int | None = None, sha256: str = "c" * 64) -> Checkpoint:
    """The checkpoint that `saved` with the same numbers makes."""
    step = epoch * 100 if step is None else step
    return Checkpoint(attempt=attempt, epoch=epoch, step=step, uri=f"jobs/{attempt}/{epoch}-{step}.ckpt", sha256=sha256)


def started(attempt: int = 1, worker: str = W1, named: Checkpoint | None = None, job: str = J) -> Record:
    """`AttemptStarted`."""
    return of_job(AttemptStarted(attempt=attempt, worker=worker, checkpoint=named), job)


def epoch(number: int, *, attempt: int = 1, worker: str = W1, loss: float = 0.5, job: str = J) -> Record:
    """`EpochCompleted`."""
    return of_job(EpochCompleted(attempt=attempt, worker=worker, epoch=number, metrics={"loss": loss}), job)


def epochs(first: int, last: int, *, attempt: int = 1, worker: str = W1, job: str = J) -> list[Record]:
    """`EpochCompleted` for every epoch from `first` to `last`."""
    return [epoch(number, attempt=attempt, worker=worker, job=job) for number in range(first, last + 1)]


def saved(number: int, *, attempt: int = 1, worker: str = W1, step: int | None = None, job: str = J) -> Record:
    """`CheckpointSaved`."""
    made = checkpoint(number, attempt=attempt, step=step)
    event = CheckpointSaved(
        attempt=attempt, worker=worker, epoch=made.epoch, step=made.step, uri=made.uri, sha256=made.sha256
    )
    return of_job(event, job)


def stopped(attempt: int = 1, worker: str = W1) -> Record:
    """`JobStopped`."""
    return of_job(JobStopped(attempt=attempt, worker=worker))


def paused(attempt: int = 1, worker: str = W1) -> Record:
    """`JobPaused`."""
    return of_job(JobPaused(attempt=attempt, worker=worker))


def lost(
    attempt: int = 1, worker: str = W1, reason: LossReason = "lease_expired", unreadable: Checkpoint | None = None
) -> Record:
    """`AttemptLost`."""
    return of_job(AttemptLost(attempt=attempt, worker=worker, reason=reason, checkpoint=unreadable))


def released(attempt: int = 1, worker: str = W1) -> Record:
    """`AttemptLost` by the worker that hands the job back."""
    return lost(attempt, worker, "released")


def model(last_epoch: int, *, attempt: int = 1, worker: str = W1, name: str = "iris", job: str = J) -> Record:
    """`ModelRegistered`."""
    files = (StoredFile(name="model.safetensors", uri="models/1", sha256="f" * 64, bytes=10),)
    event = ModelRegistered(
        attempt=attempt, worker=worker, last_epoch=last_epoch, model=name, files=files, metrics={"accuracy": 0.9}
    )
    return of_job(event, job)


def completed(last_epoch: int, *, attempt: int = 1, worker: str = W1) -> Record:
    """`JobCompleted`."""
    return of_job(JobCompleted(attempt=attempt, worker=worker, last_epoch=last_epoch))


def failed(attempt: int = 1, worker: str = W1) -> Record:
    """`JobFailed`."""
    return of_job(JobFailed(attempt=attempt, worker=worker, code="exception", exception="ValueError"))


stop = of_job(JobStopRequested())
pause = of_job(JobPauseRequested())
resume = of_job(JobResumed())
retry = of_job(JobRetried())
fresh_retry = of_job(JobRetried(fresh=True))


def priority(number: int) -> Record:
    """`PriorityChanged`."""
    return of_job(PriorityChanged(priority=number))


class Given:
    """A workspace after some records, all of which took effect."""

    def __init__(self, *records: Record | list[Record], with_dataset: bool = True) -> None:
        self.workspace = Workspace("workspace-1")
        self.count = 0
        for record in [*([dataset()] if with_dataset else []), *_flat(records)]:
            verdict = self.judge(record)
            assert isinstance(verdict, Effect), f"{record} was meant to take effect: {verdict}"

    def judge(self, record: Record) -> Effect | Refusal:
        """The verdict on the next record, which changes the workspace if it takes effect."""
        self.count += 1
        return judge(
            self.workspace,
            id=record.numbered(self.count),
            subject=record.subject,
            actor=record.actor,
            event=record.event,
            at=NOON + 1000 * (self.count - 1),
        )

    def when(self, record: Record) -> Outcome:
        """Judge one more."""
        before = snapshot(self.workspace)
        return Outcome(self, record, self.judge(record), before)


def given(*records: Record | list[Record], with_dataset: bool = True) -> Given:
    """The workspace in which the scenario begins."""
    return Given(*records, with_dataset=with_dataset)


@dataclass(frozen=True)
class Outcome:
    """What came of the record under test."""

    given: Given
    record: Record
    verdict: Effect | Refusal
    before: bytes

    @property
    def job(self) -> Job:
        """The job after it."""
        return self.given.workspace.jobs[J]

    def then_refused(self, reason: Refusal) -> None:
        """It did not take effect, for that reason, and changed nothing."""
        assert self.verdict is reason
        assert snapshot(self.given.workspace) == self.before

    def then_job(self, **expected: Any) -> Job:
        """It took effect, and the job has these values after it; further ones are asserted on the answer."""
        assert isinstance(self.verdict, Effect), self.verdict
        assert self.verdict.job is self.job
        assert {name: getattr(self.job, name) for name in expected} == expected
        return self.job

    def then_status(self, status: Status) -> Job:
        """It took effect and left the job there."""
        return self.then_job(status=status)

    def then_effect(self) -> Effect:
        """It took effect as the workspace's next version."""
        assert isinstance(self.verdict, Effect), self.verdict
        assert self.verdict.version == self.given.workspace.version
        return self.verdict


def snapshot(workspace: Workspace) -> bytes:
    """Everything folded so far, as bytes that compare. Ids of requests are left out: a refused one is remembered too."""
    state = {
        "version": workspace.version,
        "jobs": workspace.jobs,
        "datasets": workspace.datasets,
        "series": workspace.series,
        "models": workspace.models,
        "checkpoints": sorted(workspace.checkpoints.items()),
    }
    return msgspec.json.encode(state, order="deterministic")


def _flat(records: tuple[Record | list[Record], ...]) -> list[Record]:
    return [record for group in records for record in (group if isinstance(group, list) else [group])]
