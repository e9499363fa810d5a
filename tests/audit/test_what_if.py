"""What would have been different: small histories whose other outcome can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from audit.entries import Entry, from_journal
from audit.reading import connected
from audit.selection import Selection
from audit.simulation import POLICIES, Circumstances, PolicyName, Simulation
from audit.what_if import WhatIf, compare
from audit.workload import Workload
from domain.events import Event
from domain.workspace import Effect, Workspace, judge
from schemas.envelope import Envelope, record
from tests.domain import scenario as s
from tests.domain.scenario import Record
from tests.projections.platform import Log, project
from tests.projections.records import stream

LEASE = 10.0


class History:
    """Effective records at chosen seconds."""

    def __init__(self) -> None:
        self.workspace = Workspace("team")
        self.workload = Workload(LEASE)
        self.happens(0.0, s.dataset())

    def happens(self, at: float, what: Record, actor: str | None = None) -> History:
        id = what.numbered(self.workspace.version + 1000)
        actor = actor or what.actor
        ms = round(at * 1000)
        verdict = judge(self.workspace, id=id, subject=what.subject, actor=actor, event=what.event, at=ms)
        assert isinstance(verdict, Effect), (what, verdict)
        self.workload.take(entry(what.event, id, what.subject, actor, ms, verdict))
        return self

    def job(self, id: str, asked: float, *, by: str = "ada", epochs: int = 2, **spec: Any) -> History:
        return self.happens(asked, s.requested(id, epochs=epochs, **spec), actor=by)

    def trained(self, id: str, begun: float, *, worker: str = s.W1, epochs: int = 2, each: float = 10.0) -> History:
        """An attempt that goes well: epochs of `each` seconds, and the model at once."""
        self.happens(begun, s.started(1, worker, job=id))
        for number in range(1, epochs + 1):
            self.happens(begun + number * each, s.epoch(number, worker=worker, job=id))
        return self.happens(begun + epochs * each, s.model(epochs, worker=worker, job=id))


def entry(event: Event, id: str, subject: str, actor: str, at: int, effect: Effect) -> Entry:
    envelope: Envelope = record(
        event, id=id, source="test", subject=subject, time="2026-01-01T00:00:00Z", workspace="team", actor=actor
    )
    return Entry(
        partition=0,
        offset=effect.version,
        at=at,
        id=id,
        type=type(event).__name__,
        workspace="team",
        subject=subject,
        actor=actor,
        version=effect.version,
        refusal=None,
        envelope=envelope,
        value=b"",
    )


def outcome(
    history: History, *, workers: int = 1, lease: float = LEASE, policy: PolicyName = "priority", then: int = 1
) -> WhatIf:
    return compare(history.workload, Circumstances(then, LEASE), Circumstances(workers, lease, policy))


def waits(history: History, **circumstances: Any) -> dict[str, float | None]:
    chosen = Circumstances(**{"workers": 1, "lease_seconds": LEASE, **circumstances})
    fates = Simulation(history.workload, chosen).run().fates
    return {f.work.id: None if f.started_at is None else f.started_at - f.work.requested_at for f in fates}


def two_jobs() -> History:
    """Both asked for at once; one worker does one after the other, 20 seconds each."""
    return History().job("a", 0.0).job("b", 0.0).trained("a", 0.0).trained("b", 20.0)


def test_the_same_circumstances_give_what_happened() -> None:
    found = outcome(two_jobs())
    assert found.really == replace_busy(found.simulated) == replace_busy(found.would_be)
    assert found.changed == ()
    assert found.simulated.waiting_max == 20.0
    assert found.simulated.last_end == 40.0
    assert found.simulated.workers_busy == 1.0


def replace_busy(found: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(found, workers_busy=None)


def test_a_second_worker_takes_the_waiting_away() -> None:
    found = outcome(two_jobs(), workers=2)
    assert (found.simulated.waiting_max, found.would_be.waiting_max) == (20.0, 0.0)
    assert (found.simulated.last_end, found.would_be.last_end) == (40.0, 20.0)
    assert [(c.job_id, c.waiting_before, c.waiting_after, c.ended_earlier_by) for c in found.changed] == [
        ("b", 20.0, 0.0, 20.0)
    ]


def lost_once() -> History:
    """Two epochs of ten seconds, a checkpoint after the first; the worker dies five seconds into the second."""
    history = History().job("a", 0.0, epochs=3)
    history.happens(0.0, s.started(1, job="a")).happens(10.0, s.epoch(1, job="a")).happens(10.0, s.saved(1, job="a"))
    history.happens(25.0, Record(s.lost().event, "a"))  # Silent from 15 on: a lease of ten seconds.
    named = s.checkpoint(1)
    history.happens(25.0, s.started(2, s.W2, named, job="a"))
    for number in (2, 3):
        history.happens(15.0 + 10.0 * number, s.epoch(number, attempt=2, worker=s.W2, job="a"))
    return history.happens(45.0, s.model(3, attempt=2, worker=s.W2, job="a"))


def test_work_beyond_the_last_checkpoint_is_lost_and_a_lease_is_waited_out() -> None:
    found = outcome(lost_once(), lease=60.0)
    assert (found.really.lost_work, found.simulated.lost_work, found.would_be.lost_work) == (5.0, 5.0, 5.0)
    assert (found.really.last_end, found.simulated.last_end) == (45.0, 45.0)
    assert found.would_be.last_end == 95.0
    assert outcome(lost_once(), lease=1.0).would_be.last_end == 36.0


def test_while_a_silent_worker_is_waited_for_nobody_has_its_place() -> None:
    history = lost_once().job("b", 16.0)
    assert waits(history)["b"] == pytest.approx(29.0)
    assert waits(history, lease_seconds=2.0)["b"] == pytest.approx(21.0)


def three_lengths() -> History:
    history = History()
    for id, by, epochs in (("long", "ada", 9), ("short", "ada", 1), ("urgent", "bob", 3)):
        history.job(id, 0.0, by=by, epochs=epochs)
        if id == "urgent":
            history.happens(0.0, Record(s.priority(5).event, "urgent"))
    at = 0.0
    for id, epochs in (("urgent", 3), ("long", 9), ("short", 1)):
        history.trained(id, at, epochs=epochs)
        at += 10.0 * epochs
    return history


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ("priority", ["urgent", "long", "short"]),
        ("fifo", ["long", "short", "urgent"]),
        ("shortest", ["short", "urgent", "long"]),
        ("fair", ["long", "urgent", "short"]),
    ],
)
def test_the_policy_says_who_goes_first(policy: str, order: list[str]) -> None:
    assert policy in POLICIES
    found = waits(three_lengths(), policy=policy)
    assert sorted(found, key=lambda id: found[id] or 0.0) == order


def test_a_stop_ends_what_waits_and_what_runs() -> None:
    history = History().job("a", 0.0, epochs=4).job("b", 0.0)
    history.happens(0.0, s.started(1, job="a")).happens(10.0, s.epoch(1, job="a"))
    history.happens(12.0, Record(s.stop.event, "b"))
    history.happens(15.0, Record(s.stop.event, "a")).happens(15.0, Record(s.stopped().event, "a"))
    found = outcome(history)
    assert (found.simulated.stopped, found.simulated.last_end, found.simulated.lost_work) == (2, 15.0, 0.0)
    # With a worker for it, b would have been at work when it was stopped.
    assert waits(history, workers=2)["b"] == 0.0


def test_a_pause_keeps_what_was_done_and_frees_the_worker() -> None:
    history = History().job("a", 0.0).job("b", 0.0)
    history.happens(0.0, s.started(1, job="a")).happens(10.0, s.epoch(1, job="a")).happens(10.0, s.saved(1, job="a"))
    history.happens(10.0, Record(s.pause.event, "a")).happens(10.0, Record(s.paused().event, "a"))
    history.trained("b", 10.0)
    history.happens(30.0, Record(s.resume.event, "a"))
    history.happens(30.0, s.started(2, s.W2, s.checkpoint(1), job="a"))
    history.happens(40.0, s.epoch(2, attempt=2, worker=s.W2, job="a"))
    history.happens(40.0, s.model(2, attempt=2, worker=s.W2, job="a"))
    found = outcome(history)
    assert (found.really.last_end, found.simulated.last_end, found.simulated.lost_work) == (40.0, 40.0, 0.0)


def test_too_many_losses_without_a_checkpoint_fail_the_job() -> None:
    history = History().job("a", 0.0, max_losses=2)
    at = 0.0
    for attempt in (1, 2):
        history.happens(at, s.started(attempt, job="a"))
        at += 5.0
        history.happens(at, Record(s.lost(attempt, reason="killed").event, "a"))
    found = outcome(history)
    assert found.simulated.failed == found.really.failed == 1
    assert found.simulated.lost_work == found.really.lost_work == 10.0


def test_an_exception_comes_again_after_the_same_work() -> None:
    history = History().job("a", 0.0).happens(0.0, s.started(1, job="a"))
    history.happens(7.0, Record(s.failed().event, "a"))
    history.happens(20.0, Record(s.retry.event, "a"))
    history.happens(20.0, s.started(2, job="a"))
    for number in (1, 2):
        history.happens(20.0 + number * 10.0, s.epoch(number, attempt=2, job="a"))
    history.happens(40.0, s.model(2, attempt=2, job="a"))
    found = outcome(history)
    assert found.simulated.last_end == found.really.last_end == 40.0
    assert found.simulated.completed == 1


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("workers", [1, 3])
async def test_any_history_can_be_simulated_and_nothing_is_changed_by_it(
    log: Log, policy: PolicyName, workers: int
) -> None:
    await log.write(stream(workers, ["team-0", "team-1"], 300))
    await project(log)
    before = await _all(log)
    workload = Workload(LEASE)
    async with connected(log.settings) as connection:
        await workload.read(from_journal(connection, Selection(verdict="effective")))
    chosen = Circumstances(workers, 1.0, policy)
    simulation = Simulation(workload, chosen).run()
    again = Simulation(workload, replace(chosen)).run()
    assert [f.ended_at for f in simulation.fates] == [f.ended_at for f in again.fates]
    assert len(simulation.fates) == len(workload.jobs) > 3
    for fate in simulation.fates:
        assert fate.status in ("completed", "failed", "stopped", "paused", "queued")
        assert fate.lost_seconds >= 0
        assert -1e-6 <= fate.done <= fate.total + 1e-6
        if fate.started_at is not None:
            assert fate.started_at >= fate.work.requested_at
    queued = [fate for fate in simulation.fates if fate.status == "queued"]
    assert queued == []  # With a worker left, nobody waits for ever.
    assert await _all(log) == before


async def _all(log: Log) -> tuple[Any, ...]:
    tables = ("log.journal", "log.cursors", "read.jobs", "read.models", "audit.job_states", "audit.seals")
    counts = [await log.database.fetchval(f"SELECT count(*) FROM {table}") for table in tables]
    ends = await log.database.fetch("SELECT partition, next_offset, chain FROM log.cursors ORDER BY 1")
    return *counts, *map(tuple, ends)
