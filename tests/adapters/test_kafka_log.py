"""What the system rests on, on the real broker: topics as stated, one partition a key, the broker's time, no silent loss."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError
from aiokafka.partitioner import murmur2
from aiokafka.structs import ConsumerRecord

from adapters import kafka
from adapters.kafka import (
    Appender,
    Murmur2Partitioner,
    OutcomeUnknown,
    client_options,
    consumer,
    fail_waiting,
    partition_of,
    producer,
    topic_name,
)
from adapters.settings import KafkaSettings
from adapters.topics import MissingTopics, WrongTopics, check_topics, config_of, configs_of, create_topics
from ops.embedded import AskedPorts, choose_ports, kafka_of
from ops.kafka_server import KafkaServer
from ops.keeper import Keeper
from ops.state_folder import StateFolder
from schemas.topics import DEADLETTER, EVENTS, FACTS, HEARTBEATS, JOBS, TOPICS
from tests.servers import kafka_settings_of

LONGEST = 60.0


@pytest.fixture
def settings(kafka_settings: dict[str, str], topic_prefix: str) -> KafkaSettings:
    """An installation of its own on the broker that all share."""
    return kafka_settings_of(kafka_settings, topic_prefix)


@pytest.fixture
async def admin(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(**client_options(settings))
    await client.start()
    yield client
    await client.close()


@pytest.fixture
async def writing(settings: KafkaSettings) -> AsyncIterator[AIOKafkaProducer]:
    async with producer(settings) as client:
        yield client


async def read(settings: KafkaSettings, topic: str, partition: int, count: int) -> list[ConsumerRecord]:
    """The first so many records of a partition, and not one more."""
    async with consumer(settings) as reading:
        place = TopicPartition(topic, partition)
        reading.assign([place])
        reading.seek(place, 0)
        found: list[ConsumerRecord] = []
        async with asyncio.timeout(LONGEST):
            while len(found) < count:
                for records in (await reading.getmany(timeout_ms=500)).values():
                    found += records
            end = (await reading.end_offsets([place]))[place]
    assert end == len(found) == count
    return found


class TestTopics:
    async def test_they_are_created_as_stated(self, settings: KafkaSettings, admin: AIOKafkaAdminClient) -> None:
        created = await create_topics(settings)
        assert sorted(created) == sorted(topic_name(settings, topic) for topic in TOPICS)
        await check_topics(settings)
        described = {topic["topic"]: topic for topic in await admin.describe_topics(created)}
        for topic in TOPICS:
            found = described[topic_name(settings, topic)]
            assert len(found["partitions"]) == topic.partitions
            assert {len(partition["replicas"]) for partition in found["partitions"]} == {settings.replication_factor}

    async def test_the_log_is_kept_for_ever_and_never_compacted(
        self, settings: KafkaSettings, admin: AIOKafkaAdminClient
    ) -> None:
        await create_topics(settings)
        for topic in (EVENTS, DEADLETTER):
            name = topic_name(settings, topic)
            config = (await configs_of(admin, [name]))[name]
            assert config["cleanup.policy"] == "delete"
            assert (config["retention.ms"], config["retention.bytes"]) == ("-1", "-1")

    async def test_a_second_time_changes_nothing(self, settings: KafkaSettings, admin: AIOKafkaAdminClient) -> None:
        names = await create_topics(settings)
        before = await configs_of(admin, names)
        assert await create_topics(settings) == []
        assert await configs_of(admin, names) == before
        await check_topics(settings)

    async def test_two_at_once_do_not_disturb_each_other(self, settings: KafkaSettings) -> None:
        await asyncio.gather(create_topics(settings), create_topics(settings), create_topics(settings))
        await check_topics(settings)

    async def test_what_is_missing_is_named(self, settings: KafkaSettings) -> None:
        with pytest.raises(MissingTopics, match="ravand admin init") as refused:
            await check_topics(settings)
        assert all(f"topic {topic_name(settings, topic)} is missing" in str(refused.value) for topic in TOPICS)

    async def test_what_is_wrong_is_named_and_left_alone(
        self, settings: KafkaSettings, admin: AIOKafkaAdminClient
    ) -> None:
        events, facts, beats = (topic_name(settings, topic) for topic in (EVENTS, FACTS, HEARTBEATS))
        await admin.create_topics(
            [
                NewTopic(events, 3, 1, topic_configs={**EVENTS.config, "retention.ms": "604800000"}),
                NewTopic(facts, FACTS.partitions, 1, topic_configs={**FACTS.config, "cleanup.policy": "compact"}),
                # Only the order of a list differs: that is no difference.
                NewTopic(
                    beats,
                    HEARTBEATS.partitions,
                    1,
                    topic_configs={**HEARTBEATS.config, "cleanup.policy": "delete,compact"},
                ),
            ]
        )
        created = await create_topics(settings)
        assert events not in created
        with pytest.raises(WrongTopics) as refused:
            await check_topics(settings)
        assert not isinstance(refused.value, MissingTopics)
        for problem in (
            f"topic {events} has 3 partitions, not 12",
            f"topic {events} has retention.ms=604800000, not -1",
            f"topic {facts} has cleanup.policy=compact, not delete",
        ):
            assert problem in str(refused.value)
        assert beats not in str(refused.value)

    async def test_no_topic_comes_by_itself(
        self, settings: KafkaSettings, admin: AIOKafkaAdminClient, writing: AIOKafkaProducer
    ) -> None:
        name = settings.prefix + "nobody-made-it"
        with pytest.raises(OutcomeUnknown):
            await Appender(writing, deadline_seconds=1.0).append(name, key=b"k", value=b"v")
        assert name not in await admin.list_topics()

    async def test_replicated_topics_need_all_but_one(self, settings: KafkaSettings) -> None:
        three = settings.model_copy(update={"replication_factor": 3})
        assert config_of(three, EVENTS)["min.insync.replicas"] == "2"
        assert "min.insync.replicas" not in config_of(settings, EVENTS)


class TestPartitions:
    # From Kafka's own tests of its Java client (UtilsTest.testMurmur2).
    KAFKAS_OWN = (
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    )
    # Where they lie is where their history lies: this never changes.
    PINNED = (
        (b"system", 2),
        (b"0198c0de-0000-7000-8000-000000000001", 8),
        (b"0198c0de-0000-7000-8000-000000000002", 4),
        (b"workspace-1", 2),
        (b"a", 4),
        (b"", 9),
        (b"0", 8),
        (b"\xd9\x81\xd8\xb6\xd8\xa7", 5),
        (b"x" * 128, 3),
        (b"ravand", 6),
    )

    @pytest.mark.parametrize(("key", "expected"), KAFKAS_OWN)
    def test_the_hash_is_that_of_kafkas_java_client(self, key: bytes, expected: int) -> None:
        assert murmur2(key) & 0xFFFFFFFF == expected & 0xFFFFFFFF

    @pytest.mark.parametrize(("key", "partition"), PINNED)
    def test_keys_stay_where_they_are(self, key: bytes, partition: int) -> None:
        assert partition_of(key, 12) == partition

    def test_a_partition_that_is_away_is_waited_for(self) -> None:
        choose = Murmur2Partitioner()
        everywhere = list(range(12))
        home = partition_of(b"system", 12)
        assert choose(b"system", everywhere, [p for p in everywhere if p != home]) == home

    def test_nothing_is_written_without_a_key(self) -> None:
        with pytest.raises(ValueError, match="key"):
            Murmur2Partitioner()(None, [0], [0])

    async def test_the_producer_writes_a_key_where_readers_look_for_it(
        self, settings: KafkaSettings, writing: AIOKafkaProducer
    ) -> None:
        await create_topics(settings)
        topic = topic_name(settings, EVENTS)
        for key, _ in self.PINNED:
            await Appender(writing, LONGEST).append(topic, key=key, value=key)
        by_partition: dict[int, list[bytes]] = {}
        for key, partition in self.PINNED:
            by_partition.setdefault(partition, []).append(key)
        for partition, keys in by_partition.items():
            assert [record.key for record in await read(settings, topic, partition, len(keys))] == keys


class TestAppending:
    @pytest.fixture
    async def topic(self, settings: KafkaSettings) -> str:
        await create_topics(settings)
        return topic_name(settings, EVENTS)

    async def test_the_time_is_the_brokers(
        self, settings: KafkaSettings, writing: AIOKafkaProducer, topic: str
    ) -> None:
        await writing.send_and_wait(topic, b"v", key=b"k", partition=0, timestamp_ms=1)
        (record,) = await read(settings, topic, 0, 1)
        assert record.timestamp_type == 1
        assert record.timestamp > 1_600_000_000_000

    async def test_headers_and_tombstones_arrive(self, settings: KafkaSettings, writing: AIOKafkaProducer) -> None:
        await create_topics(settings)
        jobs = topic_name(settings, JOBS)
        headers = [("ravand_version", b"7"), ("ravand_version", b"8")]
        await Appender(writing, LONGEST).append(jobs, key=b"job", value=None, headers=headers, partition=0)
        (record,) = await read(settings, jobs, 0, 1)
        assert (record.value, list(record.headers)) == (None, headers)

    async def test_what_is_sent_without_waiting_keeps_its_order(
        self, settings: KafkaSettings, writing: AIOKafkaProducer, topic: str
    ) -> None:
        values = [b"%d" % n for n in range(2_000)]
        sent = [await writing.send(topic, value, key=b"k", partition=1) for value in values]
        await asyncio.gather(*sent)
        assert [record.value for record in await read(settings, topic, 1, len(values))] == values

    async def test_the_log_takes_no_record_beyond_its_size(
        self, settings: KafkaSettings, writing: AIOKafkaProducer, topic: str
    ) -> None:
        append = Appender(writing, LONGEST).append
        with pytest.raises(MessageSizeTooLargeError):
            await append(topic, key=b"k", value=b"x" * (1024 * 1024 + 1), partition=2)
        await append(topic, key=b"k", value=b"fits", partition=2)
        assert [record.value for record in await read(settings, topic, 2, 1)] == [b"fits"]

    async def test_large_rows_and_dead_letters_can_be_written_and_read(
        self, settings: KafkaSettings, writing: AIOKafkaProducer
    ) -> None:
        """Larger than what a reader fetches at once, which must not stop it."""
        await create_topics(settings)
        large = b"x" * (5 * 1024 * 1024)
        for topic in (JOBS, DEADLETTER):
            name = topic_name(settings, topic)
            await Appender(writing, LONGEST).append(name, key=b"k", value=large, partition=0)
            await Appender(writing, LONGEST).append(name, key=b"k", value=b"small", partition=0)
            assert [record.value for record in await read(settings, name, 0, 2)] == [large, b"small"]


def stands_still(pid: int) -> bool:
    """Whether every thread of the process is stopped."""
    states = (task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat"))
    return all(state == "T" for state in states)


class TestABrokerThatDoesNotAnswer:
    """On a broker of its own, since it is frozen."""

    @pytest.fixture
    async def broker(self, tmp_path: Path) -> AsyncIterator[Keeper]:
        state = StateFolder.open(tmp_path / "state")
        keeper = Keeper(kafka_of(state, choose_ports(state, AskedPorts())), state.logs)
        await keeper.start()
        yield keeper
        await keeper.stop()

    async def test_the_outcome_is_unknown_and_the_record_may_arrive_all_the_same(self, broker: Keeper) -> None:
        assert isinstance(broker.program, KafkaServer)
        assert broker.identity is not None
        settings = kafka_settings_of(broker.program.client_settings(), "frozen.")
        await create_topics(settings)
        topic = topic_name(settings, EVENTS)
        async with producer(settings) as writing:
            await Appender(writing, LONGEST).append(topic, key=b"k", value=b"before", partition=0)
            broker.identity.send(signal.SIGSTOP)
            # A process of many threads is not stopped at once, and one of them could still acknowledge.
            async with asyncio.timeout(LONGEST):
                while not stands_still(broker.identity.pid):  # noqa: ASYNC110 - another process's threads tell nobody
                    await asyncio.sleep(0.01)
            try:
                with pytest.raises(OutcomeUnknown, match=topic):
                    await Appender(writing, 1.0).append(topic, key=b"k", value=b"unknown", partition=0)
            finally:
                broker.identity.send(signal.SIGCONT)
            await Appender(writing, LONGEST).append(topic, key=b"k", value=b"after", partition=0)
        values = [record.value for record in await read(settings, topic, 0, 3)]
        assert values == [b"before", b"unknown", b"after"]


async def test_a_consumer_ends_while_a_fetch_of_it_pauses_after_an_error(settings: KafkaSettings) -> None:
    await create_topics(settings)
    reader = consumer(settings)
    await reader.start()
    at = TopicPartition(topic_name(settings, EVENTS), 0)
    reader.assign([at])
    reader.seek(at, 0)

    async def gone(*_: object, **__: object) -> None:
        raise KafkaConnectionError("gone")

    reader._client.send = gone
    pausing = asyncio.Event()
    fetch = reader._fetcher._proc_fetch_request

    async def failing(*arguments: object) -> object:
        asyncio.get_running_loop().call_later(0.02, pausing.set)
        return await fetch(*arguments)

    reader._fetcher._proc_fetch_request = failing
    async with asyncio.timeout(LONGEST):
        await pausing.wait()
    await reader.stop()
    assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]


async def test_a_consumer_that_had_just_been_started_ends_with_all_that_it_runs(settings: KafkaSettings) -> None:
    reader = consumer(settings)
    await reader.start()
    assert reader._client._sync_task is not None
    await reader.stop()
    assert reader._client._sync_task is None
    assert not any(connection.connected() for connection in reader._client._conns.values())


@pytest.mark.parametrize("sent_before", [False, True])
async def test_a_closed_producer_fails_those_who_wait_and_says_nothing_of_those_who_do_not(
    settings: KafkaSettings, sent_before: bool
) -> None:
    await create_topics(settings)
    heard: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    writer = producer(settings)
    await writer.start()
    await asyncio.sleep(0)
    await writer._sender.close()  # So that nothing is acknowledged.
    name = topic_name(settings, EVENTS)
    waited_for, given_up = [await writer.send(name, b"value", key=b"key", partition=0) for _ in range(2)]
    if sent_before:
        place, accumulator = TopicPartition(name, 0), writer._message_accumulator
        accumulator.reenqueue(accumulator._pop_batch(place))
    await writer.client.close()
    writer._closed = True
    fail_waiting(writer)
    with pytest.raises(KafkaConnectionError, match="closed before this was acknowledged"):
        await waited_for
    del waited_for, given_up, writer
    gc.collect()
    await asyncio.sleep(0)
    assert heard == []


async def test_clients_pause_between_looks_at_a_broker_that_is_away(settings: KafkaSettings) -> None:
    async with producer(settings) as writer, consumer(settings) as reader:
        for client in (writer.client, reader._client):
            tries, loop = 0, asyncio.get_running_loop()

            async def refused(*_: object, **__: object) -> None:
                nonlocal tries
                tries += 1

            connect, client._get_conn = client._get_conn, refused
            began = loop.time()
            while loop.time() - began < 0.5:
                assert not await client.force_metadata_update()
            assert tries <= 6, "at most every 0.05, 0.1, 0.2, 0.4 seconds"
            client._get_conn = connect
            assert await client.force_metadata_update()


async def test_the_rounds_of_a_password_are_computed_for_the_first_connection_alone(settings: KafkaSettings) -> None:
    kafka._salted.cache_clear()
    await create_topics(settings)
    async with producer(settings) as one, producer(settings) as other:
        for client in (one, other):
            await client.send_and_wait(topic_name(settings, EVENTS), b"value", key=b"key")
    known = kafka._salted.cache_info()
    assert known.misses == 1
    assert known.hits >= 2
