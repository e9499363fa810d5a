"""One partition, from the log to rows and messages: judging, storing and publishing overlap through short queues."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg
import structlog
from aiokafka.errors import KafkaError

from adapters.postgres import is_outage
from adapters.settings import KafkaSettings
from domain.rules import FIRST_RULES, KNOWN_RULES, NewerRules
from projections.batch import Batch
from projections.budget import Budget
from projections.chain import GENESIS
from projections.jobs_table import JobsTable
from projections.judging import Judge, PartitionStopped
from projections.kafka_clients import FETCH_BYTES, PartitionReader, Producers
from projections.loading import ForeignCursor
from projections.log_check import LogDiverged, Unreadable, check
from projections.memory import Memory
from projections.publishing import Publisher
from projections.republishing import publish_again
from projections.trouble import Trouble
from projections.writing import LostRace, store_published, write
from schemas.topics import EVENTS

BATCH_RECORDS = 10_000
_BEHIND = 1_000
_DEPTH = 2
"""Batches that may wait to be published."""
_STALLED_SECONDS = 30.0
"""A consumer whose broker has not answered for so long is built anew, though it may believe itself well."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
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


class Partition:
    """Runs one partition until told to stop. Trouble of Kafka or PostgreSQL is waited out."""

    def __init__(self, number: int, common: Common) -> None:
        self.number = number
        self.progress = Progress()
        self._common = common
        self._stop = asyncio.Event()
        self._unjudgeable: PartitionStopped | None = None
        self._compared = 0
        """After which whole reading of the table of jobs it was compared with what is stored."""
        self._log = log.bind(partition=number)

    def stop(self) -> None:
        """Finish what is in hand and return from `run`."""
        self._stop.set()

    async def run(self) -> None:
        """Return after `stop`. Raises `PartitionStopped` and `LogDiverged`; these need a person."""
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            before = self.progress.committed
            try:
                await self._live()
                if self._unjudgeable is not None and not self._stop.is_set():
                    raise self._unjudgeable
            except LogDiverged:
                raise
            except PartitionStopped as error:
                if error is self._unjudgeable or error.offset == self.progress.committed:
                    raise
                # What precedes the record that cannot be judged is judged, and no more.
                self._log.error("judging_failed", offset=error.offset, record=error.id, exc_info=error)
                self._unjudgeable = error
            except Exception as error:
                self._note(error)
            if self._stop.is_set():
                break
            pause = _FIRST_PAUSE if self.progress.committed > before else min(pause * 2, _LONGEST_PAUSE)
            await self._rest(pause)

    def _note(self, error: Exception) -> None:
        self.progress.state = "waiting"
        match error:
            case LostRace() | ForeignCursor():
                self._log.info("starts_over", reason=str(error))
            case Reconnected():
                self._log.debug("reconnected")
            case KafkaError() | Unreadable() | Stalled():
                self._common.trouble.tell("kafka_is_away", error, partition=self.number)
            case _ if is_outage(error):
                self._common.trouble.tell("postgres_is_away", error, partition=self.number)
            case _:
                self._log.error("unexpected", exc_info=error)

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _live(self) -> None:
        """From the stored cursor on, until `stop` or the first trouble; nothing in memory outlives it."""
        common = self._common
        cursor = await _stored_cursor(common.pool, self.number)
        position, rules = cursor["next_offset"], cursor["rules"]
        if rules > KNOWN_RULES:
            raise PartitionStopped(self.number, position, "") from NewerRules(
                f"rule set {rules} is in force; this build knows up to {KNOWN_RULES}"
            )
        self.progress.position = self.progress.committed = position
        self._compared = 0
        reader = PartitionReader(common.kafka, EVENTS, self.number)
        try:
            await reader.start()
            await check(reader, common.pool, common.kafka, position)
            reader.reconnected()
            publisher = await common.producers.publisher()
            await self._sent(
                publisher,
                publish_again(
                    common.pool, publisher, common.kafka, self.number, published=cursor["published"], cursor=position
                ),
            )
            self.progress.published = position
            memory = Memory(position, common.memory_keys())
            judge = Judge(
                common.pool, self.number, memory, rules=rules, chain=cursor["chain"], generation=cursor["generation"]
            )
            self.progress.state = "running"
            await self._flow(reader, judge, publisher, position)
        finally:
            await reader.close()

    async def _flow(self, reader: PartitionReader, judge: Judge, publisher: Publisher, position: int) -> None:
        to_store: asyncio.Queue[_InHand | None] = asyncio.Queue()
        to_publish: asyncio.Queue[_InHand | None] = asyncio.Queue(_DEPTH)
        in_hand: set[_InHand] = set()
        # Whether no batch waits for its commit. Nothing more is read before that: what arrives meanwhile becomes one batch, with
        # one look-up and one commit, however many little requests it holds.
        none_waits = asyncio.Event()
        none_waits.set()
        try:
            async with asyncio.TaskGroup() as stages:
                stages.create_task(self._judge(reader, judge, position, (to_store, to_publish), in_hand, none_waits))
                stages.create_task(self._store(to_store, none_waits))
                stages.create_task(self._publish(to_publish, publisher))
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            for batch in in_hand:
                self._common.budget.give(batch.size)
        await store_published(self._common.pool, self.number, self.progress.committed, self.progress.published)
        self.progress.state = "stopped"

    async def _judge(
        self,
        reader: PartitionReader,
        judge: Judge,
        position: int,
        onward: tuple[asyncio.Queue[_InHand | None], ...],
        in_hand: set[_InHand],
        none_waits: asyncio.Event,
    ) -> None:
        # By our own clock, and not by the time in the answer: that of the day may be set.
        heard, answer = time.monotonic(), 0
        while not self._stop.is_set():
            await none_waits.wait()
            # In a backlog partitions take turns before they read, so that what waits is on the broker, not in memory.
            turn = FETCH_BYTES if (self.progress.end or 0) - position > _BEHIND else 0
            await self._common.budget.take(turn)
            try:
                records = await reader.records(at_most=BATCH_RECORDS, seconds=0.5)
            finally:
                self._common.budget.give(turn)
            if reader.reconnected():
                raise Reconnected
            self.progress.end = reader.highwater()
            if (halt := self._unjudgeable) is not None and records:
                records = [record for record in records if record.offset < halt.offset]
                if not records:
                    break
            shown = await self._to_show()
            if (newest := reader.last_answer_ms()) != answer:
                heard, answer = time.monotonic(), newest
            if not records and not shown:
                if (silent := time.monotonic() - heard) > _STALLED_SECONDS:
                    raise Stalled(f"no answer for {silent:.0f} s")
                continue
            size = sum([len(record.value or b"") for record in records]) + 200 * len(records)
            await self._common.budget.take(size)
            batch = _InHand(size, in_hand, self._common.budget)
            judge.memory.committed_through(self.progress.committed)
            batch.judged = await judge.judge(records, position, shown)
            position = self.progress.position = batch.judged.end
            none_waits.clear()
            for stage in onward:
                await stage.put(batch)
        for stage in onward:
            await stage.put(None)

    async def _to_show(self) -> set[tuple[str, str]]:
        """Rows of the table of jobs that must be published again."""
        table = self._common.table
        if self._compared < table.whole:
            self._compared = table.whole
            self.progress.shown |= await table.differences(self.number)
        shown, self.progress.shown = self.progress.shown, set()
        if shown:
            self._log.info("rows_published_again", jobs=len(shown))
        return shown

    async def _store(self, batches: asyncio.Queue[_InHand | None], none_waits: asyncio.Event) -> None:
        while (batch := await batches.get()) is not None:
            none_waits.set()
            judged = batch.judged
            if judged.end > judged.start:
                await write(self._common.pool, judged, self.progress.published)
                self.progress.committed = judged.end
                self.progress.records += len(judged.journal)
            batch.done()

    async def _publish(self, batches: asyncio.Queue[_InHand | None], publisher: Publisher) -> None:
        while (batch := await batches.get()) is not None:
            await self._sent(publisher, publisher.publish(batch.judged))
            self.progress.published = batch.judged.end
            batch.done()

    async def _sent(self, publisher: Publisher, sending: Awaitable[object]) -> None:
        """After a failed send nothing more goes out through this publisher."""
        try:
            await sending
        except Exception as error:
            if isinstance(cause := _first(error), KafkaError):
                await self._common.producers.discard(publisher)
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


def _first(error: BaseException) -> BaseException:
    """What went wrong first, out of the groups that groups of tasks wrap it in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _stored_cursor(pool: asyncpg.Pool, partition: int) -> asyncpg.Record:
    await pool.execute(
        "INSERT INTO log.cursors (partition, next_offset, published, rules, chain) VALUES ($1, 0, 0, $2, $3)"
        " ON CONFLICT DO NOTHING",
        partition,
        FIRST_RULES,
        GENESIS,
    )
    return await pool.fetchrow(
        "SELECT next_offset, published, rules, chain, generation FROM log.cursors WHERE partition = $1", partition
    )
