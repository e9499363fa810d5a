"""Follows a topic that is a table: every partition from the beginning, then its tail, through restarts of the broker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from adapters import kafka
from adapters.settings import KafkaSettings
from schemas.topics import Topic

Record = ConsumerRecord
OnRecords = Callable[[Sequence[Any]], None]
"""Given each batch in partition order, on the event loop: it must not block."""

CHECK_SECONDS = 5.0
"""How often positions are compared with the ends of the partitions."""
STALLED_SECONDS = 20.0
"""A consumer that is behind and has moved nothing for so long is replaced."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0


class Tail:
    """One consumer of a table. Readers of tables keep versions, so reading anything a second time does no harm."""

    def __init__(
        self, settings: KafkaSettings, topic: Topic, on_records: OnRecords, *, at_leisure: bool = False
    ) -> None:
        """Nothing is read before `run`. `at_leisure`: half a second's delay does not matter."""
        self._settings = settings
        self._options = kafka.AT_LEISURE if at_leisure else {}
        self._partitions = [TopicPartition(kafka.topic_name(settings, topic), n) for n in range(topic.partitions)]
        self._on_records = on_records
        self._log = structlog.get_logger("tail").bind(topic=topic.name)
        self._consumer: AIOKafkaConsumer | None = None
        self._moved = asyncio.Event()
        self.caught_up = asyncio.Event()
        """Set once everything has been read that was there at the start."""

    async def run(self) -> None:
        """Read for ever; cancel it to end. While the broker is away it waits."""
        pause, said = FIRST_PAUSE, False
        while True:
            # `earliest` is also what happens to a position beyond the end of a log that lost its tail: read it all again.
            consumer = kafka.consumer(
                self._settings,
                auto_offset_reset="earliest",
                max_poll_records=2000,
                metadata_max_age_ms=30_000,
                **self._options,
            )
            try:
                consumer.assign(self._partitions)
                await consumer.start()
                self._consumer = consumer
                if said:
                    self._log.info("following the table again")
                pause, said = FIRST_PAUSE, False
                await self._follow(consumer)
            except (KafkaError, OSError, AssertionError) as error:
                if not said:
                    self._log.warning(
                        "the table cannot be read; trying again", error=str(error) or type(error).__name__
                    )
                said = True
            finally:
                self._consumer = None
                await _close(consumer)
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    async def sync(self) -> None:
        """Return once everything that is in the topic now has been handed on."""
        while True:
            consumer = self._consumer
            with contextlib.suppress(KafkaError, OSError):
                if consumer is not None:
                    ends = await self._ends(consumer)
                    while self._consumer is consumer and await _is_behind(consumer, ends):
                        self._moved.clear()
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(1.0):
                                await self._moved.wait()
                    if self._consumer is consumer:
                        return
            await asyncio.sleep(FIRST_PAUSE)

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        checking = asyncio.create_task(self._check(consumer))
        try:
            while not checking.done():
                fetched = await consumer.getmany(timeout_ms=500)
                for records in fetched.values():
                    self._on_records(records)
                if fetched:
                    self._moved.set()
            checking.result()
        finally:
            checking.cancel()
            await asyncio.gather(checking, return_exceptions=True)

    async def _check(self, consumer: AIOKafkaConsumer) -> None:
        """Says when the start is behind us, and ends when the consumer should be replaced."""
        await self._wait_until_read(consumer)
        self.caught_up.set()
        interrupted, moved_at = False, time.monotonic()
        positions: Mapping[TopicPartition, int] = {}
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                ends = await self._ends(consumer)
            except (KafkaError, OSError):
                interrupted = True
                continue
            if interrupted:
                # A broker that lost power may have lost the end of the table and filled it with other rows since.
                await consumer.seek_to_beginning(*self._partitions)
                interrupted = False
                self._log.info("reading the table again after an interruption")
                continue
            now_at = {tp: await consumer.position(tp) for tp in self._partitions}
            if now_at != positions or not await _is_behind(consumer, ends):
                positions, moved_at = now_at, time.monotonic()
            elif time.monotonic() - moved_at > STALLED_SECONDS:
                self._log.warning("the consumer has stalled and is replaced")
                return

    async def _wait_until_read(self, consumer: AIOKafkaConsumer) -> None:
        ends = await self._ends(consumer)
        while await _is_behind(consumer, ends):
            self._moved.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._moved.wait()

    async def _ends(self, consumer: AIOKafkaConsumer) -> Mapping[TopicPartition, int]:
        async with asyncio.timeout(CHECK_SECONDS):
            ends: Mapping[TopicPartition, int] = await consumer.end_offsets(self._partitions)
        return ends


async def _is_behind(consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]) -> bool:
    for partition, end in ends.items():
        if end and await consumer.position(partition) < end:
            return True
    return False


async def _close(consumer: AIOKafkaConsumer) -> None:
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(5):
            await consumer.stop()
