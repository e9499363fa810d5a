"""What the bytes of one record say, and what can be said of them before they are judged."""

from __future__ import annotations

import builtins
from functools import lru_cache

import msgspec

from adapters.kafka import partition_of
from domain.events import Event, RulesActivated
from domain.refusal import Refusal
from domain.rules import SYSTEM_WORKSPACE, TYPES_BY_RULES
from schemas.envelope import BY_TYPE, Envelope, UndecodableRecord, UnknownType, decode, header
from schemas.topics import EVENTS

SYSTEM_KEY = SYSTEM_WORKSPACE.encode()
PARTITIONS = EVENTS.partitions


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
        return Refused(refusal=Refusal.UNDECODABLE, event=known, error=str(error))
    if key == SYSTEM_KEY or type(envelope.data) is RulesActivated:
        fits = key == SYSTEM_KEY and envelope.workspace == SYSTEM_WORKSPACE and type(envelope.data) is RulesActivated
    else:
        fits = key is not None and envelope.workspace.encode() == key and home(key) == partition
    if fits:
        return envelope
    return Refused(
        refusal=Refusal.MISROUTED,
        id=envelope.id,
        type="ravand." + type(envelope.data).__name__,
        workspace=envelope.workspace,
        subject=envelope.subject,
        actor=envelope.actor,
        event=type(envelope.data),
    )


def refusal_under(refused: Refused, rules: int) -> Refusal:
    """Why rule set `rules` refuses it: a type that the rules do not know is unknown, whatever else is wrong with it.

    So a build that knows the type gives the verdict that an older one gave.
    """
    if refused.event is not None and refused.event not in TYPES_BY_RULES[rules]:
        return Refusal.UNKNOWN_TYPE
    return refused.refusal
