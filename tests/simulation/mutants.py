"""The automaton with one rule switched off: what the simulation has to notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from domain import job as jobs
from domain import workspace as workspaces
from domain.events import (
    AttemptEvent,
    AttemptLost,
    AttemptStarted,
    CheckpointSaved,
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
    ModelRegistered,
    PriorityChanged,
)
from domain.job import Job, Status
from domain.refusal import Refusal

Apply = Callable[[pytest.MonkeyPatch], None]
_admit, _evolve = jobs.admit, jobs.evolve


@dataclass(frozen=True)
class Mutant:
    """A rule that does not hold in it."""

    rule: str
    apply: Apply


def refuses_no_more(
    rule: str,
    kinds: type[Event] | tuple[type[Event], ...],
    refusal: Refusal,
    where: Callable[[Any, Any], bool] = lambda job, event: True,
) -> Mutant:
    """`admit` lets through what it refused for that reason."""

    def admit(job: Job | None, event: Any, **known: Any) -> Refusal | None:
        verdict = _admit(job, event, **known)
        return None if verdict is refusal and isinstance(event, kinds) and where(job, event) else verdict

    return Mutant(rule, lambda patch: patch.setattr(jobs, "admit", admit))


def comes_to(rule: str, change: Callable[[Job, Any, Job], Job]) -> Mutant:
    """`evolve` leads elsewhere: `change(before, event, after)`."""

    def evolve(job: Job, event: Any, **known: Any) -> Job:
        return change(job, event, _evolve(job, event, **known))

    return Mutant(rule, lambda patch: patch.setattr(jobs, "evolve", evolve))


class Forgetful(set[str]):
    """Ids of requests that nobody remembers."""

    def __contains__(self, id: object) -> bool:
        return False


def forget_requests(patch: pytest.MonkeyPatch) -> None:
    """No id was ever used before."""
    begin = workspaces.Workspace.__init__

    def forgetful(self: workspaces.Workspace, id: str, version: int = 0) -> None:
        begin(self, id, version)
        self.requests = Forgetful()

    patch.setattr(workspaces.Workspace, "__init__", forgetful)


def forget_requests_and_jobs(patch: pytest.MonkeyPatch) -> None:
    """Two guards hold a job's request to once: with one of them off, the other does."""
    forget_requests(patch)
    refuses_no_more("", JobRequested, Refusal.DUPLICATE).apply(patch)


def ignore_subject(patch: pytest.MonkeyPatch) -> None:
    """A request may create a job under any id."""
    original = workspaces.judge

    def judge(workspace: workspaces.Workspace, *, id: str, subject: str, event: Event, **known: Any) -> Any:
        if isinstance(event, JobRequested) and id not in workspace.requests:
            workspace.requests.add(id)
            id = subject
            workspace.requests.discard(id)
        return original(workspace, id=id, subject=subject, event=event, **known)

    for module in ("tests.domain.moves", "tests.simulation.projectors"):
        patch.setattr(f"{module}.judge", judge)


def held_by(rule: str, held: Callable[[Job, str, int], bool]) -> Mutant:
    """Another answer to who holds the attempt."""
    return Mutant(rule, lambda patch: patch.setattr(Job, "is_held_by", held))


def never_struck(patch: pytest.MonkeyPatch) -> None:
    """An unreadable checkpoint may be named again."""

    class Kept(dict[Any, Any]):
        def __setitem__(self, key: Any, value: Any) -> None:
            if value is not None:
                super().__setitem__(key, value)

    begin = workspaces.Workspace.__init__

    def keeping(self: workspaces.Workspace, id: str, version: int = 0) -> None:
        begin(self, id, version)
        self.checkpoints = Kept()

    patch.setattr(workspaces.Workspace, "__init__", keeping)


def always_one(patch: pytest.MonkeyPatch) -> None:
    """Every model version has the number 1."""

    class Ones(dict[str, int]):
        def get(self, key: Any, default: Any = None) -> Any:
            return 0

    begin = workspaces.Workspace.__init__

    def counting(self: workspaces.Workspace, id: str, version: int = 0) -> None:
        begin(self, id, version)
        self.models = Ones()

    patch.setattr(workspaces.Workspace, "__init__", counting)


ENDS = (JobStopped, JobPaused, AttemptLost)


def _ignores_the_wish(before: Job, event: Any, after: Job) -> Job:
    return replace(after, status=Status.QUEUED, ended_at=None) if isinstance(event, ENDS) else after


def _stops_later(before: Job, event: Any, after: Job) -> Job:
    if isinstance(event, JobStopRequested) and before.worker is None:
        return replace(after, status=Status.STOPPING, ended_at=None)
    return after


def _pause_runs_on(before: Job, event: Any, after: Job) -> Job:
    if isinstance(event, JobResumed) and before.worker is not None:
        return replace(after, status=Status.QUEUED, worker=None)
    return after


def _counts_no_loss(before: Job, event: Any, after: Job) -> Job:
    return replace(after, losses=before.losses) if isinstance(event, AttemptLost) else after


def _counts_releases(before: Job, event: Any, after: Job) -> Job:
    released = isinstance(event, AttemptLost) and event.reason == "released"
    return replace(after, losses=before.losses + 1) if released else after


def _keeps_losses(before: Job, event: Any, after: Job) -> Job:
    return replace(after, losses=before.losses) if isinstance(event, CheckpointSaved) else after


def _never_fails(before: Job, event: Any, after: Job) -> Job:
    failed = isinstance(event, AttemptLost) and after.status is Status.FAILED
    return replace(after, status=Status.QUEUED, ended_at=None, error=None) if failed else after


def _fails_at_release(before: Job, event: Any, after: Job) -> Job:
    over = isinstance(event, AttemptLost) and event.reason == "released" and after.losses >= before.spec.max_losses
    return replace(after, status=Status.FAILED) if over and after.status is Status.QUEUED else after


def _fails_though_wanted(before: Job, event: Any, after: Job) -> Job:
    many = isinstance(event, AttemptLost) and after.losses >= before.spec.max_losses
    return replace(after, status=Status.FAILED) if many else after


def _begins_where_it_was(before: Job, event: Any, after: Job) -> Job:
    return replace(after, epoch=before.epoch) if isinstance(event, AttemptStarted) else after


def _keeps_checkpoints(before: Job, event: Any, after: Job) -> Job:
    fresh = isinstance(event, JobRetried) and event.fresh
    return replace(after, dropped_through=before.dropped_through) if fresh else after


def _keeps_the_curve(before: Job, event: Any, after: Job) -> Job:
    fresh = isinstance(event, JobRetried) and event.fresh
    return replace(after, origins=before.origins, epoch=before.epoch) if fresh else after


def _forgets_ancestors(before: Job, event: Any, after: Job) -> Job:
    return replace(after, origins=after.origins[-1:]) if isinstance(event, AttemptStarted) else after


MUTANTS = [
    # --- admit: requests -----------------------------------------------------------------------------------------------
    Mutant("the first occurrence of a request's id decides", forget_requests),
    Mutant("a job is requested once", forget_requests_and_jobs),
    Mutant("a job's id is its request's event id", ignore_subject),
    refuses_no_more("a job's dataset exists", JobRequested, Refusal.UNKNOWN_DATASET),
    refuses_no_more("only what exists changes", Event, Refusal.UNKNOWN_JOB),
    refuses_no_more("what is over is not stopped", JobStopRequested, Refusal.ALREADY_OVER),
    refuses_no_more("what is stopping is not stopped again", JobStopRequested, Refusal.ALREADY_STOPPING),
    refuses_no_more("only queued and running jobs are paused", JobPauseRequested, Refusal.NOT_PAUSABLE),
    refuses_no_more("only paused and pausing jobs are resumed", JobResumed, Refusal.NOT_PAUSED),
    refuses_no_more("only failed and stopped jobs are retried", JobRetried, Refusal.NOT_RETRIABLE),
    refuses_no_more("what is over has no priority", PriorityChanged, Refusal.ALREADY_OVER),
    # --- admit: claims -------------------------------------------------------------------------------------------------
    refuses_no_more(
        "only a queued job is claimed",
        AttemptStarted,
        Refusal.CLAIM_LOST,
        lambda job, event: event.attempt == job.attempt + 1,
    ),
    refuses_no_more(
        "a claim has the next number",
        AttemptStarted,
        Refusal.CLAIM_LOST,
        lambda job, event: job.status is Status.QUEUED,
    ),
    refuses_no_more("a claim names an effective checkpoint", AttemptStarted, Refusal.UNKNOWN_CHECKPOINT),
    Mutant("an unreadable checkpoint is struck", never_struck),
    # --- admit: reports ------------------------------------------------------------------------------------------------
    *(
        refuses_no_more(f"{kind.__name__} comes from the holder", kind, Refusal.FENCED)
        for kind in (
            *(EpochCompleted, CheckpointSaved, JobStopped, JobPaused, AttemptLost, ModelRegistered, JobCompleted),
            JobFailed,
        )
    ),
    held_by("the attempt is the last one", lambda job, worker, attempt: worker == job.worker),
    held_by(
        "the worker is the one that claimed",
        lambda job, worker, attempt: attempt == job.attempt and job.worker is not None,
    ),
    held_by("the attempt is not over", lambda job, worker, attempt: attempt == job.attempt),
    refuses_no_more("epochs follow each other", EpochCompleted, Refusal.OUT_OF_ORDER),
    refuses_no_more("a checkpoint is of the last epoch", CheckpointSaved, Refusal.OUT_OF_ORDER),
    refuses_no_more("a checkpoint is saved once", CheckpointSaved, Refusal.ALREADY_SAVED),
    refuses_no_more("a model is of the last epoch", ModelRegistered, Refusal.OUT_OF_ORDER),
    refuses_no_more("an end is of the last epoch", JobCompleted, Refusal.OUT_OF_ORDER),
    # --- evolve --------------------------------------------------------------------------------------------------------
    comes_to("what is wanted decides what an ended attempt comes to", _ignores_the_wish),
    comes_to("without an attempt a stop is at once", _stops_later),
    comes_to("a withdrawn pause lets the attempt run on", _pause_runs_on),
    comes_to("a loss counts", _counts_no_loss),
    comes_to("a release does not count", _counts_releases),
    comes_to("an effective checkpoint clears the losses", _keeps_losses),
    comes_to("too many losses fail the job", _never_fails),
    comes_to("a release never fails the job", _fails_at_release),
    comes_to("what is wanted goes before failing", _fails_though_wanted),
    comes_to("an attempt begins at its checkpoint", _begins_where_it_was),
    comes_to("a fresh retry drops the checkpoints", _keeps_checkpoints),
    comes_to("a fresh retry begins the curve again", _keeps_the_curve),
    comes_to("the curve goes back to the first attempt", _forgets_ancestors),
    Mutant("model numbers have no holes and no twins", always_one),
]
assert all(issubclass(kind, AttemptEvent) for kind in ENDS)
