"""What others build against: the published schemas, and the bytes and schemas of everything ever released."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from domain.events import EVENTS, Event, RulesActivated, SystemEvent
from domain.workspace import Effect, Workspace, judge
from schemas.envelope import BY_TYPE, RECORDS, decode, encode
from schemas.published_schemas import FOLDER, TOPIC_VALUES, published, schema_path
from tests.schemas.compatibility import breaks
from tests.schemas.examples import JOB, SECOND_JOB, STORY, WORKSPACE, example
from tests.schemas.keep_golden import GOLDEN, RELEASED

GOLDEN_FILES = sorted(GOLDEN.glob("*.json"))


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return document


class TestPublishedFiles:
    def test_they_are_what_the_code_says(self) -> None:
        stale = [path.relative_to(FOLDER) for path, text in published().items() if path.read_text() != text]
        assert stale == [], "run `python -m schemas` and look at what changes for whom"

    def test_there_is_no_other_file(self) -> None:
        older = {schema_path(event, version) for event in EVENTS for version in range(1, event.schema_version)}
        assert set(FOLDER.glob("**/*.json")) == {*published(), *older}

    @pytest.mark.parametrize("path", sorted(published()), ids=lambda path: str(path.relative_to(FOLDER)))
    def test_each_is_a_json_schema(self, path: Path) -> None:
        jsonschema_rs.meta.validate(load(path))
        assert load(path)["$schema"].endswith("2020-12/schema")

    def test_every_topic_that_others_read_has_one(self) -> None:
        assert set(TOPIC_VALUES) == {"facts", "jobs", "heartbeats", "telemetry"}


class TestGoldenBytes:
    def test_every_version_of_every_event_is_kept(self) -> None:
        kept = {tuple(path.stem.split("-")[:2]) for path in GOLDEN_FILES}
        released = {(e.__name__, str(version)) for e in EVENTS for version in range(1, e.schema_version + 1)}
        assert kept == released, "run `python -m tests.schemas.keep_golden`"

    @pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda path: path.stem)
    def test_they_load(self, path: Path) -> None:
        envelope = decode(path.read_bytes())
        assert type(envelope.data).__name__ == path.stem.split("-")[0]
        assert type(envelope.data) is BY_TYPE[load(path)["type"]]

    @pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda path: path.stem)
    def test_nothing_that_they_say_is_lost(self, path: Path) -> None:
        written, read = load(path), msgspec.json.decode(encode(decode(path.read_bytes())))
        version = written.pop("dataschema").rpartition(":")[2]
        if version == str(BY_TYPE[written["type"]].schema_version):
            read["data"] = {name: read["data"][name] for name in written["data"]}
            assert {name: read[name] for name in written} == written

    @pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda path: path.stem)
    def test_they_fit_the_schema_of_their_version(self, path: Path) -> None:
        name, version = path.stem.split("-")[:2]
        jsonschema_rs.validate(load(FOLDER / name / f"{version}.json"), load(path))

    @pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda path: path.stem)
    def test_what_they_become_fits_the_newest_schema(self, path: Path) -> None:
        envelope = decode(path.read_bytes())
        jsonschema_rs.validate(load(schema_path(type(envelope.data))), msgspec.json.decode(encode(envelope)))

    def test_they_fold(self) -> None:
        workspace, system = Workspace(WORKSPACE), Workspace("system")
        for number, name in enumerate(STORY):
            envelope = decode((GOLDEN / f"{name}.json").read_bytes())
            if isinstance(envelope.data, RulesActivated):
                continue
            verdict = judge(
                system if isinstance(envelope.data, SystemEvent) else workspace,
                id=envelope.id,
                subject=envelope.subject,
                actor=envelope.actor,
                event=envelope.data,
                at=1_800_000_000_000 + number,
            )
            assert isinstance(verdict, Effect), f"{name}: {verdict}"
        assert [workspace.jobs[job].status for job in (JOB, SECOND_JOB)] == ["completed", "completed"]

    def test_the_writer_makes_the_same_bytes_today(self) -> None:
        """Not a must for ever (a new optional field changes them), but then the change is seen here."""
        assert {name: encode(example(name)) for name in STORY} == {
            name: (GOLDEN / f"{name}.json").read_bytes() for name in STORY
        }


class TestCompatibility:
    """A released schema may gain optional properties, and nothing else: both old readers and old records stay."""

    @pytest.mark.parametrize("path", sorted(RELEASED.glob("**/*.json")), ids=lambda p: str(p.relative_to(RELEASED)))
    def test_what_is_published_breaks_nothing_released(self, path: Path) -> None:
        current = FOLDER / path.relative_to(RELEASED)
        assert current.exists(), "a released schema is never removed"
        assert breaks(load(path), load(current)) == []

    def test_everything_published_is_kept_as_released(self) -> None:
        kept = {path.relative_to(RELEASED) for path in RELEASED.glob("**/*.json")}
        assert kept == {path.relative_to(FOLDER) for path in FOLDER.glob("**/*.json")}, (
            "run `python -m tests.schemas.keep_golden`"
        )

    @pytest.fixture
    def schema(self) -> dict[str, Any]:
        return load(RELEASED / "EpochCompleted" / "1.json")

    def changed(self, schema: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        new = copy.deepcopy(schema)
        event: dict[str, Any] = new["$defs"]["EpochCompleted"]
        return new, event

    def test_a_new_optional_property_is_allowed(self, schema: dict[str, Any]) -> None:
        new, event = self.changed(schema)
        event["properties"]["samples"] = {"type": "integer"}
        assert breaks(schema, new) == []

    def test_a_new_required_property_is_not(self, schema: dict[str, Any]) -> None:
        new, event = self.changed(schema)
        event["properties"]["samples"] = {"type": "integer"}
        event["required"].append("samples")
        assert breaks(schema, new) == ["/data: requires samples"]

    def test_a_property_that_is_gone_is_not(self, schema: dict[str, Any]) -> None:
        new, event = self.changed(schema)
        del event["properties"]["seconds"]
        assert breaks(schema, new) == ["/data/seconds: is gone"]

    def test_a_required_property_that_became_optional_is_not(self, schema: dict[str, Any]) -> None:
        new, event = self.changed(schema)
        event["required"].remove("epoch")
        assert breaks(schema, new) == ["/data: no longer requires epoch"]

    def test_another_type_is_not(self, schema: dict[str, Any]) -> None:
        new, event = self.changed(schema)
        event["properties"]["epoch"]["type"] = "string"
        assert breaks(schema, new) == ["/data/epoch: type was 'integer', is 'string'"]

    def test_a_tighter_bound_is_not(self, schema: dict[str, Any]) -> None:
        new, event = self.changed(schema)
        event["properties"]["worker"]["maxLength"] = 100
        assert breaks(schema, new) == ["/data/worker: maxLength was 200, is 100"]

    def test_a_change_inside_of_a_choice_is_not(self, schema: dict[str, Any]) -> None:
        new, event = self.changed(schema)
        event["properties"]["seconds"]["anyOf"][0]["maximum"] = 5
        assert breaks(schema, new) == ["/data/seconds/anyOf/0: maximum was 1000000000.0, is 5"]

    def test_a_new_description_is_allowed(self, schema: dict[str, Any]) -> None:
        new, event = self.changed(schema)
        event["description"] = "Another sentence."
        assert breaks(schema, new) == []


def test_every_event_has_a_record_and_a_name_of_its_own() -> None:
    assert len(BY_TYPE) == len(RECORDS) == len(EVENTS)
    assert all(issubclass(event, Event) for event in EVENTS)
