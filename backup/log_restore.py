"""Writes the records of a backup to an empty log: the same bytes, at the same offsets, with the same times.

Partition after partition, in order, by an idempotent producer. Where an offset held no record of anybody (Kafka keeps the marks of
transactions there, should a foreign program have used one), an empty transaction leaves such a mark again. At the end
everything is read back and compared by the hash chain.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition

from adapters.kafka import abandon, producer, topic_name
from adapters.settings import KafkaSettings
from backup import record_file
from backup.manifest import BackupRefused, PartitionCut
from backup.record_file import Record
from projections.chain import GENESIS, link
from projections.kafka_clients import PartitionReader
from schemas.topics import EVENTS

Told = Callable[[int], None]
_BATCH_BYTES = 512 * 1024
_LARGE_BYTES = 64 * 1024 * 1024
"""Whoever compresses can put a longer value into the log than a batch of ours takes; so it is compressed again."""
_SILENT_SECONDS = 30.0


class LogRestore:
    """The producers, and what they write."""

    def __init__(self, settings: KafkaSettings, folder: Path, told: Told) -> None:
        self._settings, self._folder, self._told = settings, folder, told
        self._topic = topic_name(settings, EVENTS)
        self._clients = AsyncExitStack()
        self._plain: AIOKafkaProducer | None = None
        self._large: AIOKafkaProducer | None = None
        self._marks: AIOKafkaProducer | None = None

    async def __aenter__(self) -> LogRestore:
        self._plain = await self._started(max_batch_size=_BATCH_BYTES)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._clients.aclose()

    async def write(self, cut: PartitionCut) -> None:
        """One partition, from wherever an earlier try has left it. Raises `BackupRefused` and `KafkaError`."""
        end = await self._end(cut.partition)
        if end > cut.next_offset:
            raise BackupRefused(
                f"partition {cut.partition} of the log has {end} offsets, and the backup {cut.next_offset}: others write to it"
            )
        batch: Any = None
        place = end
        """The offset after the last record of the batch in hand."""
        for record in record_file.read(self._folder / cut.file):
            if record.offset < end:
                continue
            if record.offset > place:
                await self._send(cut.partition, batch, place)
                batch = None
                await self._leave_marks(cut.partition, place, record.offset)
                place = record.offset
            if _size(record) > _BATCH_BYTES:
                await self._send(cut.partition, batch, place)
                batch = None
                await self._send_large(cut.partition, record)
            elif batch is None or not _append(batch, record):
                await self._send(cut.partition, batch, place)
                batch = self._plain_batch()
                _append(batch, record)
            place = record.offset + 1
        await self._send(cut.partition, batch, place)

    async def read_back(self, cut: PartitionCut) -> None:
        """See that the log now holds what the backup does. Raises `BackupRefused` and `KafkaError`."""
        reader = PartitionReader(self._settings, EVENTS, cut.partition)
        chain, wanted = GENESIS, record_file.read(self._folder / cut.file)
        try:
            await reader.start()
            reader.seek(0)
            async for found in _records(reader, cut.next_offset):
                record = next(wanted, None)
                chain = link(chain, found.timestamp, found.key, found.value)
                if record is None or (found.offset, tuple(found.headers)) != (record.offset, record.headers):
                    raise BackupRefused(
                        f"partition {cut.partition}, offset {found.offset}: the log holds another record than the backup"
                    )
                self._told(1)
        finally:
            await reader.close()
        if chain.hex() != cut.chain or next(wanted, None) is not None:
            raise BackupRefused(f"partition {cut.partition}: the restored log does not end in the backup's hash")

    def _plain_batch(self) -> Any:
        assert self._plain is not None
        return self._plain.create_batch()

    async def _started(self, **options: Any) -> AIOKafkaProducer:
        client = producer(self._settings, **options)
        self._clients.push_async_callback(abandon, client)
        await client.start()
        return client

    async def _send(self, partition: int, batch: Any, place: int) -> None:
        """Send the batch in hand, whose last record must get the offset before `place`."""
        if batch is None or not (count := batch.record_count()):
            return
        assert self._plain is not None
        await self._acknowledged(self._plain, batch, partition, place - count)
        self._told(count)

    async def _send_large(self, partition: int, record: Record) -> None:
        if self._large is None:
            size = {"max_batch_size": _LARGE_BYTES, "max_request_size": 2 * _LARGE_BYTES}
            self._large = await self._started(compression_type="gzip", **size)
        batch = self._large.create_batch()
        _append(batch, record)
        await self._acknowledged(self._large, batch, partition, record.offset)
        self._told(1)

    async def _acknowledged(self, client: AIOKafkaProducer, batch: Any, partition: int, offset: int) -> None:
        sent = await (await client.send_batch(batch, self._topic, partition=partition))
        if sent.offset != offset:
            raise BackupRefused(
                f"partition {partition}: a record got the offset {sent.offset}, not {offset}: others write to the log"
            )

    async def _leave_marks(self, partition: int, first: int, end: int) -> None:
        """Fill offsets without records."""
        if self._marks is None:
            self._marks = await self._started(transactional_id=f"ravand-restore-{uuid.uuid4()}")
        at = TopicPartition(self._topic, partition)
        for offset in range(first, end):
            await self._marks.begin_transaction()
            self._marks._txn_manager.maybe_add_partition_to_txn(at)
            await self._marks.commit_transaction()
            if (reached := await self._end(partition)) != offset + 1:
                raise BackupRefused(
                    f"partition {partition}: offset {offset} held no record in the source, and cannot be left free here"
                    f" (the log ends at {reached})"
                )

    async def _end(self, partition: int) -> int:
        reader = PartitionReader(self._settings, EVENTS, partition)
        try:
            await reader.start()
            return (await reader.bounds())[1]
        finally:
            await reader.close()


def _size(record: Record) -> int:
    return sum(len(part or b"") for part in (record.key, record.value, *(value for _, value in record.headers)))


def _append(batch: Any, record: Record) -> bool:
    content = {"key": record.key, "value": record.value, "headers": list(record.headers)}
    return batch.append(timestamp=record.at, **content) is not None


async def _records(reader: PartitionReader, end: int) -> Any:
    while await reader.position() < end:
        async with asyncio.timeout(_SILENT_SECONDS):
            for record in await reader.records(at_most=2_000, seconds=1.0):
                yield record
