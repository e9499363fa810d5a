"""Records in the workspace `system` of what was done: kept with the change itself, in its transaction, and appended after it.

So a swap is never without its record, however the process ends. Appending one twice does no harm: its id decides once.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import uuid_utils
from aiokafka.errors import KafkaError

from adapters.kafka import Appender, OutcomeUnknown, abandon, producer, topic_name
from adapters.settings import Settings
from domain.events import (
    ProjectionsRebuildCancelled,
    ProjectionsRebuildStarted,
    ProjectionsRebuilt,
    ProjectionsRolledBack,
    ProjectionsSwapped,
    SystemEvent,
)
from domain.rules import SYSTEM_WORKSPACE
from projections.reading import SYSTEM_KEY
from projections.rebuild.runs import Run, now_ms
from schemas import envelope
from schemas.topics import EVENTS

SOURCE = "urn:ravand:admin"


class Noted(msgspec.Struct, frozen=True):
    """What became of the records of a run, by the bare name of their type: a version, a refusal, or nothing yet."""

    type: str
    version: int | None
    refusal: str | None


def started(run: Run) -> SystemEvent:
    """The run begins."""
    return ProjectionsRebuildStarted(projections=run.projections)


def rebuilt(run: Run) -> SystemEvent:
    """The new rows are made and compared."""
    report = run.report
    return ProjectionsRebuilt(
        projections=run.projections,
        records=report.records,
        rows=sum(table.rows for table in report.tables.values()),
        differing_rows=report.differing,
        differing_verdicts=report.verdicts,
    )


def swapped(run: Run) -> SystemEvent:
    """Others are read from here on."""
    event = ProjectionsSwapped if run.kind == "rebuild" else ProjectionsRolledBack
    return event(projections=run.projections)


def cancelled(run: Run) -> SystemEvent:
    """Nothing came of it."""
    return ProjectionsRebuildCancelled(projections=run.projections)


async def keep(connection: Any, run: Run, event: SystemEvent) -> None:
    """Keep it until it is in the log. A dry run leaves none."""
    if run.dry_run:
        return
    said = envelope.record(
        event,
        id=str(uuid_utils.uuid7()),
        source=SOURCE,
        subject=run.id,
        time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        workspace=SYSTEM_WORKSPACE,
        actor=run.actor,
    )
    await connection.execute(
        "INSERT INTO rebuild.records (id, run, value, at) VALUES ($1, $2, $3, $4)",
        said.id,
        run.id,
        envelope.encode(said),
        now_ms(),
    )


async def send(settings: Settings, connection: Any) -> bool:
    """Append those that are kept; whether none is left. A log that does not answer is told, not raised."""
    rows = await connection.fetch("SELECT id, value FROM rebuild.records ORDER BY at, id")
    if not rows:
        return True
    sender = producer(settings.kafka)
    try:
        await sender.start()
        appender = Appender(sender, settings.kafka.append_deadline_seconds)
        for row in rows:
            said = envelope.decode(row["value"])
            await appender.append(
                topic_name(settings.kafka, EVENTS),
                key=SYSTEM_KEY,
                value=row["value"],
                headers=envelope.headers(said),
            )
            await connection.execute("DELETE FROM rebuild.records WHERE id = $1", row["id"])
    except (OutcomeUnknown, KafkaError, OSError):
        return False
    finally:
        await abandon(sender)
    return True


async def noted(source: Any, run: Run) -> list[Noted]:
    """What the log made of the run's records, as far as they are judged."""
    rows = await source.fetch(
        "SELECT type, version, refusal FROM log.journal WHERE workspace = $1 AND subject = $2"
        ' ORDER BY partition, "offset"',
        SYSTEM_WORKSPACE,
        run.id,
    )
    return [Noted(row["type"].removeprefix(envelope.PREFIX), row["version"], row["refusal"]) for row in rows]


Outcome = Literal["noted", "unknown_type", "waiting", "none"]


def outcome(found: list[Noted], run: Run) -> Outcome:
    """In one word: whether the run is in the history of the platform."""
    if run.dry_run:
        return "none"
    if any(one.refusal == "unknown_type" for one in found):
        return "unknown_type"
    return "noted" if found else "waiting"
