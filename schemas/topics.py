"""The topics: names, partitions, and the configuration without which no process starts."""

from __future__ import annotations

from dataclasses import dataclass, field

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as `ravand admin init` creates it. `name` is without the prefix of the installation."""

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)


_FOREVER = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_MAX_VALUE = 8 * 1024 * 1024
"""Of the topics whose values are made from a record: a job's row repeats metrics, a dead letter carries what was refused."""
_COMMON = {"message.timestamp.type": "LogAppendTime"}
_TABLE = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.2",
    "segment.ms": str(DAY_MS),
}

EVENTS = Topic("events", 12, {**_COMMON, **_FOREVER, "max.message.bytes": str(1024 * 1024)})
FACTS = Topic(
    "facts",
    12,
    {**_COMMON, "cleanup.policy": "delete", "retention.ms": str(30 * DAY_MS)},
)
JOBS = Topic("jobs", 12, {**_COMMON, **_TABLE, "max.message.bytes": str(_MAX_VALUE)})
DEPLOYMENTS = Topic("deployments", 3, {**_COMMON, **_TABLE})
TELEMETRY = Topic(
    "telemetry",
    12,
    {**_COMMON, "cleanup.policy": "delete", "retention.ms": str(30 * DAY_MS)},
)
HEARTBEATS = Topic(
    "heartbeats",
    3,
    {
        **_COMMON,
        "cleanup.policy": "compact,delete",
        "retention.ms": str(DAY_MS),
        "min.cleanable.dirty.ratio": "0.2",
        "segment.ms": str(3600 * 1000),
    },
)
DEADLETTER = Topic("deadletter", 3, {**_COMMON, **_FOREVER, "max.message.bytes": str(_MAX_VALUE)})

TOPICS: tuple[Topic, ...] = (
    EVENTS,
    FACTS,
    JOBS,
    DEPLOYMENTS,
    TELEMETRY,
    HEARTBEATS,
    DEADLETTER,
)
