"""The JSON Schemas (2020-12) of everything that crosses a topic, made from the structs that decode it.

`python -m schemas` writes them into `schemas/published/`: a folder for each event type with a file for each version of its
schema, whole record with envelope, and one file for each other topic. A version that has been released stays: only
the newest is made from code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from domain.events import EVENTS, Event
from schemas.envelope import RECORDS, schema_of
from schemas.facts import Fact
from schemas.heartbeat import Heartbeat
from schemas.tables import OpenJob
from schemas.telemetry import LogLines, ResourceSample, StepMetrics

FOLDER = Path(__file__).parent / "published"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
TOPIC_VALUES: dict[str, Any] = {
    "facts": Fact,
    "jobs": OpenJob,
    "heartbeats": Heartbeat,
    "telemetry": StepMetrics | LogLines | ResourceSample,
}
"""What the values of the topics other than the log hold, by the topic's name."""


def schema_path(event: type[Event], version: int | None = None) -> Path:
    """Where the schema of an event type is published."""
    return FOLDER / event.__name__ / f"{version or event.schema_version}.json"


def record_schema(event: type[Event]) -> dict[str, Any]:
    """The schema of a whole record of that type, at its newest version."""
    name = schema_of(event)
    schema = _document(name, RECORDS[event])
    record = schema["$defs"][RECORDS[event].__name__]
    record["properties"]["dataschema"] = {"const": name}
    return schema


def published() -> dict[Path, str]:
    """Every file that the code stands for, with its text."""
    files = {schema_path(event): record_schema(event) for event in EVENTS}
    for topic, value in TOPIC_VALUES.items():
        files[FOLDER / f"{topic}.json"] = _document(f"urn:ravand:schemas:topic:{topic}", value)
    return {path: _text(schema) for path, schema in files.items()}


def _document(name: str, type_: Any) -> dict[str, Any]:
    (schema,), definitions = msgspec.json.schema_components([type_], ref_template="#/$defs/{name}")
    return {"$schema": DIALECT, "$id": name, **schema, "$defs": definitions}


def _text(schema: dict[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(schema, order="deterministic"), indent=2).decode() + "\n"
