"""A record is repeated until the log has it, unless the log will never take it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError

from adapters.kafka import client_options, consumer
from adapters.settings import KafkaSettings
from tests.servers import delete_topic, kafka_settings_of
from workers.steady_producer import SteadyProducer


@pytest.fixture
def settings(kafka_settings: dict[str, str], topic_prefix: str) -> KafkaSettings:
    return kafka_settings_of(kafka_settings, topic_prefix)


@pytest.fixture
async def admin(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(**client_options(settings))
    await client.start()
    yield client
    await client.close()


async def topic_of(admin: AIOKafkaAdminClient, settings: KafkaSettings, **configs: str) -> str:
    """A topic with one partition and these options."""
    name = f"{settings.prefix}steady"
    options = {option.replace("_", "."): value for option, value in configs.items()}
    await admin.create_topics([NewTopic(name, 1, 1, topic_configs=options)])
    return name


async def values(settings: KafkaSettings, topic: str, count: int) -> list[bytes]:
    """The first so many values of the topic."""
    found: list[bytes] = []
    async with consumer(settings) as reading, asyncio.timeout(30):
        reading.assign([TopicPartition(topic, 0)])
        reading.seek(TopicPartition(topic, 0), 0)
        while len(found) < count:
            for records in (await reading.getmany(timeout_ms=500)).values():
                found += [record.value for record in records]
    return found


@asynccontextmanager
async def steady(settings: KafkaSettings) -> AsyncIterator[SteadyProducer]:
    producer = SteadyProducer(settings)
    try:
        yield producer
    finally:
        await producer.close()


@pytest.mark.parametrize("size", [20_000, 9 * 2**20], ids=["for the topic", "for any request"])
async def test_a_record_that_is_too_large_is_refused_and_the_next_one_is_written(
    settings: KafkaSettings, admin: AIOKafkaAdminClient, size: int
) -> None:
    topic = await topic_of(admin, settings, max_message_bytes="10000")
    async with steady(settings) as producer:
        with pytest.raises(MessageSizeTooLargeError):
            await producer.append(topic, key=b"k", value=b"x" * size)
        await producer.append(topic, key=b"k", value=b"next")
    assert await values(settings, topic, 1) == [b"next"]


async def test_what_the_broker_refuses_is_said_and_repeated_until_it_takes_it(
    settings: KafkaSettings, admin: AIOKafkaAdminClient
) -> None:
    # No record is young enough for this topic but one that arrives in the millisecond in which it was made.
    topic = await topic_of(admin, settings, message_timestamp_before_max_ms="0")
    async with steady(settings) as producer:
        sent = 0
        async with asyncio.timeout(30):
            while not producer._silent:
                appending = asyncio.create_task(producer.append(topic, key=b"k", value=b"value"))
                sent += 1
                while not (producer._silent or appending.done()):  # noqa: ASYNC110 — There is nothing to be told by.
                    await asyncio.sleep(0.01)
        assert not appending.done()
        patient = {"message.timestamp.before.max.ms": "60000"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, patient)])
        async with asyncio.timeout(30):
            await appending
        assert not producer._silent
    assert await values(settings, topic, sent) == [b"value"] * sent


async def test_while_no_broker_is_there_it_says_so_and_goes_on_trying() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # And does not listen.
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        async with steady(KafkaSettings(bootstrap_servers=address)) as producer:
            appending = asyncio.create_task(producer.append("topic", key=b"k", value=b"v"))
            async with asyncio.timeout(30):
                while not producer._silent:  # noqa: ASYNC110 — There is nothing to be told by.
                    await asyncio.sleep(0.01)
            assert not appending.done()
            appending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await appending


async def test_a_record_that_waits_is_repeated_when_the_producer_was_given_up_for_another(
    settings: KafkaSettings, admin: AIOKafkaAdminClient
) -> None:
    topic = await topic_of(admin, settings)
    async with steady(settings) as producer:
        await producer.append(topic, key=b"k", value=b"before")
        await delete_topic(admin, topic)  # What the producer knows, and the broker does not: it repeats for ever.
        appending = asyncio.create_task(producer.append(topic, key=b"k", value=b"value"))
        shared = await producer._ready()
        async with asyncio.timeout(30):
            # Or it has heard already that there is no such topic, and was given up for that.
            while not shared._message_accumulator._batches and producer._producer is shared:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        producer._retire(shared)
        await asyncio.wait(producer._closing)
        await topic_of(admin, settings)
        async with asyncio.timeout(60):
            await appending
    assert await values(settings, topic, 1) == [b"value"]
