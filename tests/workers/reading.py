"""Reads a topic from its beginning, for a test that looks for something in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aiokafka import TopicPartition

from adapters import kafka
from adapters.settings import KafkaSettings
from schemas.topics import Topic


async def read_topic(settings: KafkaSettings, topic: Topic, *, key: str | None = None) -> AsyncIterator[Any]:
    """Every record (of one key), for ever: break off when enough was seen."""
    consumer = kafka.consumer(settings, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(kafka.topic_name(settings, topic), number) for number in range(topic.partitions)])
    await consumer.start()
    try:
        async for record in consumer:
            if key is None or record.key == key.encode():
                yield record
    finally:
        await consumer.stop()
