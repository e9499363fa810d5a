"""The public stream: what took effect, in order, each with its workspace's version.

A fact is the record's own bytes with four members spliced in: `version`, `previous` (the version of the same job's fact
before it, 0 for the first), `at` (the broker's time, ms) and, for a job's record, the `job`'s view after it. Spliced last, so
that they win over members of the same name that a writer may have put there (RFC 8259 readers keep the last).
"""

from __future__ import annotations

import msgspec

from schemas.job_view import JobView
from schemas.readable import reader

_encode = msgspec.json.Encoder().encode
VERSION_HEADER = "ravand_version"
"""Header of facts and table rows (tombstones too): the workspace's version, decimal."""
POSITION_HEADER = "ravand_position"
"""Header of facts: the offset of the record in the log, decimal; the partition is the fact's own."""
WORKSPACE_HEADER = "ravand_workspace"
"""Header of table rows, tombstones too: whose row it is."""


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """As much of a fact as the relay reads."""

    id: str
    type: str
    subject: str
    workspace: str
    actor: str
    version: int
    previous: int
    at: int
    data: msgspec.Raw
    job: JobView | None = None


_decode = reader(msgspec.json.Decoder(Fact).decode)


class _Tail(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a fact has beyond its record, in the order of its members."""

    version: int
    previous: int
    at: int
    job: JobView | None = None


def tail(*, version: int, previous: int, at: int, job: JobView | None) -> bytes:
    """What a fact has beyond its record's own bytes; kept in the journal, so that a fact is the same whenever it is made."""
    return b"," + _encode(_Tail(version, previous, at, job))[1:]


def join(value: bytes, tail: bytes) -> bytes:
    """The fact of an effective record, from the record's bytes and its tail."""
    return value[: value.rindex(b"}")] + tail


def splice(value: bytes, *, version: int, previous: int, at: int, job: JobView | None) -> bytes:
    """The fact of an effective record."""
    return join(value, tail(version=version, previous=previous, at=at, job=job))


def decode(value: bytes) -> Fact:
    """Read a fact. Raises `msgspec.DecodeError` for what is none."""
    return _decode(value)
