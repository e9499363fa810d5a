"""Dead letters: records that nobody could decode, with where they lie in the log and why.

The topic holds copies, the journal every byte. Whoever can write to the topic can put anything there, so nothing in a
letter is trusted: headers that are missing or make no sense leave gaps, and a letter that came twice is told once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from adapters.settings import KafkaSettings
from audit.log_reader import LogReader, bounds
from schemas.topics import DEADLETTER, EVENTS

LONGEST_COPY = 1024 * 1024
"""A letter of so many bytes may have been cut."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of a record, or the record itself as the journal keeps it (`whole`). Times are the broker's, in milliseconds."""

    partition: int
    offset: int
    at: int
    error: str
    key: bytes | None
    value: bytes | None
    whole: bool

    @property
    def size(self) -> int:
        """Bytes of what is here of the value."""
        return len(self.value or b"")


async def letters(settings: KafkaSettings) -> list[DeadLetter]:
    """All of them in the order of their positions in the log. Raises `KafkaError` and `LogUnreadable`."""
    found: dict[tuple[int, int], DeadLetter] = {}
    for partition, (first, end) in (await bounds(settings, DEADLETTER)).items():
        async for letter in _of_partition(settings, partition, first, end):
            found.setdefault((letter.partition, letter.offset), letter)
    return [found[position] for position in sorted(found)]


async def _of_partition(
    settings: KafkaSettings, partition: int, first: int, end: int
) -> AsyncGenerator[DeadLetter, None]:
    async with aclosing(LogReader(settings, partition, topic=DEADLETTER).read(end, first)) as batches:
        async for batch in batches:
            for record in batch:
                if (letter := _letter(record)) is not None:
                    yield letter


def _letter(record: Any) -> DeadLetter | None:
    """None for what was not written by a projector: without a position there is nothing to look up."""
    headers = {name: value or b"" for name, value in record.headers}
    partition, offset = _number(headers.get("partition")), _number(headers.get("offset"))
    if partition is None or offset is None or partition >= EVENTS.partitions:
        return None
    return DeadLetter(
        partition=partition,
        offset=offset,
        at=record.timestamp,
        error=headers.get("error", b"").decode(errors="backslashreplace"),
        key=record.key,
        value=record.value,
        whole=len(record.value or b"") < LONGEST_COPY,
    )


def _number(text: bytes | None) -> int | None:
    return int(text) if text is not None and text.isdigit() and len(text) < 19 else None


async def from_journal(connection: Any, partition: int, offset: int) -> DeadLetter | None:
    """The whole record, if the journal has one there that could not be decoded. Its error is not kept there."""
    row = await connection.fetchrow(
        'SELECT at, key, value FROM log.journal WHERE partition = $1 AND "offset" = $2 AND refusal = $3',
        partition,
        offset,
        "undecodable",
    )
    if row is None:
        return None
    return DeadLetter(partition=partition, offset=offset, at=row[0], error="", key=row[1], value=row[2], whole=True)
