"""Which rule set is in force in each partition, and bringing the next one into force: a record that everybody judges by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import uuid_utils
from aiokafka import TopicPartition

from adapters.kafka import Appender, consumer, producer, topic_name
from adapters.settings import KafkaSettings
from domain.events import RulesActivated
from domain.rules import FIRST_RULES, KNOWN_RULES, SYSTEM_WORKSPACE
from projections.reading import PARTITIONS, SYSTEM_KEY
from schemas import envelope
from schemas.topics import EVENTS

SOURCE = "urn:ravand:admin"
_READ_SECONDS = 15.0


async def in_force(source: Any) -> dict[int, int]:
    """The number of the rules in each partition, as far as its records are judged."""
    rows = await source.fetch("SELECT partition, rules FROM log.cursors")
    known = {row["partition"]: row["rules"] for row in rows}
    return {partition: known.get(partition, FIRST_RULES) for partition in range(PARTITIONS)}


async def activate(settings: KafkaSettings, rules: Mapping[int, int], actor: str) -> None:
    """Append to each of these partitions that the rule set of that number comes into force there.

    The one after the present one; any other is refused when it is judged. Raises `OutcomeUnknown` and `KafkaError`.
    """
    sender = producer(settings)
    try:
        await sender.start()
        appender = Appender(sender, settings.append_deadline_seconds)
        for partition, number in rules.items():
            said = envelope.record(
                RulesActivated(rules=number),
                id=str(uuid_utils.uuid7()),
                source=SOURCE,
                subject="rules",
                time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                workspace=SYSTEM_WORKSPACE,
                actor=actor,
            )
            await appender.append(
                topic_name(settings, EVENTS),
                key=SYSTEM_KEY,
                value=envelope.encode(said),
                headers=envelope.headers(said),
                partition=partition,
            )
    finally:
        await sender.stop()


async def without_history(settings: KafkaSettings) -> list[int]:
    """The partitions that are empty, of a log in which nothing was ever written but the rules to begin with.

    None of a log that has a history: there the rules change only when somebody wants it. Raises `KafkaError`.
    """
    parts = [TopicPartition(topic_name(settings, EVENTS), number) for number in range(PARTITIONS)]
    reader = consumer(settings)
    try:
        await reader.start()
        ends = await reader.end_offsets(parts)
        begun = [part for part in parts if ends[part]]
        if any(ends[part] > KNOWN_RULES - FIRST_RULES for part in begun) or not all(
            [await _is_of_rules(reader, part) for part in begun]
        ):
            return []
        return [part.partition for part in parts if not ends[part]]
    finally:
        await reader.stop()


async def _is_of_rules(reader: Any, part: TopicPartition) -> bool:
    reader.assign([part])
    reader.seek(part, 0)
    found: Iterable[Any] = (await reader.getmany(part, timeout_ms=int(_READ_SECONDS * 1000), max_records=1)).get(
        part, ()
    )
    try:
        return all(isinstance(envelope.decode(record.value).data, RulesActivated) for record in found)
    except (envelope.UndecodableRecord, envelope.UnknownType):
        return False
