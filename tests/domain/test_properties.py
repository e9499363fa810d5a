"""What holds for every history: any interleaving of workers, supervisor and users, with copies that land late."""

from __future__ import annotations

from itertools import chain as concatenate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.job import Job
from domain.refusal import Refusal
from domain.workspace import Effect, Workspace, judge
from schemas import facts, tables
from schemas.job_view import view
from tests.domain.ledger import Ledger
from tests.domain.moves import HISTORIES, Judged, Move, play
from tests.domain.scenario import snapshot
from tests.domain.store import Store

HARD = settings(max_examples=300)


@HARD
@given(HISTORIES)
def test_the_bookkeeper_agrees_with_every_verdict(moves: list[Move]) -> None:
    """At most one attempt at a time, versions, epochs and model numbers without holes, ends that only a retry leaves."""
    ledger = Ledger()
    for id, record, _, verdict in play(moves):
        ledger.hear(id, record, verdict)


def fold(history: list[tuple[str, Judged]]) -> tuple[bytes, list[bool]]:
    workspace = Workspace("workspace-1")
    effective = []
    for id, entry in history:
        record = entry.record
        verdict = judge(workspace, id=id, subject=record.subject, actor=record.actor, event=record.event, at=entry.at)
        effective.append(isinstance(verdict, Effect))
    return snapshot(workspace), effective


@HARD
@given(HISTORIES)
def test_every_record_twice_is_every_record_once(moves: list[Move]) -> None:
    history = [(entry.id, entry) for entry in play(moves)]
    once, effective = fold(history)
    twice, doubled = fold(list(concatenate.from_iterable((entry, entry) for entry in history)))
    assert once == twice
    assert doubled[::2] == effective
    assert not any(doubled[1::2])


@HARD
@given(HISTORIES, st.data())
def test_a_late_copy_of_an_effective_record_changes_nothing(moves: list[Move], data: st.DataObject) -> None:
    history = [(entry.id, entry) for entry in play(moves)]
    once, effective = fold(history)
    original = data.draw(st.sampled_from([n for n, yes in enumerate(effective) if yes]))
    place = data.draw(st.integers(original + 1, len(history)))
    late, verdicts = fold([*history[:place], history[original], *history[place:]])
    assert late == once
    assert not verdicts[place]


@HARD
@given(HISTORIES, st.lists(st.integers(1, 9), min_size=1))
def test_any_batch_size_with_all_memory_dropped_between_gives_the_same(moves: list[Move], sizes: list[int]) -> None:
    history = list(play(moves))
    store = Store()
    verdicts: list[Effect | Refusal] = []
    while len(verdicts) < len(history):
        size = sizes[len(verdicts) % len(sizes)]
        verdicts += store.judge(history[len(verdicts) : len(verdicts) + size])
    assert verdicts == [entry.verdict for entry in history]


@HARD
@given(HISTORIES)
def test_what_is_shown_and_published_of_a_job_can_be_made_of_every_state(moves: list[Move]) -> None:
    for *_, verdict in play(moves):
        if not isinstance(verdict, Effect) or verdict.job is None:
            continue
        job = verdict.job
        shown = view(job)
        assert 0 <= shown.progress <= 100
        assert shown.message
        row = tables.OpenJob(workspace="workspace-1", job=job)
        assert tables.decode_open_job(tables.encode_open_job(row)) == row
        fact = facts.splice(
            b'{"id":"i","type":"t","subject":"s","workspace":"w","actor":"a","data":{}}',
            version=verdict.version,
            previous=job.previous,
            at=job.updated_at,
            job=shown,
        )
        assert facts.decode(fact).job == shown


@HARD
@given(HISTORIES)
def test_a_verdict_reads_no_clock(moves: list[Move]) -> None:
    """The same records at other times: the same verdicts, and states that differ in times alone."""
    history = list(play(moves))
    workspace = Workspace("workspace-1")
    for entry in history:
        record = entry.record
        verdict = judge(workspace, id=entry.id, subject=record.subject, actor=record.actor, event=record.event, at=7)
        assert type(verdict) is type(entry.verdict)
        assert verdict == entry.verdict or isinstance(verdict, Effect)


TIMES = {"requested_at", "updated_at", "started_at", "ended_at", "not_before"}


def test_the_times_of_a_job_are_known() -> None:
    """Whoever adds a time to the state says here that no verdict reads it."""
    assert {name for name in Job.__struct_fields__ if name.endswith(("_at", "_before"))} == TIMES


@pytest.mark.parametrize("kind", ["dataset", "request", "claim", "epoch", "save", "end", "model"])
def test_histories_are_not_all_refusals(kind: str) -> None:
    """A property over nothing but refused records would prove little."""
    opening = [Move("claim", 0, 0, 0), Move("epoch", 0, 0, 0), Move("save", 0, 0, 0)]
    verdicts = [entry.verdict for entry in play([*opening, Move(kind, 0, 1, 1)])]
    assert sum(isinstance(verdict, Effect) for verdict in verdicts) >= 5
