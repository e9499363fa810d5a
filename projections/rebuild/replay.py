"""Judges one partition anew, from the log's own bytes, up to where the live read model stands, and no further.

The journal is asked for two things: the time of each record, since a log that was completed from the journal carries later
ones, and its verdicts, to be compared with those that are computed here. Rows and position are stored in one transaction, so
a rebuild that is killed goes on where it was.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import asyncpg

from adapters.settings import Settings
from domain.rules import NewerRules
from projections.batch import HASH, OFFSET, REFUSAL, VERSION, Batch
from projections.chain import link
from projections.judging import Judge, PartitionStopped
from projections.kafka_clients import PartitionReader
from projections.memory import Memory
from projections.rebuild.runs import Difference, note
from projections.writing import LostRace, write_rows
from schemas.topics import EVENTS

FETCH_BYTES = 6 * 1024 * 1024
"""What one answer of the broker may hold: some 8,000 records, so each changed job is written once for many of its epochs."""
BATCH_RECORDS = 10_000
MEMORY_KEYS = 20_000
SILENT_SECONDS = 30.0
MOST_ODD = 10_000
"""Verdicts that differ, after which it is no longer worth while to note each."""
_JOURNAL = """
SELECT "offset", at, version, refusal, hash FROM log.journal
 WHERE partition = $1 AND "offset" >= $2 AND "offset" < $3 ORDER BY "offset"
"""


class NotRebuildable(Exception):
    """The log and the journal are not as they must be, or this build cannot judge them. Nothing was swapped."""


class _Retimed(NamedTuple):
    """A record with the time that was judged."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Replay:
    """One partition of the run of that id, into the tables of `schema`. `start` first; `close` at the end.

    After any exception from `to` it is thrown away.
    """

    def __init__(self, settings: Settings, pool: asyncpg.Pool, partition: int, *, schema: str, run: str) -> None:
        self._pool = pool
        self._run = run
        self._partition = partition
        self._schema = schema
        self._reader = PartitionReader(settings.kafka, EVENTS, partition, fetch_bytes=FETCH_BYTES)
        self._judge: Judge
        self._ahead: list[Any] = []
        self._odd = 0
        self._end = 0
        self.position = 0
        """Up to where the new rows go."""

    async def start(self) -> None:
        """Connect, and find out where the new rows stand. Raises `KafkaError` and what asyncpg raises."""
        await self._reader.start()
        cursor = await self._pool.fetchrow(
            f"SELECT next_offset, rules, chain FROM {self._schema}.cursors WHERE partition = $1",  # noqa: S608
            self._partition,
        )
        position = self.position = cursor["next_offset"]
        memory = Memory(position, MEMORY_KEYS)
        self._judge = Judge(
            self._pool,
            self._partition,
            memory,
            rules=cursor["rules"],
            chain=cursor["chain"],
            schema=self._schema,
            with_facts=False,
        )
        first, self._end = await self._reader.bounds()
        if first > position:
            raise NotRebuildable(f"partition {self._partition}: the log has no records before offset {first} any more")
        self._reader.seek(position)

    async def close(self) -> None:
        """Let go of the broker."""
        await self._reader.close()

    async def to(self, goal: int) -> int:
        """Go on up to `goal`, a position that the live read model has reached; how many records that took.

        Raises `NotRebuildable`, `LostRace`, and what Kafka and asyncpg raise.
        """
        records = 0
        if goal > self.position:
            await self._check_end(goal)
        while self.position < goal:
            batch, odd = await self._judged(await self._records(goal))
            # Storing does not overlap with judging what follows: there are as many processes as cores, so nothing would be
            # faster, and with twice as many at work those who read meanwhile would wait longer for their turn.
            self.position = await self._store(batch, odd)
            self._judge.memory.committed_through(self.position)
            records += len(batch.journal)
        return records

    async def _check_end(self, goal: int) -> None:
        if self._end < goal:
            _, self._end = await self._reader.bounds()
        if self._end < goal:
            raise NotRebuildable(
                f"partition {self._partition}: the log ends at offset {self._end}, and the journal goes up to {goal}: the"
                " broker has lost its tail. A projector completes it from the journal when it starts"
            )

    async def _records(self, goal: int) -> list[Any]:
        """The next ones of the log before `goal`. What was read beyond it is kept for the next goal."""
        if not self._ahead:
            try:
                async with asyncio.timeout(SILENT_SECONDS):
                    while not self._ahead:
                        self._ahead = await self._reader.records(at_most=BATCH_RECORDS, seconds=1.0)
            except TimeoutError:
                raise NotRebuildable(
                    f"partition {self._partition}: the broker has a record at offset {self.position} and did not hand it"
                    " out"
                ) from None
        read = self._ahead
        count = len(read) if read[-1].offset < goal else bisect_left(read, goal, key=lambda record: record.offset)
        records, self._ahead = read[:count], read[count:]
        if not records:
            raise NotRebuildable(
                f"partition {self._partition}: the log has no record from offset {self.position} on, and the journal has"
            )
        return records

    async def _judged(self, records: list[Any]) -> tuple[Batch, list[Difference]]:
        end = records[-1].offset + 1
        rows = await self._pool.fetch(_JOURNAL, self._partition, self.position, end)
        if [record.offset for record in records] != [row["offset"] for row in rows]:
            raise NotRebuildable(_other_offsets(self._partition, records, rows))
        chain = self._judge.chain
        timed = [
            record
            if record.timestamp == row["at"]
            else _Retimed(record.offset, row["at"], record.key, record.value, record.headers)
            for record, row in zip(records, rows, strict=True)
        ]
        try:
            batch = await self._judge.judge(timed, self.position, set())
        except PartitionStopped as stopped:
            why = stopped.__cause__
            said = str(why) if isinstance(why, NewerRules) else f"{type(why).__name__}: {why}"
            raise NotRebuildable(
                f"partition {self._partition}: this build cannot judge the record at offset {stopped.offset} ({said})"
            ) from stopped
        if batch.journal[-1][HASH] != rows[-1]["hash"]:
            raise NotRebuildable(_other_bytes(self._partition, chain, timed, rows))
        odd = list(_odd_verdicts(self._partition, batch.journal, rows))
        self._odd += len(odd)
        if self._odd > MOST_ODD:
            raise NotRebuildable(
                f"partition {self._partition}: more than {MOST_ODD:,} verdicts of the journal are not what the log comes to,"
                f" the last one at offset {self.position}: this build judges by other rules, or the journal was rewritten"
            )
        return batch, odd

    async def _store(self, batch: Batch, odd: list[Difference]) -> int:
        """Rows and position, and what was found on the way, in one transaction; the position."""
        async with self._pool.acquire() as connection, connection.transaction():
            moved = await connection.execute(
                f"UPDATE {self._schema}.cursors SET next_offset = $3, rules = $4, chain = $5"  # noqa: S608
                " WHERE partition = $1 AND next_offset = $2",
                batch.partition,
                batch.start,
                batch.end,
                batch.rules,
                batch.chain,
            )
            if moved != "UPDATE 1":
                raise LostRace(f"partition {batch.partition} of {self._schema} no longer stands at {batch.start}")
            await write_rows(connection, batch, self._schema)
            await note(connection, self._run, odd)
        return batch.end


def _odd_verdicts(partition: int, computed: Sequence[Any], stored: Sequence[Any]) -> Iterator[Difference]:
    for ours, theirs in zip(computed, stored, strict=True):
        if (ours[VERSION], ours[REFUSAL]) != (theirs["version"], theirs["refusal"]):
            said = _verdict(theirs["version"], theirs["refusal"]), _verdict(ours[VERSION], ours[REFUSAL])
            yield Difference(
                projection="journal",
                what="verdict",
                key=f"{partition} {ours[OFFSET]}",
                columns=f"stored: {said[0]}; the log comes to: {said[1]}",
            )


def _verdict(version: int | None, refusal: str | None) -> str:
    return f"version {version}" if version is not None else str(refusal)


def _other_offsets(partition: int, records: Sequence[Any], rows: Sequence[Any]) -> str:
    log, journal = [record.offset for record in records], [row["offset"] for row in rows]
    first = min(set(log) ^ set(journal))
    where = "journal" if first in log else "log"
    return f"partition {partition}: the {where} has no record at offset {first}, and the other one has"


def _other_bytes(partition: int, chain: bytes, records: Sequence[Any], rows: Sequence[Any]) -> str:
    for record, row in zip(records, rows, strict=True):
        chain = link(chain, record.timestamp, record.key, record.value)
        if chain != row["hash"]:
            return (
                f"partition {partition}: at offset {record.offset} the log's record does not fit the journal's hash chain:"
                " the log or the journal was altered, or is another installation's"
            )
    return f"partition {partition}: the journal's hash chain does not fit the log"
