"""What must be true of any log, kept by a bookkeeper who does not use the automaton.

It hears every record with its verdict and knows only the sentences of the protocol. Property tests and the simulation
show it what `judge` decided; it raises `Violation` with the sentence that was broken.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from domain.events import (
    AttemptEvent,
    AttemptLost,
    AttemptStarted,
    Checkpoint,
    CheckpointSaved,
    DatasetRegistered,
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
    ModelRegistered,
    PriorityChanged,
)
from domain.history import chain
from domain.job import Job
from domain.refusal import Refusal
from domain.workspace import Effect
from tests.domain.scenario import Record


class Violation(AssertionError):
    """A sentence of the protocol does not hold."""


def must(holds: bool, sentence: str) -> None:
    """Raise `Violation` if the sentence does not hold."""
    if not holds:
        raise Violation(sentence)


@dataclass
class JobAccount:
    """What the bookkeeper knows of one job."""

    max_losses: int
    attempt: int = 0
    holder: str | None = None
    epoch: int = 0
    saved: dict[tuple[int, int, int], Checkpoint] = field(default_factory=dict)
    nameable: dict[tuple[int, int, int], Checkpoint] = field(default_factory=dict)
    reported: set[tuple[int, int]] = field(default_factory=set)
    wish: str | None = None
    """`stop` or `pause`, as long as it stands."""
    over: str | None = None
    losses: int = 0
    version: int = 0


class Ledger:
    """Follows the verdicts on one workspace's records."""

    def __init__(self) -> None:
        self.version = 0
        self.jobs: dict[str, JobAccount] = {}
        self.datasets: set[str] = set()
        self.decided: set[str] = set()
        self.numbers: dict[str, int] = defaultdict(int)
        self.series: dict[str, int] = defaultdict(int)
        self.reports: set[tuple[str, type[AttemptEvent], int, int, int]] = set()

    def hear(self, id: str, record: Record, verdict: Effect | Refusal) -> None:
        """Take note of the next record of the log. Raises `Violation`."""
        event = record.event
        if event.is_request:
            first = id not in self.decided
            must(first or verdict is Refusal.DUPLICATE, "the first occurrence of a request's id decides")
            self.decided.add(id)
        if isinstance(verdict, Refusal):
            return
        must(verdict.version == self.version + 1, "versions have no holes")
        self.version += 1
        if isinstance(event, DatasetRegistered):
            self._dataset(id, event, verdict)
            return
        must(verdict.job is not None, "an effective record of a job changes it")
        assert verdict.job is not None
        if isinstance(event, JobRequested):
            must(id == record.subject, "a job's id is its request's event id")
            must(record.subject not in self.jobs, "a job is requested once")
            must(event.dataset.id in self.datasets, "a job's dataset exists")
            self.jobs[record.subject] = JobAccount(event.max_losses)
        must(record.subject in self.jobs, "nothing takes effect on a job that does not exist")
        account = self.jobs[record.subject]
        self._job(account, record, verdict)
        must(verdict.job.previous == account.version, "a job's record names the version of the one before it")
        account.version = verdict.version
        compare(account, verdict.job)

    def _dataset(self, id: str, event: DatasetRegistered, verdict: Effect) -> None:
        must(verdict.dataset is not None and verdict.dataset.id == id, "a dataset's id is its request's event id")
        must(id not in self.datasets, "a dataset version is registered once")
        must(
            verdict.dataset is not None and verdict.dataset.number == self.series[event.name] + 1, "ordinals: no holes"
        )
        self.series[event.name] += 1
        self.datasets.add(id)

    def _job(self, account: JobAccount, record: Record, verdict: Effect) -> None:
        event = record.event
        if not isinstance(event, JobRetried):
            must(account.over is None, "a job that is over changes only by a retry")
        match event:
            case JobRequested():
                pass
            case AttemptStarted():
                self._claim(account, event)
            case AttemptEvent():
                must((event.attempt, event.worker) == (account.attempt, account.holder), "only the holder is heard")
                key = (
                    record.subject,
                    type(event),
                    event.attempt,
                    getattr(event, "epoch", 0),
                    getattr(event, "step", 0),
                )
                must(key not in self.reports, "a report takes effect once")
                self.reports.add(key)
                self._report(account, event, verdict)
            case JobStopRequested():
                must(account.wish != "stop", "a stop that stands is not asked for again")
                account.wish, account.over = "stop", account.over or (None if account.holder else "stopped")
            case JobPauseRequested():
                must(account.wish is None, "only what nobody wants to end is paused")
                account.wish = "pause"
            case JobResumed():
                must(account.wish == "pause", "only a pause is withdrawn")
                account.wish = None
            case JobRetried():
                must(account.over in ("failed", "stopped"), "what failed or was stopped is retried, nothing else")
                account.over, account.wish, account.losses = None, None, 0
                if event.fresh:
                    account.nameable, account.epoch = {}, 0
            case PriorityChanged():
                must(verdict.job is not None and verdict.job.priority == event.priority, "priority is as asked")

    def _claim(self, account: JobAccount, event: AttemptStarted) -> None:
        must(account.holder is None, "at most one attempt at a time")
        must(account.wish is None, "what somebody wants to end is not begun again")
        must(event.attempt == account.attempt + 1, "attempts are numbered without holes")
        named = event.checkpoint
        if named is not None:
            key = (named.attempt, named.epoch, named.step)
            must(account.nameable.get(key) == named, "a claim names an effective checkpoint")
        account.attempt, account.holder = event.attempt, event.worker
        account.epoch = named.epoch if named else 0

    def _report(self, account: JobAccount, event: AttemptEvent, verdict: Effect) -> None:
        match event:
            case EpochCompleted():
                must(event.epoch == account.epoch + 1, "epochs of an attempt follow each other")
                account.epoch = event.epoch
                account.reported.add((event.attempt, event.epoch))
            case CheckpointSaved():
                key = (event.attempt, event.epoch, event.step)
                must(event.epoch == account.epoch, "a checkpoint is of the last effective epoch")
                must(key not in account.saved, "a checkpoint is saved once")
                account.saved[key] = account.nameable[key] = event.checkpoint()
                account.losses = 0
            case ModelRegistered() | JobCompleted():
                must(event.last_epoch == account.epoch, "the end names the last effective epoch")
                account.holder, account.over = None, "completed"
                if isinstance(event, ModelRegistered):
                    self._model(event, verdict)
            case JobFailed():
                account.holder, account.over = None, "failed"
            case AttemptLost() | JobStopped() | JobPaused():
                self._ended(account, event)

    def _ended(self, account: JobAccount, event: AttemptEvent) -> None:
        account.holder = None
        if isinstance(event, AttemptLost) and event.reason != "released":
            account.losses += 1
            if account.losses >= account.max_losses and account.wish is None:
                account.over = "failed"
        if isinstance(event, AttemptLost) and event.reason == "checkpoint_unreadable" and event.checkpoint:
            named = event.checkpoint
            key = (named.attempt, named.epoch, named.step)
            if account.nameable.get(key) == named:
                del account.nameable[key]
        if account.wish == "stop":
            account.over = "stopped"

    def _model(self, event: ModelRegistered, verdict: Effect) -> None:
        must(verdict.model is not None, "a registered model has a number")
        assert verdict.model is not None
        must(verdict.model.number == self.numbers[event.model] + 1, "model numbers have no holes")
        self.numbers[event.model] += 1


def compare(account: JobAccount, job: Job) -> None:
    """The folded state says what the bookkeeper knows."""
    expected = (
        account.over
        or ({"stop": "stopping", "pause": "pausing", None: "running"}[account.wish] if account.holder else None)
        or ("paused" if account.wish == "pause" else "queued")
    )
    must(job.status.value == expected, f"the job is {expected}, not {job.status.value}")
    must((job.attempt, job.worker, job.epoch) == (account.attempt, account.holder, account.epoch), "who, and how far")
    must(job.losses == account.losses, "losses since the last retry or effective checkpoint")
    listed = [saved.checkpoint for saved in job.checkpoints]
    must(
        listed == [c for c in account.nameable.values() if c in listed], "the listed checkpoints may be named, in order"
    )
    curve = [
        (segment.attempt, epoch)
        for segment in chain(job.origins)
        for epoch in range(segment.after + 1, (job.epoch if segment.through is None else segment.through) + 1)
    ]
    must([epoch for _, epoch in curve] == list(range(1, job.epoch + 1)), "the curve is 1..epoch, each once")
    must(account.reported.issuperset(curve), "the curve is made of effective epochs")
