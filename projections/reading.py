"""What the bytes of one record say, and what can be said of them before they are judged."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, final

import msgspec

from adapters.kafka import partition_of
from domain.events import SYSTEM, Event, RulesActivated
from domain.refusal import Refusal
from domain.rules import SYSTEM_WORKSPACE, TYPES_BY_RULES
from schemas.envelope import (
    BY_TYPE,
    NAMES,
    Envelope,
    Header,
    UndecodableRecord,
    UnknownType,
    decode,
    decode_many,
    header,
)
from schemas.topics import EVENTS

SYSTEM_KEY = SYSTEM_WORKSPACE.encode()
PARTITIONS = EVENTS.partitions
_ABOUT_THE_PLATFORM = frozenset((*SYSTEM, RulesActivated))


@final
class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A record that no rule set would judge. What it says of itself is kept where it could be read."""

    refusal: Refusal
    id: str = ""
    type: str = ""
    workspace: str = ""
    subject: str = ""
    actor: str = ""
    event: builtins.type[Event] | None = None
    """Its type, where this build knows it: rules that do not know it refuse it for that before anything else."""
    header: Header | None = None
    """What bytes that could not be decoded say of themselves, as far as a build could read that does not know the type."""
    error: str = ""
    """Why the bytes could not be decoded."""


@lru_cache(maxsize=16_384)
def home(key: bytes) -> int:
    """The partition of a key. Kept, since murmur2 is slow in Python and keys repeat."""
    return partition_of(key, PARTITIONS)


def read(key: bytes | None, value: bytes | None, partition: int) -> Envelope | Refused:
    """Decode a record and see that its key, its workspace and its partition agree."""
    try:
        envelope = decode(value)
    except UnknownType as unknown:
        said = unknown.header
        return Refused(
            refusal=Refusal.UNKNOWN_TYPE,
            id=said.id,
            type=said.type,
            workspace=said.workspace,
            subject=said.subject,
            actor=said.actor,
        )
    except UndecodableRecord as error:
        said_header = header(value)
        known = BY_TYPE.get(said_header.type) if said_header else None
        return Refused(refusal=Refusal.UNDECODABLE, event=known, header=said_header, error=str(error))
    return _where_it_belongs(envelope, key, partition)


def read_many(records: Sequence[Any], partition: int) -> list[Envelope | Refused]:
    """`read` of each record (as aiokafka gives them): a slice of them at once takes less time than one by one."""
    envelopes = decode_many([record.value for record in records])
    return [
        read(record.key, record.value, partition)
        if envelope is None
        else _where_it_belongs(envelope, record.key, partition)
        for envelope, record in zip(envelopes, records, strict=True)
    ]


def _where_it_belongs(envelope: Envelope, key: bytes | None, partition: int) -> Envelope | Refused:
    kind = type(envelope.data)
    if (
        envelope.workspace.encode() == key
        and (key == SYSTEM_KEY) is (kind in _ABOUT_THE_PLATFORM)
        and (home(key) == partition or kind is RulesActivated)  # Rules are written to every partition.
    ):
        return envelope
    return Refused(
        refusal=Refusal.MISROUTED,
        id=envelope.id,
        type=NAMES[kind],
        workspace=envelope.workspace,
        subject=envelope.subject,
        actor=envelope.actor,
        event=kind,
    )


def under(reading: Envelope | Refused, rules: int) -> Envelope | Refused:
    """What a record says, as rule set `rules` has it: one of a type that it does not know is of an unknown type, whatever
    else is right or wrong with it. So a build that knows the type gives the verdict, and the journal's row, of one that does not.
    """
    said: Envelope | Refused | Header
    if type(reading) is Refused:
        event = reading.event
        said = reading.header or reading
    else:
        event, said = type(reading.data), reading
    if event is None or event in TYPES_BY_RULES[rules]:
        return reading
    return Refused(
        refusal=Refusal.UNKNOWN_TYPE,
        id=said.id,
        type=NAMES[event],
        workspace=said.workspace,
        subject=said.subject,
        actor=said.actor,
        event=event,
    )
