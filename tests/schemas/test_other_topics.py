"""Facts, rows, heartbeats and telemetry: what their readers can rely on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.job import Status
from schemas import facts, heartbeat, tables, telemetry, topics
from schemas.envelope import MAX_RECORD_BYTES, encode
from schemas.heartbeat import Device, Heartbeat, Running
from schemas.job_view import JobView, message, view
from schemas.published_schemas import FOLDER
from schemas.tables import OpenJob
from schemas.telemetry import LogLines, ResourceSample, StepMetrics
from tests.domain.scenario import (
    J,
    Record,
    completed,
    epoch,
    failed,
    lost,
    model,
    pause,
    paused,
    released,
    requested,
    started,
    stop,
)
from tests.domain.scenario import given as scenario_of
from tests.schemas.examples import STORY, example


def schema(name: str) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.json.decode((FOLDER / name).read_bytes())
    return document


def shown(*records: Record) -> JobView:
    return view(scenario_of(*records).workspace.jobs[J])


VIEW = JobView(job_id="j", status="running", progress=50.0, epoch=1, epochs=2, attempt=1, message="Epoch 1 of 2.")
BEAT = Heartbeat(
    id="worker-1",
    kind="worker",
    state="busy",
    sequence=7,
    started_at=1_800_000_000_000,
    recipes=(("tabular", 1),),
    running=Running(job_id="job-1", attempt=2),
    devices=(Device(name="GPU", memory_used=1, utilisation=0.5),),
    host="somewhere:1",
)
ABOUT: dict[str, Any] = {"workspace": "w", "job_id": "j", "attempt": 1, "sequence": 3, "at": 1_800_000_000_000}
MEASURED = (
    StepMetrics(**ABOUT, epoch=1, step=10, metrics={"loss": 0.5, "lr": None}),
    LogLines(**ABOUT, lines=(("stdout", "سلام\n"), ("log", "a\\u0000b"))),
    ResourceSample(**ABOUT, cpu_percent=97.5, memory_bytes=10**9),
)


class TestFacts:
    @pytest.mark.parametrize("name", STORY)
    def test_a_fact_is_its_record_and_four_members(self, name: str) -> None:
        value = encode(example(name))
        fact = facts.splice(value, version=8, previous=5, at=99, job=VIEW)
        document = json.loads(fact)
        added = {member: document.pop(member) for member in ("version", "previous", "at", "job")}
        assert document == json.loads(value)
        assert added == {"version": 8, "previous": 5, "at": 99, "job": json.loads(msgspec.json.encode(VIEW))}
        assert facts.decode(fact).job == VIEW

    @pytest.mark.parametrize("name", STORY)
    def test_it_fits_its_schema_and_that_of_its_record(self, name: str) -> None:
        kind, version = name.split("-")[:2]
        document = json.loads(facts.splice(encode(example(name)), version=8, previous=5, at=99, job=VIEW))
        jsonschema_rs.validate(schema("facts.json"), document)
        jsonschema_rs.validate(schema(f"{kind}/{version}.json"), document)

    def test_white_space_around_the_record_does_not_matter(self) -> None:
        value = b"\n " + encode(example("JobStopRequested-1")) + b" \n"
        assert facts.decode(facts.splice(value, version=1, previous=0, at=1, job=None)).version == 1

    def test_without_a_job_there_is_no_view(self) -> None:
        value = encode(example("DatasetRegistered-1"))
        assert facts.decode(facts.splice(value, version=1, previous=0, at=1, job=None)).job is None

    def test_the_largest_fact_fits_its_topic(self) -> None:
        """A record and a view of it, each with as many metrics as there may be."""
        largest = {"\U0001f600" * 90 + f"{n:010}": 1.2345678901234567e-300 for n in range(256)}
        size = MAX_RECORD_BYTES + len(msgspec.json.encode(msgspec.structs.replace(VIEW, metrics=largest)))
        assert size < 1_000_000 < 1_048_588, "what a broker takes unless told otherwise"


class TestRows:
    def test_a_row_is_read_as_written_and_fits_its_schema(self) -> None:
        job = scenario_of(requested(), started(), epoch(1), lost()).workspace.jobs[J]
        value = tables.encode_open_job(OpenJob(workspace="w", job=job))
        assert tables.decode_open_job(value) == OpenJob(workspace="w", job=job)
        jsonschema_rs.validate(schema("jobs.json"), json.loads(value))


class TestHeartbeats:
    def test_it_is_read_as_written_and_fits_its_schema(self) -> None:
        value = heartbeat.encode(BEAT)
        assert heartbeat.decode(value) == BEAT
        jsonschema_rs.validate(schema("heartbeats.json"), json.loads(value))

    @pytest.mark.parametrize("change", [{"sequence": -1}, {"sequence": 2**64}, {"id": ""}, {"state": "dead"}])
    def test_what_is_none_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(msgspec.ValidationError):
            heartbeat.decode(json.dumps({**json.loads(heartbeat.encode(BEAT)), **change}).encode())


class TestTelemetry:
    @pytest.mark.parametrize("measured", MEASURED, ids=lambda measured: type(measured).__name__)
    def test_it_is_read_as_written_and_fits_its_schema(self, measured: telemetry.AnyTelemetry) -> None:
        value = telemetry.encode(measured)
        assert telemetry.decode(value) == measured
        jsonschema_rs.validate(schema("telemetry.json"), json.loads(value))

    @given(st.lists(st.text(st.sampled_from('\0\\u0a"\n'), max_size=12), max_size=4))
    def test_nul_that_a_program_prints_is_replaced_and_nothing_else(self, texts: list[str]) -> None:
        lines = LogLines(**ABOUT, lines=tuple(("stdout", text) for text in texts))
        read = telemetry.decode(telemetry.encode(lines))
        assert isinstance(read, LogLines)
        assert [text for _, text in read.lines] == [text.replace("\0", "\ufffd") for text in texts]

    def test_numbers_that_are_none_become_nothing(self) -> None:
        """A loss that diverges is worth seeing, and JSON has no word for it."""
        read = telemetry.decode(telemetry.encode(StepMetrics(**ABOUT, epoch=1, step=1, metrics={"loss": float("nan")})))
        assert isinstance(read, StepMetrics)
        assert read.metrics == {"loss": None}

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"{}",
            b"\xff",
            telemetry.encode(MEASURED[1]).replace("سلام".encode(), b"\\u0000"),
            telemetry.encode(MEASURED[1]).replace("سلام".encode(), b"\xff"),
            telemetry.encode(MEASURED[0]).replace(b'"step":10', b'"step":99999999999999999999'),
            telemetry.encode(MEASURED[0]).replace(b"0.5", b"1e999"),
        ],
    )
    def test_what_no_column_could_hold_is_refused(self, value: bytes) -> None:
        with pytest.raises(msgspec.DecodeError):
            telemetry.decode(value)


@pytest.mark.parametrize("read", [facts.decode, tables.decode_open_job, heartbeat.decode, telemetry.decode])
@pytest.mark.parametrize(
    "value",
    [b"", b"{}", b"[]", b'{"id":1}', b"\xff", b'{"id":"\xff"}', b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"],
    ids=range(7),
)
def test_what_is_none_is_refused_with_one_kind_of_error(read: Callable[[bytes], object], value: bytes) -> None:
    """Readers skip it: a worker or a supervisor must not die of somebody's bytes."""
    with pytest.raises(msgspec.DecodeError):
        read(value)


class TestViews:
    """One plain sentence for each place where a job can be."""

    @pytest.mark.parametrize(
        ("records", "said"),
        [
            ((), "Waiting for a worker."),
            ((started(),), "Starting."),
            ((started(), epoch(1)), "Epoch 1 of 10."),
            ((started(), lost()), "Attempt 1 ended: its worker went silent. Waiting for a worker."),
            ((started(), released()), "Attempt 1 ended: its worker handed it back. Waiting for a worker."),
            ((started(), epoch(1), pause), "Pausing: the worker saves a checkpoint first."),
            ((started(), epoch(1), pause, paused()), "Paused after epoch 1."),
            ((started(), epoch(1), stop), "Stopping: the worker saves a checkpoint first."),
            ((stop,), "Stopped after epoch 0."),
            ((started(), failed()), "Failed: exception."),
            ((started(), model(0)), "Completed: model iris, version 1."),
            ((started(), completed(0)), "Completed."),
        ],
    )
    def test_the_sentence(self, records: tuple[Record, ...], said: str) -> None:
        assert shown(requested(), *records).message == said

    def test_progress_counts_epochs(self) -> None:
        assert shown(requested(epochs=3), started(), epoch(1)).progress == 33.33
        assert shown(requested(epochs=3), started(), epoch(1), model(1)).progress == 100

    def test_more_epochs_than_planned_are_no_more_than_all(self) -> None:
        run = shown(requested(epochs=1), started(), epoch(1), epoch(2))
        assert (run.progress, run.eta_seconds) == (100, None)

    def test_what_remains_is_estimated_from_the_last_epoch(self) -> None:
        job = scenario_of(requested(epochs=5), started(), epoch(1)).workspace.jobs[J]
        assert view(msgspec.structs.replace(job, epoch_seconds=2.5)).eta_seconds == 10.0
        later = msgspec.structs.replace(job, epoch_seconds=2.5, epoch=7)
        assert view(later).eta_seconds == 0.0

    @pytest.mark.parametrize("status", Status)
    def test_every_status_has_a_sentence(self, status: Status) -> None:
        job = scenario_of(requested()).workspace.jobs[J]
        assert message(msgspec.structs.replace(job, status=status)).endswith(".")


class TestTopics:
    def test_their_names_are_those_of_the_architecture(self) -> None:
        assert {topic.name: topic.partitions for topic in topics.TOPICS} == {
            "events": 12,
            "facts": 12,
            "jobs": 12,
            "deployments": 3,
            "telemetry": 12,
            "heartbeats": 3,
            "deadletter": 3,
        }

    @pytest.mark.parametrize("topic", topics.TOPICS, ids=lambda topic: topic.name)
    def test_every_time_is_the_brokers(self, topic: topics.Topic) -> None:
        assert topic.config["message.timestamp.type"] == "LogAppendTime"

    def test_history_is_kept_for_ever_and_never_compacted(self) -> None:
        for topic in (topics.EVENTS, topics.DEADLETTER):
            assert topic.config["cleanup.policy"] == "delete"
            assert topic.config["retention.ms"] == topic.config["retention.bytes"] == "-1"

    def test_tables_are_compacted_and_facts_kept_30_days(self) -> None:
        assert {topics.JOBS.config["cleanup.policy"], topics.DEPLOYMENTS.config["cleanup.policy"]} == {"compact"}
        assert topics.HEARTBEATS.config["cleanup.policy"] == "compact,delete"
        month = str(30 * 24 * 3600 * 1000)
        assert topics.FACTS.config["retention.ms"] == topics.TELEMETRY.config["retention.ms"] == month

    def test_a_dead_letter_fits_whatever_the_log_took(self) -> None:
        largest = int(topics.EVENTS.config["max.message.bytes"])
        assert int(topics.DEADLETTER.config["max.message.bytes"]) > 2 * largest
        assert largest > MAX_RECORD_BYTES


def test_the_folder_of_published_schemas_is_where_the_package_is() -> None:
    assert Path(tables.__file__).parent / "published" == FOLDER
