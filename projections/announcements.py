"""What the projector announces with a commit, by PostgreSQL's notifications: they come after it, or never.

How far the partition is, always. And, where they fit, the verdicts on the requests in it, so that nobody who waits for one
has to look it up. Whoever misses an announcement, or finds none where there is a commit, looks into the table.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from projections.batch import Row

COMMITS = "ravand_commits"
"""Payload: `<partition>:<next offset>`."""
VERDICTS = "ravand_verdicts"
"""Payload: `Announced` as JSON. Sent in the same transaction as the commit's, and before it."""
LONGEST_BYTES = 7_999
"""PostgreSQL's limit for one payload."""


class AnnouncedVerdict(msgspec.Struct, frozen=True, array_like=True):
    """The verdict on the first occurrence of a request."""

    workspace: str
    id: str
    type: str
    subject: str
    version: int | None
    refusal: str | None
    requesthash: str | None


class Announced(msgspec.Struct, frozen=True, array_like=True):
    """All verdicts on first occurrences of requests in the stretch of a partition before `next_offset`."""

    partition: int
    next_offset: int
    verdicts: tuple[AnnouncedVerdict, ...]


_encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Announced).decode
"""Raises `msgspec.MsgspecError`."""


def commit(partition: int, next_offset: int) -> str:
    """The payload that says how far a partition is."""
    return f"{partition}:{next_offset}"


def verdicts(partition: int, next_offset: int, requests: Sequence[Row]) -> str:
    """The payload for the rows of the table of requests; empty where there are none, or more than fit."""
    if not requests:
        return ""
    told = tuple(AnnouncedVerdict(row[0], row[1], *row[4:]) for row in requests)
    payload = _encode(Announced(partition, next_offset, told))
    return payload.decode() if len(payload) <= LONGEST_BYTES else ""
