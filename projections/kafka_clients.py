"""The projector's Kafka clients, and how to be rid of one that can no longer be trusted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from adapters.kafka import abandon, consumer, let_go, producer, topic_name
from adapters.parsed_records import hand_out_parsed
from adapters.settings import KafkaSettings
from projections.publishing import Publisher
from schemas.topics import EVENTS, Topic

FETCH_BYTES = 2 * 1024 * 1024
"""What one answer of the broker may hold of a partition: some 2,400 records of 755 bytes, so also a batch's size."""
_BATCH_BYTES = 768 * 1024
"""Of one batch that is sent: below the megabyte that a broker takes if nobody told it otherwise. Each costs half a millisecond."""


class Producers:
    """One idempotent producer that all partitions share; after any failed send it is replaced, never used again.

    aiokafka counts a batch that it gave up on, and what follows it would be out of sequence.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._publisher: Publisher | None = None
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def publisher(self) -> Publisher:
        """The one in use, started if there is none. Raises `KafkaError`."""
        async with self._starting:
            if self._publisher is None:
                fresh = producer(self._settings, max_batch_size=_BATCH_BYTES)
                try:
                    await fresh.start()
                except BaseException:
                    await abandon(fresh)
                    raise
                self._producer, self._publisher = fresh, Publisher(fresh, self._settings)
            return self._publisher

    async def discard(self, publisher: Publisher) -> None:
        """Something sent through it failed: nobody sends anything more through it."""
        if self._publisher is publisher:
            failed, self._publisher, self._producer = self._producer, None, None
            if failed is not None:
                await abandon(failed)

    async def close(self) -> None:
        """At the end."""
        self._publisher = None
        if self._producer is not None:
            await abandon(self._producer)


async def ends_of(settings: KafkaSettings, partitions: Sequence[int]) -> dict[int, int]:
    """The offsets that the next records of these partitions of the log will get. Raises `KafkaError`."""
    parts = [TopicPartition(topic_name(settings, EVENTS), partition) for partition in partitions]
    client = consumer(settings)
    try:
        await client.start()
        return {at.partition: end for at, end in (await client.end_offsets(parts)).items()}
    finally:
        await client.stop()


class PartitionReader:
    """A consumer of one partition, read from positions that are ours to keep.

    One for each partition: a shared one has a single fetch under way at a time, and whatever arrives in a partition
    that this fetch does not cover, since it had just been read, would wait for its end, up to half a second.
    """

    def __init__(
        self, settings: KafkaSettings, topic: Topic, partition: int, *, fetch_bytes: int = FETCH_BYTES
    ) -> None:
        self.at = TopicPartition(topic_name(settings, topic), partition)
        self._consumer: AIOKafkaConsumer = consumer(settings, max_partition_fetch_bytes=fetch_bytes)
        self._seen: set[Any] = set()

    async def start(self) -> None:
        """Connect. Raises `KafkaError`."""
        await self._consumer.start()
        hand_out_parsed(self._consumer)
        self._consumer.assign([self.at])

    async def close(self) -> None:
        """Let go of it, whatever state it is in."""
        await let_go(self._consumer)

    async def bounds(self) -> tuple[int, int]:
        """The first offset that the log still has, and the one that the next record will get."""
        first = await self._consumer.beginning_offsets([self.at])
        end = await self._consumer.end_offsets([self.at])
        return first[self.at], end[self.at]

    def seek(self, offset: int) -> None:
        """Read from there next."""
        self._consumer.seek(self.at, offset)

    async def position(self) -> int:
        """The offset after the last record that was handed out."""
        return int(await self._consumer.position(self.at))

    async def records(self, *, at_most: int, seconds: float) -> list[Any]:
        """What there is, as `adapters.parsed_records` says, waiting for the first at most so long. Raises `KafkaError`."""
        found = await self._consumer.getmany(self.at, timeout_ms=int(seconds * 1000), max_records=at_most)
        return list(found.get(self.at, ()))

    def last_answer_ms(self) -> int:
        """When the broker last answered a fetch, milliseconds since 1970; 0 if never."""
        return int(self._consumer.last_poll_timestamp(self.at) or 0)

    def highwater(self) -> int | None:
        """The end of the log as the last answer told it."""
        found = self._consumer.highwater(self.at)
        return int(found) if found is not None else None

    def copies(self) -> int:
        """How many brokers keep the partition, as the last metadata told."""
        known = self._consumer._client.cluster._partitions.get(self.at.topic, {}).get(self.at.partition)
        return len(known.replicas) if known is not None else 1

    def reconnected(self) -> bool:
        """Whether it is read through a connection that this was not asked about before: another broker may be behind it,
        or the same one after a loss of power. Connections to brokers that do not lead the partition do not matter."""
        client = self._consumer._client
        leader = client.cluster.leader_for_partition(self.at)
        now = {connection for (node, _), connection in client._conns.items() if node == leader}
        fresh = bool(now - self._seen)
        self._seen |= now
        return fresh
