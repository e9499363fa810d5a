"""What a partition does between two troubles: judging, storing and publishing side by side, with short queues between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg
import structlog
from aiokafka.errors import KafkaError

from adapters.settings import KafkaSettings
from projections.batch import Batch
from projections.budget import Budget
from projections.first_error import first_error
from projections.jobs_table import JobsTable
from projections.judging import Judge
from projections.kafka_clients import FETCH_BYTES, PartitionReader, Producers
from projections.publishing import Publisher
from projections.trouble import Trouble
from projections.writing import store_published, write

BATCH_RECORDS = 10_000
_BEHIND = 1_000
_DEPTH = 2
"""Batches that may wait to be published."""
_STALLED_SECONDS = 30.0
"""A consumer whose broker has not answered for so long is built anew, though it may believe itself well."""
log = structlog.get_logger(__name__)


class Reconnected(Exception):
    """There is a new connection to the broker: the log behind it is compared with the journal before going on."""


class Stalled(Exception):
    """The broker has not answered any fetch for a long time."""


@dataclass(slots=True)
class Common:
    """What the partitions of a process share."""

    pool: asyncpg.Pool
    kafka: KafkaSettings
    producers: Producers
    budget: Budget
    memory_keys: Callable[[], int]
    """How many keys one partition may keep in memory when idle."""
    table: JobsTable
    trouble: Trouble


@dataclass(slots=True)
class Progress:
    """Where a partition stands; for the health line."""

    position: int = 0
    committed: int = 0
    published: int = 0
    end: int | None = None
    records: int = 0
    state: str = "starting"
    shown: set[tuple[str, str]] = field(default_factory=set)
    """Rows of the table of jobs that are to be published again: (workspace, job)."""

    @property
    def lag(self) -> int | None:
        """Records that are in the log and not stored; None before the first answer of the broker."""
        return None if self.end is None else max(0, self.end - self.committed)


@dataclass(slots=True)
class Flow:
    """Runs until `stop`, or to `halt`, or to the first trouble, which it raises."""

    number: int
    common: Common
    progress: Progress
    stop: asyncio.Event
    halt: int | None
    """The offset of a record that cannot be judged: what precedes it is judged, and no more."""
    reader: PartitionReader
    judge: Judge
    publisher: Publisher
    _to_store: asyncio.Queue[_InHand | None] = field(init=False, default_factory=asyncio.Queue)
    _to_publish: asyncio.Queue[_InHand | None] = field(init=False, default_factory=lambda: asyncio.Queue(_DEPTH))
    _in_hand: set[_InHand] = field(init=False, default_factory=set)
    _none_waits: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    """Whether no batch waits for its commit. Nothing more is read before that: what arrives meanwhile becomes one batch, with one
    look-up and one commit, however many little requests it holds."""
    _compared: int = field(init=False, default=0)
    """After which whole reading of the table of jobs it was compared with what is stored."""

    async def run(self) -> None:
        """From the position of `progress` on."""
        self._none_waits.set()
        try:
            async with asyncio.TaskGroup() as stages:
                stages.create_task(self._judge())
                stages.create_task(self._store())
                stages.create_task(self._publish())
        except BaseExceptionGroup as group:
            trouble = first_error(group)
            raise trouble from trouble.__cause__
        finally:
            for batch in self._in_hand:
                self.common.budget.give(batch.size)
        await store_published(self.common.pool, self.number, self.progress.committed, self.progress.published)
        self.progress.state = "stopped"

    async def _judge(self) -> None:
        progress, budget = self.progress, self.common.budget
        # By our own clock, and not by the time in the answer: that of the day may be set.
        heard, answer = time.monotonic(), 0
        stands_before_it = False
        while not (self.stop.is_set() or stands_before_it):
            await self._none_waits.wait()
            # In a backlog partitions take turns before they read, so that what waits is on the broker, not in memory.
            turn = FETCH_BYTES if (progress.end or 0) - progress.position > _BEHIND else 0
            await budget.take(turn)
            try:
                records = await self.reader.records(at_most=BATCH_RECORDS, seconds=0.5)
            finally:
                budget.give(turn)
            if self.reader.reconnected():
                raise Reconnected
            progress.end = self.reader.highwater()
            if (halt := self.halt) is not None:
                stands_before_it = any(record.offset >= halt for record in records)
                records = [record for record in records if record.offset < halt]
            shown = await self._to_show()
            if (newest := self.reader.last_answer_ms()) != answer:
                heard, answer = time.monotonic(), newest
            if not records and not shown:
                if (silent := time.monotonic() - heard) > _STALLED_SECONDS:
                    raise Stalled(f"no answer for {silent:.0f} s")
                continue
            size = sum([len(record.value or b"") for record in records]) + 200 * len(records)
            await budget.take(size)
            batch = _InHand(size, self._in_hand, budget)
            self.judge.memory.committed_through(progress.committed)
            batch.judged = await self.judge.judge(records, progress.position, shown)
            progress.position = batch.judged.end
            self._none_waits.clear()
            await self._to_store.put(batch)
            await self._to_publish.put(batch)
        await self._to_store.put(None)
        await self._to_publish.put(None)

    async def _to_show(self) -> set[tuple[str, str]]:
        """Rows of the table of jobs that must be published again."""
        table = self.common.table
        if self._compared < table.whole:
            self._compared = table.whole
            self.progress.shown |= await table.differences(self.number)
        shown, self.progress.shown = self.progress.shown, set()
        if shown:
            log.info("rows are published again", partition=self.number, jobs=len(shown))
        return shown

    async def _store(self) -> None:
        while (batch := await self._to_store.get()) is not None:
            self._none_waits.set()
            judged = batch.judged
            if judged.end > judged.start:
                await write(self.common.pool, judged, self.progress.published)
                self.progress.committed = judged.end
                self.progress.records += len(judged.journal)
            batch.done()

    async def _publish(self) -> None:
        while (batch := await self._to_publish.get()) is not None:
            await sent(self.common.producers, self.publisher, self.publisher.publish(batch.judged))
            self.progress.published = batch.judged.end
            batch.done()


async def sent(producers: Producers, publisher: Publisher, sending: Awaitable[object]) -> None:
    """After a failed send nothing more goes out through this publisher."""
    try:
        await sending
    except Exception as error:
        if isinstance(cause := first_error(error), KafkaError):
            await producers.discard(publisher)
        raise cause from None


class _InHand:
    """A batch on its way through both stages; its share of the budget is free again after the second."""

    def __init__(self, size: int, all_of_them: set[_InHand], budget: Budget) -> None:
        self.size = size
        self.judged: Batch
        self._all, self._budget, self._left = all_of_them, budget, 2
        all_of_them.add(self)

    def done(self) -> None:
        """One of storing and publishing is done with it."""
        self._left -= 1
        if not self._left:
            self._all.discard(self)
            self._budget.give(self.size)
