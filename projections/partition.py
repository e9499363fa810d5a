"""One partition, from where it stands in the database to where it stops: checked, judged, and begun anew after any trouble."""

from __future__ import annotations

import asyncio
import contextlib

import asyncpg
import structlog
from aiokafka.errors import KafkaError

from adapters.postgres import is_outage
from domain.rules import FIRST_RULES, KNOWN_RULES, NewerRules
from projections.chain import GENESIS
from projections.flow import Common, Flow, Progress, Reconnected, Stalled, sent
from projections.judging import Judge, PartitionStopped
from projections.kafka_clients import PartitionReader
from projections.loading import ForeignCursor
from projections.log_check import LogDiverged, check
from projections.memory import Memory
from projections.republishing import publish_again
from projections.writing import LostRace
from schemas.topics import EVENTS

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
log = structlog.get_logger(__name__)


class Partition:
    """Runs one partition until told to stop. Trouble of Kafka or PostgreSQL is waited out."""

    def __init__(self, number: int, common: Common) -> None:
        self.number = number
        self.progress = Progress()
        self._common = common
        self._stop = asyncio.Event()
        self._unjudgeable: PartitionStopped | None = None
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
                self._log.error("a record cannot be judged", offset=error.offset, record=error.id, exc_info=error)
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
                self._log.info("the partition starts over", reason=str(error))
            case Reconnected():
                self._log.debug("reconnected")
            case KafkaError() | Stalled():
                self._common.trouble.tell("Kafka is away", error, partition=self.number)
            case _ if is_outage(error):
                self._common.trouble.tell("PostgreSQL is away", error, partition=self.number)
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
        self.progress.position = self.progress.committed = position
        if rules > KNOWN_RULES:
            raise PartitionStopped(self.number, position, "") from NewerRules(
                f"rule set {rules} is in force; this build knows up to {KNOWN_RULES}"
            )
        reader = PartitionReader(common.kafka, EVENTS, self.number)
        try:
            await reader.start()
            await check(reader, common.pool, common.kafka, position)
            reader.reconnected()
            publisher = await common.producers.publisher()
            await sent(
                common.producers,
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
            halt = None if self._unjudgeable is None else self._unjudgeable.offset
            await Flow(self.number, common, self.progress, self._stop, halt, reader, judge, publisher).run()
        finally:
            await reader.close()


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
