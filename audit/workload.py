"""What the log says of the work that there was: per job its request, its wishes, how long its epochs took, what went wrong.

Folded from effective records alone, in one pass; a job is kept as some numbers an epoch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from statistics import fmean, median

from audit.entries import Entry
from domain.events import (
    AttemptLost,
    AttemptStarted,
    CheckpointSaved,
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

_LONGER = 0.001
FALLBACK_SECONDS = 1.0
"""Of an epoch, when the log holds not a single one."""


@dataclass(slots=True)
class Fault:
    """An interruption: `after` seconds of work of an attempt. `reason` is a loss's, or `failed`."""

    after: float
    reason: str


@dataclass(slots=True)
class Wish:
    """Something that a person asked for at a moment (seconds): stop, pause, resume, retry, fresh, or a new priority."""

    at: float
    kind: str
    priority: int = 0


@dataclass(slots=True)
class Lived:
    """What really became of a job. Seconds since 1970."""

    started_at: float | None = None
    ended_at: float | None = None
    status: str = "queued"
    lost_seconds: float = 0.0


@dataclass(slots=True)
class Attempt:
    """An attempt while it is being read."""

    started_at: float
    last_at: float
    saved_at: float
    """Up to when its work is kept."""
    epoch: int


@dataclass(slots=True)
class Work:
    """One job, as it is to be done again under other circumstances."""

    id: str
    workspace: str
    name: str
    recipe: str
    requester: str
    requested_at: float
    priority: int
    epochs: int
    max_losses: int
    epoch_seconds: dict[int, list[float]] = field(default_factory=dict)
    at_least: dict[int, float] = field(default_factory=dict)
    """How long epochs were worked on that an interruption cut off: they take longer than that."""
    saved_after: set[int] = field(default_factory=set)
    closing_seconds: float = 0.0
    """From the last epoch to the end."""
    faults: list[Fault] = field(default_factory=list)
    """One an attempt, in order; attempts that ended well have one without a reason."""
    wishes: list[Wish] = field(default_factory=list)
    lived: Lived = field(default_factory=Lived)
    attempt: Attempt | None = None
    wanted: str = ""
    """`stopped` or `paused`, while somebody wants it of the running attempt."""
    losses: int = 0

    def plan(self, otherwise: float) -> tuple[list[float], list[float]]:
        """The seconds of work at which each epoch ends, and those at which a checkpoint is complete.

        Epochs that never ran take as long as the others of the job, or `otherwise`.
        """
        known = {epoch: fmean(seconds) for epoch, seconds in self.epoch_seconds.items()}
        usual = fmean(known.values()) if known else otherwise
        ends: list[float] = []
        reached = 0.0
        for epoch in range(1, self.epochs + 1):
            reached += known[epoch] if epoch in known else max(usual, self.at_least.get(epoch, 0.0))
            ends.append(reached)
        furthest = max(known, default=0)
        every = max(1, round(furthest / len(self.saved_after))) if self.saved_after else 0
        kept = [
            end
            for epoch, end in enumerate(ends, 1)
            if epoch in self.saved_after or (every and epoch > furthest and epoch % every == 0)
        ]
        return ends, kept


class Workload:
    """All of it. `take` the effective records of each partition in order; partitions may come one after the other."""

    def __init__(self, lease_seconds: float) -> None:
        self.jobs: dict[tuple[str, str], Work] = {}
        self.records = 0
        self.first_at: float | None = None
        self.last_at = 0.0
        self._lease = lease_seconds
        self._held: list[tuple[float, int]] = []
        """(moment, +1 or -1) of every attempt, for how many ran at once."""

    async def read(self, entries: AsyncIterator[Entry]) -> None:
        """Take all of them."""
        async for entry in entries:
            if entry.version is not None:
                self.take(entry)

    def take(self, entry: Entry) -> None:
        """One effective record."""
        at, event = entry.at / 1000, entry.event
        self.records += 1
        self.first_at = at if self.first_at is None else min(self.first_at, at)
        self.last_at = max(self.last_at, at)
        key = (entry.workspace, entry.subject)
        if isinstance(event, JobRequested):
            self.jobs[key] = Work(
                id=entry.subject,
                workspace=entry.workspace,
                name=event.name,
                recipe=event.recipe,
                requester=entry.actor,
                requested_at=at,
                priority=event.priority,
                epochs=event.epochs,
                max_losses=event.max_losses,
            )
            return
        job = self.jobs.get(key)
        if job is None:
            return
        match event:
            case AttemptStarted():
                job.attempt = Attempt(at, at, at, event.checkpoint.epoch if event.checkpoint else 0)
                job.lived.started_at = at if job.lived.started_at is None else job.lived.started_at
                job.lived.status = "running"
                self._held.append((at, 1))
            case EpochCompleted() if job.attempt:
                job.epoch_seconds.setdefault(event.epoch, []).append(at - job.attempt.last_at)
                job.attempt.last_at, job.attempt.epoch = at, event.epoch
            case CheckpointSaved() if job.attempt:
                job.saved_after.add(event.epoch)
                job.losses = 0
                job.attempt.saved_at = at
            case JobStopRequested() | JobPauseRequested() | JobResumed() | JobRetried() | PriorityChanged():
                self._wish(job, event, at)
            case AttemptLost() | JobStopped() | JobPaused() | ModelRegistered() | JobCompleted() | JobFailed():
                self._end(job, event, at)

    def _wish(
        self,
        job: Work,
        event: JobStopRequested | JobPauseRequested | JobResumed | JobRetried | PriorityChanged,
        at: float,
    ) -> None:
        match event:
            case JobStopRequested() | JobPauseRequested():
                stop = isinstance(event, JobStopRequested)
                job.wishes.append(Wish(at, "stop" if stop else "pause"))
                job.wanted = "stopped" if stop else "paused"
                if job.attempt is None:
                    self._rests(job, at)
            case JobResumed():
                job.wishes.append(Wish(at, "resume"))
                job.wanted = ""
                job.lived.status = "queued" if job.attempt is None else "running"
            case JobRetried():
                job.wishes.append(Wish(at, "fresh" if event.fresh else "retry"))
                job.losses = 0
                job.lived.ended_at, job.lived.status = None, "queued"
            case PriorityChanged():
                job.wishes.append(Wish(at, "priority", event.priority))

    def _end(self, job: Work, event: object, at: float) -> None:
        attempt, job.attempt = job.attempt, None
        if attempt is None:
            return
        self._held.append((at, -1))
        match event:
            case AttemptLost() | JobFailed():
                cut = attempt.epoch + 1
                job.at_least[cut] = max(job.at_least.get(cut, 0.0), at - attempt.last_at + _LONGER)
        match event:
            case AttemptLost(reason="lease_expired"):
                # It was silent for a lease before anybody said so: it worked until then at the most.
                died = max(attempt.last_at, at - self._lease)
                self._lost(job, attempt, died, "lease_expired", at)
            case AttemptLost(reason=reason):
                self._lost(job, attempt, at, reason, at)
            case JobFailed():
                job.faults.append(Fault(at - attempt.started_at, "failed"))
                self._over(job, "failed", at)
            case JobStopped() | JobPaused():
                job.faults.append(Fault(at - attempt.started_at, ""))
                self._rests(job, at)
            case _:
                job.faults.append(Fault(at - attempt.started_at, ""))
                job.closing_seconds = at - attempt.last_at
                self._over(job, "completed", at)

    def _rests(self, job: Work, at: float) -> None:
        """No attempt runs, and what is wanted decides."""
        wanted, job.wanted = job.wanted, ""
        if wanted == "stopped":
            self._over(job, "stopped", at)
        else:
            job.lived.status = wanted or "queued"

    def _lost(self, job: Work, attempt: Attempt, died: float, reason: str, at: float) -> None:
        job.faults.append(Fault(max(0.0, died - attempt.started_at), reason))
        job.lived.lost_seconds += max(0.0, died - attempt.saved_at)
        job.losses += reason != "released"
        if not job.wanted and reason != "released" and job.losses >= job.max_losses:
            self._over(job, "failed", at)
        else:
            self._rests(job, at)

    def _over(self, job: Work, status: str, at: float) -> None:
        job.wanted = ""
        job.lived.status, job.lived.ended_at = status, at

    def most_at_once(self) -> int:
        """How many attempts ran at the same time at the most: as many workers there were, at least."""
        most = now = 0
        for _, change in sorted(self._held):
            now += change
            most = max(most, now)
        return most

    def usual_epoch(self) -> float:
        """The median epoch of all jobs, in seconds."""
        seconds = [fmean(found) for job in self.jobs.values() for found in job.epoch_seconds.values()]
        return median(seconds) if seconds else FALLBACK_SECONDS
