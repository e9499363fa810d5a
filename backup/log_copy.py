"""Copies the log up to the cut, and sees on the way that log, journal and hash chain agree.

Every record is read twice: from the journal in the cut, and from Kafka. The journal's rows must give the hash chain that the
cursor ends in, and Kafka's bytes must be the journal's; so a backup of an altered history is not made. What Kafka has lost, the
journal still has. The time of a record is the journal's, which is the one that was judged.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from adapters.settings import KafkaSettings
from backup.cut import Cursor, Cut
from backup.files import hashed_file
from backup.manifest import BackupRefused, PartitionCut
from backup.record_file import Headers, Record, frame
from backup.writing import Unfinished
from projections.chain import GENESIS, link
from projections.kafka_clients import PartitionReader
from schemas.topics import EVENTS

_ROWS = 200
"""Journal rows in memory at a time: a record may have a megabyte."""
_SILENT_SECONDS = 30.0
_JOURNAL = (
    'SELECT "offset", at, id, type, key, value, headers, version, refusal, hash FROM log.journal'
    ' WHERE partition = $1 AND "offset" < $2 ORDER BY "offset"'
)
_headers = msgspec.json.Decoder(tuple[tuple[str, bytes | None], ...])
_UNALTERED = "`ravand audit verify` tells what was altered; no backup is made of it"


class Copied(msgspec.Struct, frozen=True):
    """A partition in the backup, and how many of its records Kafka no longer had."""

    cut: PartitionCut
    from_journal: int


async def copy(
    cut: Cut, cursor: Cursor, settings: KafkaSettings, into: Unfinished, told: Callable[[int], None]
) -> Copied:
    """One partition into a file. Raises `BackupRefused`, `KafkaError`, and what asyncpg raises."""
    partition, path = cursor.partition, f"log/{cursor.partition:02d}.records"
    chain, verdicts, records, lost = GENESIS, hashlib.sha256(), 0, 0
    reader = PartitionReader(settings, EVENTS, partition)
    try:
        await reader.start()
        log = _LogSide(reader, cursor.next_offset)
        await log.begin()
        with hashed_file(into.folder, path) as file:
            async for row in cut.connection.cursor(_JOURNAL, partition, cursor.next_offset, prefetch=_ROWS):
                chain = link(chain, row["at"], row["key"], row["value"])
                if chain != row["hash"]:
                    raise BackupRefused(
                        f"partition {partition}, offset {row['offset']}: the journal does not fit its hash chain. {_UNALTERED}"
                    )
                record = _record(row)
                in_log = await log.at(record.offset)
                if in_log is None:
                    lost += 1
                elif (in_log.key, in_log.value, tuple(in_log.headers)) != (record.key, record.value, record.headers):
                    raise BackupRefused(
                        f"partition {partition}, offset {record.offset}: log and journal differ. {_UNALTERED}"
                    )
                file.write(frame(record))
                verdicts.update(verdict_line(row))
                records += 1
                if records % _ROWS == 0:
                    told(_ROWS)
            if chain != cursor.chain:
                raise BackupRefused(
                    f"partition {partition}: the journal does not end in the cursor's hash. {_UNALTERED}"
                )
    finally:
        await reader.close()
    told(records % _ROWS)
    assert file.stored is not None
    into.add(file.stored)
    done = PartitionCut(partition, cursor.next_offset, records, cursor.rules, chain.hex(), verdicts.hexdigest(), path)
    return Copied(done, lost)


def verdict_line(row: Any) -> bytes:
    """What became of a record, for the hash over all verdicts."""
    version, refusal = row["version"], row["refusal"]
    return f"{row['offset']} {'-' if version is None else version} {refusal or '-'}\n".encode()


def _record(row: Any) -> Record:
    headers: Headers
    if row["headers"] is not None:
        headers = _headers.decode(row["headers"])
    else:
        headers = (("ce_type", row["type"].encode()), ("ce_id", row["id"].encode()))
    return Record(row["offset"], row["at"], row["key"], row["value"], headers)


class _LogSide:
    """The records of the log, asked for by offset in ascending order."""

    def __init__(self, reader: PartitionReader, end: int) -> None:
        self._reader, self._end = reader, end
        self._records: AsyncIterator[Any] | None = None
        self._next: Any = None

    async def begin(self) -> None:
        """See what Kafka has of the stretch; the rest is the journal's alone."""
        first, end = await self._reader.bounds()
        self._end = min(self._end, end)
        if first < self._end:
            self._reader.seek(first)
            self._records = self._read()
            self._next = await anext(self._records, None)

    async def at(self, offset: int) -> Any:
        """The record with this offset; None if Kafka has none."""
        while self._records is not None and self._next is not None and self._next.offset < offset:
            self._next = await anext(self._records, None)
        return self._next if self._next is not None and self._next.offset == offset else None

    async def _read(self) -> AsyncIterator[Any]:
        while await self._reader.position() < self._end:
            try:
                async with asyncio.timeout(_SILENT_SECONDS):
                    while not (found := await self._reader.records(at_most=2_000, seconds=1.0)):
                        if await self._reader.position() >= self._end:
                            return
            except TimeoutError:
                raise BackupRefused(
                    f"partition {self._reader.at.partition}: the broker does not hand out its records"
                ) from None
            for record in found:
                yield record
