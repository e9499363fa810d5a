"""Follows the newest records of a topic: all partitions, from the end, no group.

It promises nothing about what it missed: whoever reads it fills gaps from elsewhere. So it rests while nobody listens, and
after trouble it goes on where it was, or at the end where that place is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from adapters.kafka import consumer, topic_name
from adapters.settings import KafkaSettings
from schemas.topics import Topic

Records = Sequence[Any]
"""aiokafka's ConsumerRecord, of one partition, in order."""

_log = structlog.get_logger(__name__)


class Tail:
    """One topic, followed while `wanted` is set."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: Topic,
        wanted: asyncio.Event,
        receive: Callable[[int, Records], None],
    ) -> None:
        self._settings = settings
        self._topic = topic_name(settings, topic)
        self._partitions = [TopicPartition(self._topic, number) for number in range(topic.partitions)]
        self._wanted = wanted
        self._receive = receive
        self._positions: dict[TopicPartition, int] = {}
        self._stuck = False
        self.following = asyncio.Event()
        """Set while records are being received as they come."""

    def restart(self) -> None:
        """The client seems stuck: use another one, from where this one was."""
        self._stuck = True

    async def run(self) -> None:
        """Follow for ever; connection trouble is waited out."""
        delay = 0.1
        while True:
            await self._wanted.wait()
            reader = consumer(self._settings, fetch_max_wait_ms=500)
            try:
                await reader.start()
                reader.assign(self._partitions)
                await self._seek(reader)
                delay = 0.1
                await self._follow(reader)
            except (KafkaError, OSError, TimeoutError) as error:
                _log.warning("the tail of a topic is interrupted", topic=self._topic, error=repr(error))
                await asyncio.sleep(delay)
                delay = min(2.0, delay * 2)
            finally:
                self.following.clear()
                await reader.stop()

    async def _seek(self, reader: AIOKafkaConsumer) -> None:
        ends = await reader.end_offsets(self._partitions)
        for partition in self._partitions:
            end = ends[partition]
            reader.seek(partition, min(end, self._positions.get(partition, end)))

    async def _follow(self, reader: AIOKafkaConsumer) -> None:
        self.following.set()
        while True:
            try:
                batches = await reader.getmany(timeout_ms=1000, max_records=5000)
            except OffsetOutOfRangeError as error:
                # Retention overtook us, or the topic is shorter than it was.
                _log.warning("records of a topic are passed over", topic=self._topic, error=repr(error))
                self._positions.clear()
                await self._seek(reader)
                continue
            for partition, records in batches.items():
                self._positions[partition] = records[-1].offset + 1
                self._receive(partition.partition, records)
            if batches:
                await asyncio.sleep(0)  # A long backlog must not keep the sockets waiting.
            if self._stuck:
                _log.warning("the tail of a topic begins anew", topic=self._topic)
                self._stuck = False
                return
            if not self._wanted.is_set():
                # Positions that nobody waited for are no use later: the next listener starts at the end.
                self._positions.clear()
                return
