"""The API's followers of a topic, over a real broker."""

from __future__ import annotations

import asyncio

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from adapters.kafka import client_options, topic_name
from api.live.tail import Records, Tail
from schemas.topics import FACTS
from tests.projections.platform import Log, until


async def test_one_whose_place_retention_has_taken_goes_on_at_the_end(log: Log) -> None:
    topic, wanted = topic_name(log.settings.kafka, FACTS), asyncio.Event()
    heard: list[bytes | None] = []

    def receive(_partition: int, records: Records) -> None:
        heard.extend(record.value for record in records)

    for number in range(3):
        await log.producer.send_and_wait(topic, b"old %d" % number, partition=0)
    tail = Tail(log.settings.kafka, FACTS, wanted, receive)
    tail._positions[TopicPartition(topic, 0)] = 0  # Where it stood when it was last wanted.
    admin = AIOKafkaAdminClient(**client_options(log.settings.kafka))
    await admin.start()
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=3)})
    await admin.close()
    wanted.set()
    following = asyncio.create_task(tail.run())
    try:

        async def told() -> bool:
            if not heard:  # It may not stand at the end yet, and promises nothing about what it missed.
                await log.producer.send_and_wait(topic, b"new", partition=0)
            return bool(heard)

        await until(told)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert set(heard) == {b"new"}
