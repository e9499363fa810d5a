"""Every record that decodes can be judged, shown and published on every state; an exception would stop a partition."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from domain.events import EVENTS, AttemptEvent, AttemptStarted, CheckpointSaved, EpochCompleted, Event
from domain.job import Job
from domain.refusal import Refusal
from domain.workspace import Dataset, Effect, Model, Workspace, judge, needs
from schemas import facts, tables, topics
from schemas.envelope import MAX_RECORD_BYTES, decode, encode, record
from schemas.job_view import view
from tests.domain.any_value import values
from tests.domain.moves import HISTORIES, JOBS, Judged, Move, play
from tests.domain.scenario import failed, of_job, released, requested, retry, snapshot, started
from tests.domain.scenario import given as scenario_of

BIGINT = 2**63


def aimed(event: Event, data: dict[str, Any], workspace: Workspace, subject: str, aim: int) -> dict[str, Any]:
    """The same event, more likely to take effect: of the attempt that runs, from its worker, at its epoch."""
    job = workspace.jobs.get(subject)
    if job is None or not isinstance(event, AttemptEvent) or not aim:
        return data
    if isinstance(event, AttemptStarted):
        return {**data, "attempt": job.attempt + 1, "checkpoint": None if aim > 1 else data.get("checkpoint")}
    near = {"attempt": job.attempt or 1, "worker": job.worker or "nobody"}
    if "epoch" in data:
        near |= {"epoch": job.epoch + isinstance(event, EpochCompleted)}
    if "last_epoch" in data:
        near |= {"last_epoch": job.epoch}
    return {**data, **near}


def refold(history: list[Judged]) -> Workspace:
    workspace = Workspace("workspace-1")
    for entry in history:
        r = entry.record
        judge(workspace, id=entry.id, subject=r.subject, actor=r.actor, event=r.event, at=entry.at)
    return workspace


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
@settings(max_examples=60)
@given(st.data())
def test_any_record_on_any_state(kind: type[Event], data: st.DataObject) -> None:
    workspace = refold(list(play(data.draw(HISTORIES))))
    subject = data.draw(st.sampled_from([*JOBS, "a-new-one"]))
    drawn = data.draw(values(inspect.type_info(kind)))
    sketch = msgspec.convert(drawn, kind)
    event = msgspec.convert(aimed(sketch, drawn, workspace, subject, data.draw(st.integers(0, 2))), kind)
    id = data.draw(st.sampled_from([subject, "an-id"]))
    time = "2026-11-23T12:00:00Z"
    value = encode(record(event, id=id, source="s", subject=subject, time=time, workspace="w", actor="a"))
    envelope = decode(value)
    needs(envelope.id, envelope.subject, envelope.data)
    at = data.draw(st.integers(0, 2**53))
    verdict = judge(workspace, id=id, subject=subject, actor="a", event=envelope.data, at=at)
    if isinstance(verdict, Refusal):
        return
    if verdict.job is not None:
        show_and_publish(value, verdict, verdict.job)
    for changed, type_ in ((verdict.job, Job), (verdict.dataset, Dataset), (verdict.model, Model)):
        if changed is not None:
            stored = msgspec.json.encode(changed)
            assert msgspec.json.decode(stored, type=type_) == changed
            assert_fits_the_database(msgspec.json.decode(stored))


def show_and_publish(value: bytes, verdict: Effect, job: Job) -> None:
    fact = facts.splice(value, version=verdict.version, previous=job.previous, at=job.updated_at, job=view(job))
    read = facts.decode(fact)
    assert (read.version, read.previous, read.job) == (verdict.version, job.previous, view(job))
    tables.decode_open_job(tables.encode_open_job(tables.OpenJob(workspace="w", job=job)))


def assert_fits_the_database(node: Any) -> None:
    """Text without NUL, integers within bigint, nothing that JSON cannot say."""
    match node:
        case str():
            assert "\0" not in node
            node.encode()
        case bool() | None | float():
            pass
        case int():
            assert -BIGINT <= node < BIGINT
        case dict():
            for name, member in node.items():
                assert_fits_the_database(name)
                assert_fits_the_database(member)
        case list():
            for member in node:
                assert_fits_the_database(member)


@settings(max_examples=100)
@given(HISTORIES)
def test_a_refused_record_changes_nothing(moves: list[Move]) -> None:
    workspace = Workspace("workspace-1")
    before = snapshot(workspace)
    for entry in play(moves):
        r = entry.record
        verdict = judge(workspace, id=entry.id, subject=r.subject, actor=r.actor, event=r.event, at=entry.at)
        after = snapshot(workspace)
        assert (after == before) == isinstance(verdict, Refusal)
        before = after


class TestSizes:
    """What records can make of a job's row stays far below what its topic takes."""

    LIMIT = int(topics.JOBS.config["max.message.bytes"])

    def row(self, job: Job) -> int:
        return len(tables.encode_open_job(tables.OpenJob(workspace="w" * 128, job=job)))

    def test_the_largest_metrics_with_each_of_the_newest_checkpoints(self) -> None:
        largest = {"\U0001f600" * 90 + f"{n:010}": 1.2345678901234567e-300 for n in range(256)}
        scenario = scenario_of(requested(), started())
        for number in range(1, 7):
            scenario.judge(of_job(EpochCompleted(attempt=1, worker="worker-1", epoch=number, metrics=largest)))
            saved = CheckpointSaved(
                attempt=1, worker="worker-1", epoch=number, step=number, uri="u" * 2048, sha256="s" * 128
            )
            scenario.judge(of_job(saved))
        job = scenario.workspace.jobs["job-1"]
        assert (job.epoch, len(job.checkpoints)) == (6, 4)
        assert self.row(job) + MAX_RECORD_BYTES < self.LIMIT / 2

    def test_a_job_that_is_handed_back_for_ever(self) -> None:
        scenario = scenario_of(requested(), started())
        job = scenario.workspace.jobs["job-1"]
        small = self.row(job)
        for attempt in range(1, 2000):
            scenario.judge(released(attempt))
            scenario.judge(started(attempt + 1))
        assert self.row(scenario.workspace.jobs["job-1"]) < small + 100

    def test_a_job_that_fails_and_is_retried_for_ever(self) -> None:
        scenario = scenario_of(requested())
        for attempt in range(1, 500):
            scenario.judge(started(attempt))
            scenario.judge(failed(attempt))
            scenario.judge(retry)
        assert len(scenario.workspace.jobs["job-1"].origins) == 1
