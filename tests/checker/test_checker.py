"""A checker that has never failed proves nothing: each broken copy of a clean run is found, by the named invariant."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from checker.check import check
from checker.history import Artifact, Call, Frame, History, Read
from tests.checker.clean_run import PARTITION, WS, clean, record

Break = Callable[[History], None]
BREAKS: list[tuple[str, str, Break]] = []


def breaks(invariant: str, name: str) -> Callable[[Break], Break]:
    """Register a way to break a clean run, and the invariant that must notice."""

    def register(function: Break) -> Break:
        BREAKS.append((invariant, name, function))
        return function

    return register


def _document(history: History, offset: int) -> dict[str, Any]:
    value = history.log[offset].value
    assert value is not None
    document: dict[str, Any] = json.loads(value)
    return document


def _rewrite(history: History, offset: int, **data: Any) -> None:
    """Change the data of one record, in both reads of the log."""
    document = _document(history, offset)
    document["data"] |= data
    changed = replace(history.log[offset], value=json.dumps(document).encode())
    history.log[offset] = history.log_again[offset] = changed


def _drop(history: History, offset: int) -> None:
    del history.log[offset]
    del history.log_again[offset]


def _only_the_log(history: History) -> None:
    """Leave what was derived out, so that only the log's own invariants speak."""
    history.rows, history.frames, history.ends = {}, [], {}


def _row(table: str, index: int, **changes: Any) -> Break:
    def change(history: History) -> None:
        history.rows[table][index] |= changes

    return change


def _message(index: int, **changes: Any) -> Break:
    def change(history: History) -> None:
        frame = history.frames[index]
        history.frames[index] = Frame(frame.session, frame.job_id, {**frame.message, **changes})

    return change


@breaks("L1", "the second read lacks a record")
def _(history: History) -> None:
    del history.log_again[3]


@breaks("L1", "the second read has other bytes")
def _(history: History) -> None:
    history.log_again[3] = replace(history.log_again[3], value=b"{}")


@breaks("L1", "an offset comes twice")
def _(history: History) -> None:
    history.log.append(history.log[-1])


@breaks("L2", "an answered request is not in the log")
def _(history: History) -> None:
    history.calls.append(Call("JobRequested", "u1", WS, "ok", "j-lost", status=202))


@breaks("L3", "a refused request took effect")
def _(history: History) -> None:
    history.calls[1] = replace(history.calls[1], outcome="fail")


@breaks("L3", "a request that nobody made is in the log")
def _(history: History) -> None:
    del history.calls[1]


@breaks("L4", "a copy of a record has other bytes")
def _(history: History) -> None:
    history.log.append(
        record(
            len(history.log),
            "EpochCompleted",
            "e2",
            "j1",
            "w1",
            {"attempt": 1, "worker": "w1", "epoch": 9, "metrics": {}},
        )
    )


@breaks("L5", "one key was answered with two jobs")
def _(history: History) -> None:
    history.calls.append(replace(history.calls[1], answer={"job_id": "another"}))


@breaks("L6", "an attempt's worker skipped an epoch")
def _(history: History) -> None:
    _rewrite(history, 9, epoch=3)
    _rewrite(history, 11, epoch=5)


@breaks("L7", "an undecodable record is not parked")
def _(history: History) -> None:
    history.rows["deadletter"] = []


@breaks("L7", "a good record is parked")
def _(history: History) -> None:
    history.rows["deadletter"].append({"partition": PARTITION, "offset": 2})


@breaks("J1", "a job never ended")
def _(history: History) -> None:
    _only_the_log(history)
    history.log[:] = history.log_again[:] = history.log[:22]


@breaks("J4", "the newest checkpoint of an open job is gone")
def _(history: History) -> None:
    _only_the_log(history)
    history.quiesced = False
    history.log[:] = history.log_again[:] = history.log[:8]
    history.calls = [call for call in history.calls if call.event_id in ("d1", "j1")]
    history.artifacts = [Artifact("jobs/else", "00")]


@breaks("J8", "a model's file has other bytes")
def _(history: History) -> None:
    history.artifacts[1] = replace(history.artifacts[1], sha256="00")


@breaks("J8", "a model's file is missing")
def _(history: History) -> None:
    del history.artifacts[2]


_OTHER_JOB_COLUMNS: tuple[tuple[str, Any], ...] = (
    ("status", "failed"),
    ("attempt", 1),
    ("worker", "w9"),
    ("epoch", 2),
    ("losses", 2),
    ("priority", 5),
    ("version", 99),
    ("requested_version", 99),
    ("previous", 99),
    ("checkpoints", []),
    ("model", None),
)
for column, value in _OTHER_JOB_COLUMNS:
    BREAKS.append(("R1", f"a job row has another {column}", _row("jobs", 0, **{column: value})))
_OTHER_COLUMNS: tuple[tuple[str, str, Any], ...] = (
    ("epochs", "metrics", {"loss": 7}),
    ("epochs", "version", 99),
    ("datasets", "number", 2),
    ("datasets", "sha256", "00"),
    ("models", "job_id", "j9"),
    ("models", "version", 99),
    ("journal", "version", 99),
    ("journal", "refusal", "fenced"),
    ("journal", "value", b"{}"),
    ("checkpoints", "sha256", "00"),
    ("checkpoints", "struck", True),
    ("requests", "version", 99),
    ("requests", "refusal", "duplicate"),
    ("requests", "offset", 99),
    ("workspaces", "version", 99),
)
for table, column, value in _OTHER_COLUMNS:
    BREAKS.append(("R1", f"a row of {table} has another {column}", _row(table, 0, **{column: value})))
for table in ("jobs", "epochs", "datasets", "models", "journal", "checkpoints", "requests", "workspaces"):

    def _lack(history: History, table: str = table) -> None:
        del history.rows[table][0]

    BREAKS.append(("R1", f"a row of {table} is missing", _lack))


@breaks("R1", "a fenced epoch has a row")
def _(history: History) -> None:
    history.rows["epochs"].append({**history.rows["epochs"][0], "epoch": 3})


@breaks("R2", "a cursor stands before the end")
def _(history: History) -> None:
    history.rows["cursors"][0]["next_offset"] -= 1


@breaks("R3", "an epoch was written twice")
def _(history: History) -> None:
    history.rows["epochs"].append(history.rows["epochs"][0])


@breaks("A2", "a journal row's time was changed")
def _(history: History) -> None:
    history.rows["journal"][5]["at"] += 1


@breaks("A2", "a journal row's hash was changed")
def _(history: History) -> None:
    history.rows["journal"][5]["hash"] = bytes(32)


@breaks("W1", "a frame came twice")
def _(history: History) -> None:
    history.frames.insert(3, history.frames[3])


@breaks("W1", "two frames are swapped")
def _(history: History) -> None:
    history.frames[3], history.frames[4] = history.frames[4], history.frames[3]


@breaks("W2", "a frame is missing")
def _(history: History) -> None:
    del history.frames[3]


BREAKS.append(("W1", "a frame tells of an event that was refused", _message(3, version=500)))
BREAKS.append(("W1", "a frame names another event", _message(3, event="JobFailed")))
BREAKS.append(("W1", "a frame names a wrong previous version", _message(3, previous=1)))
BREAKS.append(("W3", "a frame of another job came", _message(3, job_id="j2")))


@breaks("W2", "the end of a workspace's stream is missing")
def _(history: History) -> None:
    del history.frames[-2]


@breaks("W1", "a workspace's stream tells of a record twice")
def _(history: History) -> None:
    history.frames.insert(-1, history.frames[-2])


@breaks("W2", "a workspace's stream leaves out a record of one job")
def _(history: History) -> None:
    del history.frames[-5]


@breaks("R4", "a read goes back")
def _(history: History) -> None:
    history.reads.append(Read("u1", WS, 0, 8, 200))


@breaks("R4", "a read is answered from before what it asked for")
def _(history: History) -> None:
    history.reads.append(Read("u2", WS, 5, 4, 200))


@breaks("R4", "a read is answered from a version that never was")
def _(history: History) -> None:
    history.reads.append(Read("u1", WS, 5, 500, 200))


@breaks("P1", "a fact is missing")
def _(history: History) -> None:
    assert history.facts is not None
    del history.facts[1]


@breaks("P1", "the last fact is missing")
def _(history: History) -> None:
    assert history.facts is not None
    history.facts.pop()


@breaks("P1", "a fact is of another record")
def _(history: History) -> None:
    assert history.facts is not None
    history.facts[1] = replace(history.facts[1], value=(history.facts[1].value or b"").replace(b"u1", b"u2"))


@breaks("P2", "the table lacks a job")
def _(history: History) -> None:
    history.table = [row for row in history.table or () if row.key != b"j2"]


@breaks("P2", "a job that is over has no tombstone")
def _(history: History) -> None:
    assert history.table is not None
    history.table.pop()


@breaks("P2", "an older row comes last")
def _(history: History) -> None:
    assert history.table is not None
    history.table.append(history.table[3])


@breaks("L2", "an answer of success is about a request that was refused")
def _(history: History) -> None:
    late = record(len(history.log), "JobPauseRequested", "r9", "j2", "u1", {})
    history.log.append(late)
    history.log_again.append(late)
    history.calls.append(Call("JobPauseRequested", "u1", WS, "ok", "r9", answer={"job_id": "j2"}, status=200))


@breaks("L3", "a request that took effect was refused when it was sent again")
def _(history: History) -> None:
    history.calls.append(replace(history.calls[1], outcome="fail", status=409, began=5.0))


@breaks("A1", "the log names another actor than the one who asked")
def _(history: History) -> None:
    history.calls[1] = replace(history.calls[1], actor="u9")


@breaks("S1", "a secret stands in a log file")
def _(history: History) -> None:
    history.texts["api.log"] = b"password=s3cret-canary"


@breaks("S1", "a secret stands in a record, in base64")
def _(history: History) -> None:
    history.texts["dump"] = b"czNjcmV0LWNhbmFyeQ=="


def test_a_clean_run_has_no_violation() -> None:
    report = check(clean())
    assert [str(v) for v in report.violations] == []
    assert report.refused == {"fenced": 1, "undecodable": 1}
    assert report.proved_nothing is None


@pytest.mark.parametrize(
    ("invariant", "break_it"), [(i, b) for i, _, b in BREAKS], ids=[f"{i}: {n}" for i, n, _ in BREAKS]
)
def test_a_broken_run_is_found_by_name(invariant: str, break_it: Break) -> None:
    history = clean()
    break_it(history)
    assert invariant in {violation.invariant for violation in check(history).violations}


def test_a_sending_may_fail_where_another_one_of_the_same_request_is_unknown() -> None:
    history = clean()
    first = history.calls[1]
    history.calls[1] = replace(first, outcome="unknown")
    history.calls.append(replace(first, outcome="fail", status=503, code="log_unavailable", began=5.0))
    assert check(history).violations == []


def test_a_stop_of_what_is_stopping_leaves_no_record() -> None:
    history = clean()
    answer = {"job_id": "j2", "status": "stopping", "version": 16}
    history.calls.append(Call("JobStopRequested", "u1", WS, "ok", "r-again", answer=answer, status=200))
    assert check(history).violations == []


def test_there_are_forty_ways_to_break_a_run() -> None:
    assert len(BREAKS) >= 40


def test_a_run_without_a_fenced_record_says_that_it_proved_nothing() -> None:
    history = clean()
    del history.log[8], history.log_again[8]
    assert check(history).proved_nothing == "no record of a lost attempt was refused"
