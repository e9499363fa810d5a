"""The record on the wire: a CloudEvents 1.0 structured JSON document with one event in `data`.

Decoded once, by a msgspec union tagged on `type`. Bytes of an older schema version, and bytes that do not fit, take the
slow path, where upcasters apply. Bytes that differ from what our own encoder makes of them (unknown members, other
white space) are read a second time, generically, so that what takes effect can be read by everybody, whole.
Specification: CloudEvents 1.0.2, JSON event format.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import msgspec

from domain.events import EVENTS, Event, Id, JobRequested
from schemas.readable import Unreadable, read_whole
from schemas.upcast import upcast

PREFIX = "ravand."
MAX_RECORD_BYTES = 256 * 1024
_BACKSLASH = ord("\\")
"""As a number: looking for one byte takes 0.03 µs, for a `bytes` of one byte 0.4."""
RESERVED = frozenset({"version", "previous", "at", "job"})
"""What a fact adds to its record (`schemas.facts`); a record that brings a member of that name could forge or break it."""

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class Envelope(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """Who said what about which subject in which workspace. The subclasses, one an event type, narrow `data`."""

    specversion: Literal["1.0"]
    id: Id
    source: Text
    subject: Id
    time: Text
    dataschema: Text
    workspace: Id
    actor: Id
    data: Event
    correlationid: Text | None = None
    causationid: Text | None = None
    traceparent: Text | None = None
    requesthash: Text | None = None
    """SHA-256 of the request's body: the same Idempotency-Key with another body is told apart by it."""


class UndecodableRecord(ValueError):
    """The bytes are no record of ours: refused by rule and copied to the dead letters."""


class UnknownType(ValueError):
    """A well-formed record of a type, or of a newer schema version, that this build does not know."""

    def __init__(self, header: Header) -> None:
        super().__init__(header.type)
        self.header = header


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The envelope without knowing its type."""

    specversion: Literal["1.0"]
    id: Id
    type: Text
    source: Text
    subject: Id
    time: Text
    dataschema: Text
    workspace: Id
    actor: Id
    data: msgspec.Raw
    requesthash: Text | None = None


def type_name(event: type[Event]) -> str:
    """The stable name on the log: `ravand.EpochCompleted`."""
    return PREFIX + event.__name__


def schema_of(event: type[Event], version: int | None = None) -> str:
    """The `dataschema` of an event type; ends in the version of the schema."""
    return f"urn:ravand:schemas:{event.__name__}:{version or event.schema_version}"


def _envelope_for(event: type[Event]) -> type[Envelope]:
    made = msgspec.defstruct(
        f"{event.__name__}Record",
        [("data", event)],
        bases=(Envelope,),
        tag=type_name(event),
        frozen=True,
        kw_only=True,
        module=__name__,
    )
    return cast(type[Envelope], made)


RECORDS: dict[type[Event], type[Envelope]] = {event: _envelope_for(event) for event in EVENTS}
NAMES: dict[type[Event], str] = {event: type_name(event) for event in EVENTS}
"""`type_name`, looked up: where each record is asked."""
BY_TYPE: dict[str, type[Event]] = {name: event for event, name in NAMES.items()}
TYPE_COPIES: dict[type[Event], tuple[str, bytes]] = {event: ("ce_type", name.encode()) for event, name in NAMES.items()}
"""The header that repeats a record's type."""
_SCHEMAS: dict[type[Event], str] = {event: schema_of(event) for event in EVENTS}

_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(functools.reduce(operator.or_, RECORDS.values()))
_header_decoder = msgspec.json.Decoder(Header)
_encoder = msgspec.json.Encoder()


def record(
    event: Event,
    *,
    id: str,
    source: str,
    subject: str,
    time: str,
    workspace: str,
    actor: str,
    correlationid: str | None = None,
    causationid: str | None = None,
    traceparent: str | None = None,
    requesthash: str | None = None,
) -> Envelope:
    """Put an event into its envelope. `time` is RFC 3339 UTC by the writer's clock; the broker's own is what counts."""
    kind = type(event)
    return RECORDS[kind](
        specversion="1.0",
        id=id,
        source=source,
        subject=subject,
        time=time,
        dataschema=_SCHEMAS[kind],
        workspace=workspace,
        actor=actor,
        data=event,
        correlationid=correlationid,
        causationid=causationid,
        traceparent=traceparent,
        requesthash=requesthash,
    )


class UnwritableRecord(ValueError):
    """A writer's own mistake: nobody could decode the bytes of this record (too large, NaN, a field out of range)."""


class RecordTooLarge(UnwritableRecord):
    """More than `MAX_RECORD_BYTES`."""


def encode(envelope: Envelope) -> bytes:
    """The record's value as it goes to Kafka.

    Raises `UnwritableRecord`, or `RecordTooLarge`, rather than write what `decode` refuses.
    """
    try:
        value = _encoder.encode(envelope)
    except (ValueError, TypeError, RecursionError) as error:  # Half of a surrogate pair, an object that is no JSON.
        raise UnwritableRecord(f"{type(envelope.data).__name__}: {error}") from None
    if len(value) > MAX_RECORD_BYTES:
        raise RecordTooLarge(f"{len(value)} bytes; a record has at most {MAX_RECORD_BYTES}")
    try:
        decode(value)
    except UndecodableRecord as error:
        raise UnwritableRecord(f"{type(envelope.data).__name__}: {error}") from None
    return value


def headers(envelope: Envelope) -> list[tuple[str, bytes]]:
    """Copies for skipping without decoding; readers never trust them."""
    return [TYPE_COPIES[type(envelope.data)], ("ce_id", envelope.id.encode())]


def decode(value: bytes | None) -> Envelope:
    """The record in `value`, of the newest schema version.

    Raises `UnknownType` for a well-formed record of a type unknown here and `UndecodableRecord` for anything else that
    cannot be read (`schemas.readable` says what every reader must be able to). The outcome depends on the bytes alone.
    """
    if not value:
        raise UndecodableRecord("no value")
    if len(value) > MAX_RECORD_BYTES:
        raise UndecodableRecord(f"{len(value)} bytes; a record has at most {MAX_RECORD_BYTES}")
    try:
        envelope: Envelope = _decoder.decode(value)
        as_written = _encoder.encode(envelope) == value
        # A RecursionError depends on our own stack, and goes the slow way: what it says of depth does not.
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return _decode_slowly(value, error)
    kind = type(envelope.data)
    if envelope.dataschema != _SCHEMAS[kind]:
        return _decode_slowly(value, None)
    if not as_written or kind is JobRequested or _BACKSLASH in value:
        _read_whole(value)
    return envelope


def decode_many(values: Sequence[bytes | None]) -> list[Envelope | None]:
    """What `decode` gives for each value, in two thirds of its time, where all are as our own encoder writes them.

    None stands for a value that has to be decoded by itself, and may raise: for all of them if one is out of the ordinary.
    What is written has no line break in it. So where the lines decoded and written again are the lines that there were,
    each line is a value, and each value is what is written of its record.
    """
    apart: list[Envelope | None] = [None] * len(values)
    try:
        lines = b"\n".join(values)  # type: ignore[arg-type]  # One that is null is a TypeError.
        envelopes: list[Envelope] = _decoder.decode_lines(lines)
        as_written = _encoder.encode_lines(envelopes) == lines + b"\n"
    except (TypeError, msgspec.DecodeError, ValueError, RecursionError):
        return apart
    if not as_written or len(envelopes) != len(values):
        return apart
    escaped = _BACKSLASH in lines
    return [
        None
        if envelope.dataschema != _SCHEMAS[(kind := type(envelope.data))]
        or kind is JobRequested
        or len(value) > MAX_RECORD_BYTES
        or (escaped and _BACKSLASH in value)
        else envelope
        for envelope, value in zip(envelopes, cast(Sequence[bytes], values), strict=True)
    ]


def _read_whole(value: bytes) -> Any:
    try:
        document = read_whole(value)
    except Unreadable as error:
        raise UndecodableRecord(str(error)) from None
    if isinstance(document, dict) and not RESERVED.isdisjoint(document):
        raise UndecodableRecord(f"a record has no member {min(RESERVED & document.keys())!r}")
    return document


def header(value: bytes | None) -> Header | None:
    """What a record that cannot be decoded says of itself, if a build that does not know its type could read that much."""
    if not value or len(value) > MAX_RECORD_BYTES:
        return None
    try:
        _read_whole(value)
        return _header_decoder.decode(value)
    except (msgspec.DecodeError, ValueError):
        return None


def _decode_slowly(value: bytes, reason: Exception | None) -> Envelope:
    try:
        document = _read_whole(value)
        header = _header_decoder.decode(value)
        kind = BY_TYPE.get(header.type)
        if kind is None:
            raise UnknownType(header)
        version = _schema_version(header.dataschema, kind)
        if version > kind.schema_version:
            raise UnknownType(header)
        if version == kind.schema_version:
            raise UndecodableRecord(str(reason or "unreadable"))
        data = upcast(kind.__name__, version, kind.schema_version, document["data"])
        return msgspec.convert({**document, "data": data, "dataschema": _SCHEMAS[kind]}, RECORDS[kind])
    except (UnknownType, UndecodableRecord):
        raise
    except Exception as error:  # Upcasters are pure: whatever one raises on bytes that never fitted, it always raises.
        raise UndecodableRecord(f"{type(error).__name__}: {error}") from None


def _schema_version(dataschema: str, kind: type[Event]) -> int:
    name, _, version = dataschema.rpartition(":")
    if name != f"urn:ravand:schemas:{kind.__name__}" or not version.isdecimal() or len(version) > 6:
        raise UndecodableRecord(f"dataschema {dataschema[:100]!r} does not belong to {kind.__name__}")
    return int(version)
