"""Random histories that mean something: moves relative to the state, so that shrinking keeps them sensible."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast, get_args

from hypothesis import strategies as st
from msgspec.structs import replace

from domain.events import AttemptEvent, AttemptLost, AttemptStarted, Checkpoint, LossReason, PriorityChanged
from domain.job import Job
from domain.refusal import Refusal
from domain.workspace import Effect, Workspace, judge
from tests.domain import scenario as s
from tests.domain.scenario import NOON, Record

WORKERS = ("worker-1", "worker-2")
JOBS = ("job-1", "job-2")
DATASETS = ("dataset-1", "dataset-2")
LOSS_REASONS = cast(tuple[LossReason, ...], get_args(LossReason))


class Move(NamedTuple):
    """What somebody does next; the numbers choose whom and what it is about."""

    kind: str
    job: int
    worker: int
    choice: int


WEIGHTS = {
    "dataset": 2,
    "request": 4,
    "claim": 10,
    "epoch": 12,
    "save": 8,
    "end": 5,
    "model": 2,
    "stop": 2,
    "pause": 3,
    "resume": 3,
    "retry": 4,
    "priority": 1,
    "again": 8,
}
KINDS = [kind for kind, weight in WEIGHTS.items() for _ in range(weight)]
MOVES = st.builds(
    Move,
    st.sampled_from(KINDS),
    st.integers(0, len(JOBS) - 1),
    st.integers(0, len(WORKERS) - 1),
    st.integers(0, 63),
)
HISTORIES = st.lists(MOVES, max_size=80)


OPENING = [Move("dataset", 0, 0, 0), Move("request", 0, 0, 1)]


class Judged(NamedTuple):
    """One record of a played history."""

    id: str
    record: Record
    at: int
    verdict: Effect | Refusal


def play(moves: list[Move]) -> Iterator[Judged]:
    """Judge the moves one after another, each resolved against what the ones before it came to."""
    workspace = Workspace("workspace-1")
    log: list[tuple[str, Record]] = []
    for number, move in enumerate([*OPENING, *moves]):
        if move.kind == "again":
            id, record = log[-1 - move.choice % len(log)]
        else:
            record = resolve(move, workspace)
            id = record.numbered(number)
        log.append((id, record))
        at = NOON + number
        verdict = judge(workspace, id=id, subject=record.subject, actor=record.actor, event=record.event, at=at)
        yield Judged(id, record, at, verdict)


def resolve(move: Move, workspace: Workspace) -> Record:
    """The record that the move means now."""
    name, worker, choice = JOBS[move.job], WORKERS[move.worker], move.choice
    job = workspace.jobs.get(name)
    match move.kind:
        case "dataset":
            strange = "another-id" if choice % 16 == 15 else None
            return s.dataset(DATASETS[choice % 2], ("iris", "wine")[choice // 2 % 2], id=strange)
        case "request":
            strange = f"another-id-{move.worker}" if choice % 8 == 7 else None
            return s.requested(name, max_losses=1 + choice % 3, dataset=DATASETS[choice // 4 % 2], id=strange)
        case "stop":
            return replaced(s.stop, name)
        case "pause":
            return replaced(s.pause, name)
        case "resume":
            return replaced(s.resume, name)
        case "retry":
            return replaced(s.fresh_retry if choice % 2 else s.retry, name)
        case "priority":
            return replaced(Record(PriorityChanged(priority=choice), name), name)
        case _ if job is None:
            return s.started(1, worker, job=name)
        case "claim":
            return claim(move, worker, workspace, job)
        case _:
            return report(move, worker, job)


def claim(move: Move, worker: str, workspace: Workspace, job: Job) -> Record:
    """A claim: mostly of the next attempt, from some checkpoint or none."""
    saved = [c for (of, *_), c in workspace.checkpoints.items() if of == job.id and c is not None]
    strange = [s.checkpoint(1, attempt=9), *(replace(c, sha256="0" * 64) for c in saved[:1])]
    named: Checkpoint | None = [None, *saved, *saved, *strange][move.choice % (1 + 2 * len(saved) + len(strange))]
    return s.of_job(
        AttemptStarted(attempt=job.attempt + (move.choice % 16 != 15), worker=worker, checkpoint=named), job.id
    )


def report(move: Move, worker: str, job: Job) -> Record:
    """A report: mostly by the holder on its attempt, sometimes by somebody else, an epoch off, of an attempt before."""
    choice = move.choice
    attempt = max(1, job.attempt - (choice % 16 == 15))
    # The stranger one time in eight.
    by = worker if choice % 8 == 7 else job.worker or worker
    off = -1 if choice % 8 == 5 else 1 if choice % 8 == 6 else 0
    last = max(0, job.epoch + off)
    match move.kind:
        case "epoch":
            return s.epoch(last + 1, attempt=attempt, worker=by, job=job.id, loss=1 / (choice + 1))
        case "save":
            return s.saved(last, attempt=attempt, worker=by, step=100 * last + choice // 16, job=job.id)
        case "model":
            if choice // 8 % 4 == 3:
                return replaced(s.completed(last, attempt=attempt, worker=by), job.id)
            return s.model(last, attempt=attempt, worker=by, name=("iris", "wine")[choice // 32], job=job.id)
    # The end of an attempt.
    listed = [kept.checkpoint for kept in job.checkpoints]
    reason = LOSS_REASONS[choice // 6 % len(LOSS_REASONS)]
    lost = AttemptLost(attempt=attempt, worker=by, reason=reason, checkpoint=listed[0] if listed else None)
    if choice % 6 < 3:
        return Record(lost, job.id)
    ends = (s.stopped(attempt, by), s.paused(attempt, by), s.failed(attempt, by))
    return replaced(ends[choice % 3], job.id)


def replaced(record: Record, job: str) -> Record:
    """The same about another job, under an id of its own."""
    event = record.event
    assert isinstance(event, AttemptEvent) or event.is_request
    return Record(event, job)
