"""Reads one partition of the log, or of another topic, with a plain consumer that knows nothing of the projector's.

The consumer checks the CRC of every batch. Where one does not fit, the batch is read again unchecked and compared with the
journal, so that the record whose bytes were changed can be named.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CorruptRecordException, KafkaError

from adapters.kafka import consumer, let_go, topic_name
from adapters.parsed_records import hand_out_parsed
from adapters.settings import KafkaSettings
from schemas.topics import EVENTS, Topic

_FETCH_BYTES = 4 * 1024 * 1024
_BATCH = 5_000
SILENT_SECONDS = 30.0


class LogUnreadable(Exception):
    """The broker does not hand out the record at `offset`, or its bytes do not fit its checksum."""

    def __init__(self, offset: int, detail: str, *, checksum: bool) -> None:
        super().__init__(detail)
        self.offset = offset
        self.checksum = checksum


async def bounds(settings: KafkaSettings, topic: Topic = EVENTS) -> dict[int, tuple[int, int]]:
    """Of each partition: the first offset that there is, and the one that the next record will get. Raises `KafkaError`."""
    parts = [TopicPartition(topic_name(settings, topic), number) for number in range(topic.partitions)]
    client = consumer(settings, isolation_level="read_uncommitted")
    try:
        await client.start()
        first = await client.beginning_offsets(parts)
        end = await client.end_offsets(parts)
    finally:
        await let_go(client)
    return {at.partition: (first[at], end[at]) for at in parts}


class LogReader:
    """The records of one partition, in order."""

    def __init__(
        self,
        settings: KafkaSettings,
        partition: int,
        *,
        silent_seconds: float = SILENT_SECONDS,
        topic: Topic = EVENTS,
    ) -> None:
        self.at = TopicPartition(topic_name(settings, topic), partition)
        self._settings = settings
        self._silent = silent_seconds

    @asynccontextmanager
    async def _started(self, *, check_crcs: bool = True) -> AsyncIterator[AIOKafkaConsumer]:
        client = consumer(
            self._settings,
            isolation_level="read_uncommitted",
            check_crcs=check_crcs,
            max_partition_fetch_bytes=_FETCH_BYTES,
            fetch_max_wait_ms=100,
        )
        try:
            await client.start()
            hand_out_parsed(client)
            client.assign([self.at])
            yield client
        finally:
            await let_go(client)

    async def read(self, end: int, first: int = 0) -> AsyncGenerator[list[Any], None]:
        """The records from `first` up to, not including, `end`, in batches. Raises `LogUnreadable` and `KafkaError`.

        Close it (`aclosing`) whatever happens: a client that is left to the end of its loop can keep that from ending.
        """
        position = first
        if position >= end:
            return
        async with self._started() as client:
            client.seek(self.at, first)
            while position < end:
                try:
                    batch = await self._batch(client, position)
                except CorruptRecordException:
                    async with aclosing(self._until_bad(position, end)) as sound:
                        async for whole in sound:
                            yield whole
                    return
                position = batch[-1].offset + 1
                if position > end:
                    batch = [record for record in batch if record.offset < end]
                if batch:
                    yield batch

    async def _batch(self, client: AIOKafkaConsumer, position: int, at_most: int = _BATCH) -> list[Any]:
        try:
            async with asyncio.timeout(self._silent):
                while True:
                    found = await client.getmany(self.at, timeout_ms=1000, max_records=at_most)
                    if found.get(self.at):
                        return list(found[self.at])
        except TimeoutError:
            detail = f"the broker has a record at offset {position} and did not hand it out in {self._silent:.0f} s"
            raise LogUnreadable(position, detail, checksum=False) from None

    async def _until_bad(self, position: int, end: int) -> AsyncGenerator[list[Any], None]:
        """One record at a time up to the batch whose checksum is wrong. Raises `LogUnreadable` there."""
        async with self._started() as client:
            client.seek(self.at, position)
            while position < end:
                try:
                    batch = await self._batch(client, position, 1)
                except CorruptRecordException:
                    detail = "the bytes of a batch do not fit its checksum"
                    raise LogUnreadable(position, detail, checksum=True) from None
                position = batch[-1].offset + 1
                if batch[0].offset < end:
                    yield batch

    async def unchecked(self, position: int) -> list[Any]:
        """What can be read of the batch at `position` without looking at its checksum; empty where nothing can."""
        with contextlib.suppress(KafkaError, TimeoutError, ValueError, IndexError):
            async with asyncio.timeout(self._silent), self._started(check_crcs=False) as client:
                client.seek(self.at, position)
                while True:
                    found = await client.getmany(self.at, timeout_ms=500, max_records=1_000)
                    if found.get(self.at):
                        return list(found[self.at])
        return []
