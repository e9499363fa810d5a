"""Every event in every status a job can have: the whole of `admit` and where `evolve` leads, as one table."""

from __future__ import annotations

import pytest

from domain.events import EVENTS, REPORTS, SYSTEM, RulesActivated
from domain.job import Job, Status
from domain.refusal import Refusal
from domain.workspace import Effect
from tests.domain.scenario import (
    W2,
    Given,
    J,
    Record,
    completed,
    dataset,
    epoch,
    failed,
    fresh_retry,
    given,
    lost,
    model,
    pause,
    paused,
    priority,
    released,
    requested,
    resume,
    retry,
    saved,
    started,
    stop,
    stopped,
)

# The second of two attempts runs, at epoch 1, so that there is an older attempt to speak of.
RUNNING = (requested(max_losses=9), started(1), epoch(1), lost(1), started(2), epoch(1, attempt=2))
STATES: dict[Status, tuple[Record, ...]] = {
    Status.QUEUED: (*RUNNING, lost(2)),
    Status.RUNNING: RUNNING,
    Status.STOPPING: (*RUNNING, stop),
    Status.PAUSING: (*RUNNING, pause),
    Status.PAUSED: (*RUNNING, pause, paused(2)),
    Status.COMPLETED: (*RUNNING, model(1, attempt=2)),
    Status.FAILED: (*RUNNING, failed(2)),
    Status.STOPPED: (*RUNNING, stop, stopped(2)),
}
COLUMNS = list(STATES)

EVENT_BY_NAME: dict[str, Record] = {
    "requested again": requested(id="another"),
    "stop": stop,
    "pause": pause,
    "resume": resume,
    "retry": retry,
    "fresh retry": fresh_retry,
    "priority": priority(5),
    "next claim": started(3),
    "this claim again": started(2),
    "old claim again": started(1),
    "claim ahead": started(4),
    "next epoch": epoch(2, attempt=2),
    "same epoch": epoch(1, attempt=2),
    "epoch ahead": epoch(3, attempt=2),
    "checkpoint": saved(1, attempt=2),
    "old checkpoint": saved(0, attempt=2),
    "stopped": stopped(2),
    "paused": paused(2),
    "lost": lost(2),
    "released": released(2),
    "model": model(1, attempt=2),
    "old model": model(0, attempt=2),
    "completed": completed(1, attempt=2),
    "early completed": completed(2, attempt=2),
    "failed": failed(2),
}

# In capitals where the job is afterwards (= where it was); a small word says why the event is refused.
TABLE = """
                   queued        running       stopping         pausing       paused        completed     failed       stopped
requested again    misrouted     misrouted     misrouted        misrouted     misrouted     misrouted     misrouted    misrouted
stop               STOPPED       STOPPING      already_stopping STOPPING      STOPPED       already_over  already_over already_over
pause              PAUSED        PAUSING       not_pausable     not_pausable  not_pausable  not_pausable  not_pausable not_pausable
resume             not_paused    not_paused    not_paused       RUNNING       QUEUED        not_paused    not_paused   not_paused
retry              not_retriable not_retriable not_retriable    not_retriable not_retriable not_retriable QUEUED       QUEUED
fresh retry        not_retriable not_retriable not_retriable    not_retriable not_retriable not_retriable QUEUED       QUEUED
priority           =             =             =                =             =             already_over  already_over already_over
next claim         RUNNING       claim_lost    claim_lost       claim_lost    claim_lost    claim_lost    claim_lost   claim_lost
this claim again   claim_lost    claim_lost    claim_lost       claim_lost    claim_lost    claim_lost    claim_lost   claim_lost
old claim again    claim_lost    claim_lost    claim_lost       claim_lost    claim_lost    claim_lost    claim_lost   claim_lost
claim ahead        claim_lost    claim_lost    claim_lost       claim_lost    claim_lost    claim_lost    claim_lost   claim_lost
next epoch         fenced        =             =                =             fenced        fenced        fenced       fenced
same epoch         fenced        out_of_order  out_of_order     out_of_order  fenced        fenced        fenced       fenced
epoch ahead        fenced        out_of_order  out_of_order     out_of_order  fenced        fenced        fenced       fenced
checkpoint         fenced        =             =                =             fenced        fenced        fenced       fenced
old checkpoint     fenced        out_of_order  out_of_order     out_of_order  fenced        fenced        fenced       fenced
stopped            fenced        QUEUED        STOPPED          PAUSED        fenced        fenced        fenced       fenced
paused             fenced        QUEUED        STOPPED          PAUSED        fenced        fenced        fenced       fenced
lost               fenced        QUEUED        STOPPED          PAUSED        fenced        fenced        fenced       fenced
released           fenced        QUEUED        STOPPED          PAUSED        fenced        fenced        fenced       fenced
model              fenced        COMPLETED     COMPLETED        COMPLETED     fenced        fenced        fenced       fenced
old model          fenced        out_of_order  out_of_order     out_of_order  fenced        fenced        fenced       fenced
completed          fenced        COMPLETED     COMPLETED        COMPLETED     fenced        fenced        fenced       fenced
early completed    fenced        out_of_order  out_of_order     out_of_order  fenced        fenced        fenced       fenced
failed             fenced        FAILED        FAILED           FAILED        fenced        fenced        fenced       fenced
"""
ROWS = {line[:19].strip(): line[19:].split() for line in TABLE.strip("\n").splitlines()[1:]}
CELLS = [
    pytest.param(name, status, cell, id=f"{name}, {status.value}")
    for name, cells in ROWS.items()
    for status, cell in zip(COLUMNS, cells, strict=True)
]


def reach(status: Status) -> Given:
    scenario = given(*STATES[status])
    assert scenario.workspace.jobs[J].status is status
    return scenario


def test_the_table_has_every_event_and_every_status() -> None:
    assert set(Status) == set(STATES)
    assert set(ROWS) == set(EVENT_BY_NAME)
    kinds = {type(record.event) for record in [*EVENT_BY_NAME.values(), dataset()]}
    assert {*EVENTS} - kinds == {RulesActivated, *SYSTEM}


@pytest.mark.parametrize(("name", "status", "cell"), CELLS)
def test_a_cell(name: str, status: Status, cell: str) -> None:
    outcome = reach(status).when(EVENT_BY_NAME[name])
    if cell.islower():
        outcome.then_refused(Refusal(cell))
    else:
        outcome.then_status(status if cell == "=" else Status[cell])


OLD_ATTEMPT = [epoch(2), saved(1), stopped(1), paused(1), lost(1), released(1), model(1), completed(1), failed(1)]
OTHER_WORKER = [
    epoch(2, attempt=2, worker=W2),
    saved(1, attempt=2, worker=W2),
    stopped(2, W2),
    paused(2, W2),
    lost(2, W2),
    model(1, attempt=2, worker=W2),
    completed(1, attempt=2, worker=W2),
    failed(2, W2),
]


@pytest.mark.parametrize("status", COLUMNS)
@pytest.mark.parametrize("report", [*OLD_ATTEMPT, *OTHER_WORKER], ids=lambda record: type(record.event).__name__)
def test_who_does_not_hold_the_attempt_is_fenced_in_every_status(status: Status, report: Record) -> None:
    reach(status).when(report).then_refused(Refusal.FENCED)


def test_every_report_is_tried_from_outside() -> None:
    tried = {type(record.event) for record in OLD_ATTEMPT}
    assert {kind.__name__ for kind in REPORTS} - {kind.__name__ for kind in tried} == {"AttemptStarted"}


@pytest.mark.parametrize("name", EVENT_BY_NAME)
def test_about_a_job_that_does_not_exist(name: str) -> None:
    expected = Refusal.MISROUTED if name == "requested again" else Refusal.UNKNOWN_JOB
    given().when(EVENT_BY_NAME[name]).then_refused(expected)


@pytest.mark.parametrize("status", COLUMNS)
@pytest.mark.parametrize("name", EVENT_BY_NAME)
def test_whoever_holds_a_job_exists_exactly_while_it_is_held(name: str, status: Status) -> None:
    scenario = reach(status)
    verdict = scenario.judge(EVENT_BY_NAME[name])
    job: Job = scenario.workspace.jobs[J]
    assert (job.worker is not None) == (job.status in {Status.RUNNING, Status.STOPPING, Status.PAUSING})
    assert (job.ended_at is not None) == job.is_over
    assert job.version == (verdict.version if isinstance(verdict, Effect) else scenario.workspace.version)
