"""How long it took until things worked again, read from the log and from what clients were told."""

from __future__ import annotations

import json

import pytest

from checker.fold import fold
from checker.history import Fault, LogRecord
from storm.recovery import times
from tests.checker.clean_run import clean

LOG = clean().log
"""Its records lie a millisecond apart from 1.000 s on; attempt 1 of job j1 is lost at 1.006 s."""


def apart(seconds: float) -> list[LogRecord]:
    """The same records, so many seconds apart."""
    return [
        LogRecord(r.partition, r.offset, int(1000 * r.offset * seconds), r.key, r.value)
        for r in LOG
        if r.value and json.loads(r.value if r.value.startswith(b"{") else b"{}")
    ]


def test_a_killed_worker_is_overcome_with_the_next_attempts_first_epoch() -> None:
    found = times([Fault(5.5, "kill", "worker 0", 5.5, "j1")], fold(apart(1.0)), [])
    assert {(one.kind, one.worst) for one in found} == {
        ("kill worker: its job is queued again", 0.5),
        ("kill worker: its job goes on", 3.5),
    }


def test_a_child_that_was_frozen_for_a_moment_goes_on_by_itself() -> None:
    [one] = times([Fault(3.5, "freeze", "trainer 0", 4.5, "j1")], fold(apart(1.0)), [])
    assert (one.kind, one.worst) == ("freeze trainer: its job goes on", 1.5)


def test_a_service_is_back_when_a_write_that_began_after_the_fault_is_answered() -> None:
    faults = [
        Fault(10.0, "kill", "api 0", 10.0),
        Fault(20.0, "kill", "api 0", 20.0),
        Fault(30.0, "kill", "api 0", 30.0),
    ]
    answered = [(9.0, 10.5), (11.0, 12.0), (10.2, 14.0), (20.0, 20.1)]
    [one] = times(faults, fold([]), answered)
    assert (one.count, one.overlapped) == (3, 1)
    assert one.worst == pytest.approx(2.0)


def test_what_another_fault_came_on_top_of_is_not_counted() -> None:
    faults = [Fault(10.0, "kill", "api 0", 10.0), Fault(11.0, "kill", "kafka 0", 11.0)]
    found = {one.kind: one for one in times(faults, fold([]), [(15.0, 16.0)])}
    assert found["kill api"].overlapped == 1
    assert found["kill kafka"].worst == pytest.approx(5.0)
