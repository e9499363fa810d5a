"""Records that are handed out a batch at a time are those that aiokafka would have handed out one by one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException

from adapters.kafka import client_options, consumer, let_go, producer, topic_name
from adapters.parsed_records import hand_out_parsed
from adapters.settings import KafkaSettings
from adapters.topics import create_topics
from schemas.topics import EVENTS
from tests.servers import kafka_settings_of

COUNT = 1_000


@pytest.fixture
async def log(kafka_settings: dict[str, str], topic_prefix: str) -> KafkaSettings:
    """A log with a thousand records in batches of 30 in one partition."""
    settings = kafka_settings_of(kafka_settings, topic_prefix)
    await create_topics(settings)
    async with producer(settings) as client:
        for first in range(0, COUNT, 30):
            batch = client.create_batch()
            for number in range(first, min(first + 30, COUNT)):
                headers = [("number", str(number).encode())]
                batch.append(key=b"key", value=str(number).encode(), timestamp=None, headers=headers)
            await (await client.send_batch(batch, topic_name(settings, EVENTS), partition=0))
    return settings


@asynccontextmanager
async def reading(settings: KafkaSettings, first: int = 0, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
    client = consumer(settings, **options)
    await client.start()
    try:
        hand_out_parsed(client)
        at = TopicPartition(topic_name(settings, EVENTS), 0)
        client.assign([at])
        client.seek(at, first)
        yield client
    finally:
        await let_go(client)


async def _some(client: AIOKafkaConsumer, at_most: int | None) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(10):
        while not found:
            for records in (await client.getmany(timeout_ms=1_000, max_records=at_most)).values():
                found += records
    return found


async def _values(client: AIOKafkaConsumer, count: int, at_most: int | None) -> list[int]:
    values: list[int] = []
    at = TopicPartition(next(iter(client.assignment())).topic, 0)
    while len(values) < count:
        found = await _some(client, at_most)
        assert at_most is None or len(found) <= at_most
        assert [record.headers for record in found] == [[("number", record.value)] for record in found]
        values += [int(record.value) for record in found]
        assert await client.position(at) == found[-1].offset + 1
    return values


@pytest.mark.parametrize("at_most", [1, 7, 30, 31, 400, None])
@pytest.mark.parametrize("first", [0, 13, 60, 999])
async def test_each_is_handed_out_once_and_in_order(log: KafkaSettings, first: int, at_most: int | None) -> None:
    async with reading(log, first) as client:
        assert await _values(client, COUNT - first, at_most) == list(range(first, COUNT))


async def test_nothing_is_left_of_what_was_handed_out(log: KafkaSettings) -> None:
    """Not even for the garbage collector, which runs seldom where millions of records are folded."""
    async with reading(log, max_partition_fetch_bytes=3_000) as client:
        gc.collect()
        gc.disable()
        try:
            assert await _values(client, COUNT, 7) == list(range(COUNT))
            alive = [type(one) for one in gc.get_objects()]
        finally:
            gc.enable()
    # Only the last answer, of which nobody has asked yet whether there is more in it.
    assert max(alive.count(FetchResult), alive.count(PartitionRecords)) <= 1


async def test_another_position_is_heeded_in_the_middle_of_a_batch(log: KafkaSettings) -> None:
    at = TopicPartition(topic_name(log, EVENTS), 0)
    async with reading(log) as client:
        assert [int(record.value) for record in await _some(client, 7)] == list(range(7))
        client.seek(at, 500)
        assert [int(record.value) for record in await _some(client, 7)] == list(range(500, 507))
        client.seek(at, 3)
        assert await _values(client, COUNT - 3, 100) == list(range(3, COUNT))


async def test_what_a_transaction_took_back_is_left_out(log: KafkaSettings) -> None:
    topic = topic_name(log, EVENTS)
    options = {"transactional_id": f"{log.prefix}writer", "enable_idempotence": True, "acks": "all"}
    async with AIOKafkaProducer(**client_options(log), **options) as client:
        for word, is_kept in ((b"first", True), (b"taken back", False), (b"second", True)):
            await client.begin_transaction()
            for _ in range(3):
                await client.send_and_wait(topic, word, partition=0)
            await (client.commit_transaction() if is_kept else client.abort_transaction())
    async with reading(log, COUNT) as client:
        kept = await _some(client, 2)
        while len(kept) < 6:
            kept += await _some(client, 2)
        assert [record.value for record in kept] == [b"first"] * 3 + [b"second"] * 3
    async with reading(log, COUNT, isolation_level="read_uncommitted") as client:
        everything = await _some(client, 100)
        while len(everything) < 9:
            everything += await _some(client, 100)
        assert [record.value for record in everything][3:6] == [b"taken back"] * 3


async def test_a_batch_whose_checksum_is_wrong_is_an_error_each_time(
    log: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reading(log, 45) as client:
        assert len(await _some(client, 3)) == 3

        def next_is_damaged(records: Any) -> None:
            sound = records.next_batch

            def damaged() -> Any:
                batch = sound()
                monkeypatch.setattr(batch, "validate_crc", lambda: False, raising=False)
                return batch

            monkeypatch.setattr(records, "next_batch", damaged)

        [prefetched] = client._fetcher._records.values()
        next_is_damaged(prefetched._partition_records._records)
        assert len(await _some(client, 12)) == 12
        with pytest.raises(CorruptRecordException):
            await _some(client, 12)
        # What was fetched is thrown away, and fetched anew.
        assert [int(record.value) for record in await _some(client, 5)] == list(range(60, 65))
