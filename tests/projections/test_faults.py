"""Whatever dies, restarts, comes twice or comes late: the rows are the fold of the log, and readers miss nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaTimeoutError
from pydantic import SecretStr

from adapters.kafka import client_options, topic_name
from adapters.settings import KafkaSettings, Settings
from domain import workspace
from projections import flow, jobs_table, judging, log_check, partition, trouble
from projections import projector as projector_module
from projections.kafka_clients import PartitionReader, ends_of
from projections.log_check import LogDiverged, complete
from projections.ownership import Ownership
from schemas.facts import VERSION_HEADER, WORKSPACE_HEADER
from schemas.topics import EVENTS, FACTS, JOBS, Topic
from storm.proxy import Proxy
from tests.projections.fold import compare, fold_of, published_facts, stored
from tests.projections.platform import DEADLINE, Log, Said, project, projecting, projector_process, until
from tests.projections.records import Written, one_job, stream
from tests.projections.test_projector import check_everything, wrong_rows_of_the_table
from tests.projections.wire import CuttingProxy
from tests.servers import delete_topic

WORKSPACES = [f"team-{number}" for number in range(6)]


async def _stored_records(log: Log) -> int:
    return int(await log.database.fetchval("SELECT coalesce(sum(next_offset), 0) FROM log.cursors"))


async def test_killed_at_any_moment_under_load_it_loses_and_doubles_nothing(log: Log) -> None:
    chance = random.Random(5)
    for seed in range(5):
        await log.write(stream(seed, WORKSPACES, 1_500))
        goal = await _stored_records(log) + chance.randrange(1, 1_400)
        async with projector_process(log) as process:

            async def moved(goal: int = goal) -> bool:
                return await _stored_records(log) >= goal

            await until(moved)
            process.kill()
    await project(log)

    async def rows_are_repaired() -> bool:
        return await wrong_rows_of_the_table(log) == []

    # Rows that a kill kept from the table are found by the next projector, which reads the table beside its other work.
    async with projecting(log.settings):
        await until(rows_are_repaired)
    await check_everything(log)


async def test_a_database_that_is_away_when_it_starts_or_frozen_when_it_ends_is_no_reason_to_hang(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, proxy = Said(trouble, monkeypatch), Proxy()
    await proxy.start()
    url = log.settings.database.url
    through = log.settings.model_copy(deep=True)
    server = urlsplit(url.get_secret_value())
    assert server.hostname is not None
    assert server.port is not None
    address = f"{server.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}"
    through.database.url = SecretStr(urlunsplit(server._replace(netloc=address, query="sslmode=disable")))
    monkeypatch.setattr(projector_module, "_STOP_SECONDS", 0.1)
    monkeypatch.setattr(projector_module, "_TICK_SECONDS", DEADLINE)  # So that its own session has nothing to ask.
    await log.write(one_job("team"))
    async with projecting(through):
        await said.until("the locks of the partitions are lost")
        proxy.target = server.hostname, server.port
        await log.stored_to_the_end()
        async with log.database.transaction():
            await log.database.execute("LOCK TABLE log.journal IN ACCESS EXCLUSIVE MODE")
            await log.write(one_job("team"))
            await until(lambda: _waits_for_a_lock(log))
            proxy.requests.clear()
            proxy.replies.clear()
    await proxy.stop()
    monkeypatch.undo()
    await project(log)
    await check_everything(log)


async def _waits_for_a_lock(log: Log) -> bool:
    return bool(
        await log.database.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    )


@pytest.mark.parametrize("when", ["before the commit", "before its answer"])
async def test_a_connection_cut_at_commit_leaves_the_rows_whole(log: Log, when: str) -> None:
    await log.write(stream(7, WORKSPACES, 2_000))
    async with CuttingProxy(log.settings.database.url.get_secret_value(), when, cuts=6) as proxy:
        through = log.settings.model_copy(deep=True)
        through.database.url = SecretStr(proxy.url)
        async with projecting(through):
            await log.write(stream(8, WORKSPACES, 500))
            await log.stored_to_the_end()
        assert proxy.cuts_left == 0
    await check_everything(log)


async def test_sessions_that_the_server_ends_are_made_anew(log: Log, postgres_server: str) -> None:
    async with projecting(log.settings):
        for seed in range(6):
            await log.write(stream(seed, WORKSPACES, 300))
            await log.database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'ravand-projector%'"
            )
        await log.stored_to_the_end()
    await check_everything(log)


async def test_two_that_both_believe_a_partition_theirs_cannot_both_write_it(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def quota(self: Ownership) -> int:
        return 12

    async def take(self: Ownership, count: int, unwanted: Any) -> list[int]:
        self.owned = set(range(12))
        return sorted(self.owned) if count else []

    monkeypatch.setattr(Ownership, "quota", quota)
    monkeypatch.setattr(Ownership, "take", take)
    async with projecting(log.settings), projecting(log.settings):
        for seed in range(4):
            await log.write(stream(seed, WORKSPACES, 400))
            await log.stored_to_the_end()
    await check_everything(log)


@pytest.mark.parametrize(("records", "keys"), [(1, 12), (7, 12), (100, 8_000), (1_000, 24)])
async def test_any_size_of_batches_and_of_memory_gives_the_same_rows(
    log: Log, monkeypatch: pytest.MonkeyPatch, records: int, keys: int
) -> None:
    monkeypatch.setattr(flow, "BATCH_RECORDS", records)
    monkeypatch.setattr(projector_module, "MEMORY_KEYS", keys)
    monkeypatch.setattr(judging, "SLICE", 3)
    await log.write(stream(11, WORKSPACES[:3], 300 if records == 1 else 1_500))
    await project(log)
    await check_everything(log)


async def test_a_partition_that_this_build_cannot_judge_stops_alone_and_a_mended_one_goes_on(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = stream(3, WORKSPACES, 900)
    planted = [record for record in records if record.key == b"team-0"][40]
    sound = workspace.judge

    def buggy(folded: workspace.Workspace, *, id: str, **rest: Any) -> Any:
        verdict = sound(folded, id=id, **rest)
        if f'"id":"{id}"'.encode() in (planted.value or b"") and folded.id == "team-0":
            raise ZeroDivisionError("planted")
        return verdict

    monkeypatch.setattr(judging, "judge", buggy)
    said, judging_said = Said(projector_module, monkeypatch), Said(partition, monkeypatch)
    await log.write(records)
    ends = await log.ends(EVENTS)
    in_log = next(record for record in await log.read(EVENTS) if record.value == planted.value)
    async with projecting(log.settings) as running:

        async def all_but_one() -> bool:
            assert not running.done(), running.exception()
            rows = await log.database.fetch("SELECT partition, next_offset FROM log.cursors")
            found = {row[0]: row[1] for row in rows}
            return found == {**ends, in_log.partition: in_log.offset}

        await until(all_but_one)
        [stopped] = await said.until("the partition stands still")
        assert (stopped["partition"], stopped["offset"]) == (in_log.partition, in_log.offset)
        assert stopped["error"] == "ZeroDivisionError: planted"
        assert len(judging_said.of("a record cannot be judged")) == 1
        compare(
            fold_of(
                record
                for record in await log.read(EVENTS)
                if record.partition != in_log.partition or record.offset < in_log.offset
            ),
            await stored(log.database),
        )
    monkeypatch.undo()
    await project(log)
    await check_everything(log)


STRANGE_ROWS = [
    Written(b"job", b"{}"),
    Written(b"\xff", b"{}", ((VERSION_HEADER, b"1"), (WORKSPACE_HEADER, b"team"))),
    Written(b"job", b"{}", ((VERSION_HEADER, b"first"), (WORKSPACE_HEADER, b"team"))),
    Written(b"job", b"{}", ((VERSION_HEADER, None), (WORKSPACE_HEADER, b"team"))),
    Written(b"job", b"{}", ((VERSION_HEADER, b"1"), (WORKSPACE_HEADER, None))),
]


async def test_a_late_row_of_somebody_suspended_is_put_right_also_among_rows_that_nobody_can_read(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Said(jobs_table, monkeypatch)
    [*begun, _end] = one_job("team", epochs=3)
    await log.write(begun[:3])
    async with projecting(log.settings):
        await log.stored_to_the_end()
        old = (await until(lambda: _rows(log, b'"epoch":0')))[-1]
        await log.write(begun[3:])
        new = (await until(lambda: _rows(log, b'"epoch":3')))[-1]
        for strange in STRANGE_ROWS:
            await _publish(log, JOBS, new.partition, strange)
        await _publish(log, JOBS, new.partition, Written(new.key, old.value, tuple(old.headers)))
        late = new.offset + len(STRANGE_ROWS) + 1

        async def put_right() -> bool:
            *_, last = await log.read(JOBS, [new.partition])
            return bool(last.value == new.value and last.offset > late)

        await until(put_right)
    told = said.of("a row that is not ours is passed over")
    assert [line["offset"] for line in told] == list(range(new.offset + 1, late))
    assert {line["partition"] for line in told} == {new.partition}


async def _rows(log: Log, last: bytes) -> list[Any] | None:
    """The rows of the table, once the last one says this."""
    found = await log.read(JOBS)
    return found if found and last in (found[-1].value or b"") else None


async def test_rows_that_were_lost_or_overwritten_while_nobody_ran_are_put_right_at_the_start(log: Log) -> None:
    over = one_job("team", epochs=2)
    [*open_, _end] = one_job("team", epochs=2)
    await log.write([*over, *open_])
    await project(log)
    rows = {record.key: record for record in await log.read(JOBS)}
    finished, running = sorted(rows.values(), key=lambda record: record.value is not None)
    await _delete(log, JOBS)
    # An open row of a job that is over, and none of the one that is open.
    stale = ((VERSION_HEADER, b"2"), (WORKSPACE_HEADER, b"team"))
    await _publish(log, JOBS, finished.partition, Written(finished.key, running.value, stale))
    async with projecting(log.settings):

        async def put_right() -> bool:
            last = {record.key: record.value for record in await log.read(JOBS)}
            return last == {finished.key: None, running.key: running.value}

        await until(put_right)


async def test_facts_that_the_broker_lost_are_published_again_from_the_journal(log: Log) -> None:
    await log.write(stream(2, WORKSPACES, 500))
    await project(log)
    before = await published_facts(await log.read(FACTS))
    await _delete(log, FACTS)
    await log.write(stream(3, WORKSPACES, 10))
    await project(log)
    after = await published_facts(await log.read(FACTS))
    assert before.items() <= after.items()
    await check_everything(log)


async def test_what_the_broker_refuses_to_take_is_published_once_it_takes_it(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Said(trouble, monkeypatch)
    async with projecting(log.settings):
        await _limit(log, FACTS, "100")

        async def refused() -> list[dict[str, Any]]:
            await log.write(one_job("team", epochs=1))  # The broker may not have heard of its new limit yet.
            return said.of("Kafka is away")

        [told] = await until(refused)
        assert "MessageSizeTooLarge" in told["error"]
        await _limit(log, FACTS, str(2**20))

        expected = fold_of(await log.read(EVENTS))["facts"]

        async def published() -> bool:
            return await published_facts(await log.read(FACTS)) == expected

        await until(published)
        await log.stored_to_the_end()
    await check_everything(log)


async def _limit(log: Log, topic: Topic, most: str) -> None:
    """How long a batch of this topic may be."""
    name, config = topic_name(log.settings.kafka, topic), {**topic.config, "max.message.bytes": most}
    async with _admin(log.settings) as admin:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, config)])


class TestALogThatIsNotWhatTheJournalSays:
    """Completed where it is shorter; where it differs, everything stops."""

    @pytest.mark.parametrize("kept", [0, 1, 20])
    async def test_a_log_that_lost_its_tail_is_completed_from_the_journal(self, log: Log, kept: int) -> None:
        nothing = Written(None, None, (), 3)
        await log.write([*stream(4, WORKSPACES, 400), nothing, *stream(6, WORKSPACES, 20)])
        await project(log)
        whole = await log.read(EVENTS)
        rows = await stored(log.database)
        await _delete(log, EVENTS)
        await _rewrite(log, [record for record in whole if record.offset < kept])
        async with projecting(log.settings):
            await until(lambda: _holds(log, whole))
            await log.write(stream(5, WORKSPACES, 50))
            await log.stored_to_the_end()
        after = await stored(log.database)
        assert rows["journal"].items() <= after["journal"].items()

    async def test_a_tail_is_not_taken_for_whole_where_the_broker_is_late_to_show_what_precedes_it(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await log.write(stream(4, WORKSPACES, 400))
        await project(log)
        whole = await log.read(EVENTS)
        await _delete(log, EVENTS)
        await _rewrite(log, [record for record in whole if record.offset < 5])
        with monkeypatch.context() as patience:
            patience.setattr(log_check, "_READ_SECONDS", 0.0)
            with pytest.raises(KafkaTimeoutError, match="offset 4"):
                await complete(log.settings.kafka, log.settings.database)
        lost = await complete(log.settings.kafka, log.settings.database)
        assert sum(lost.values()) == sum(record.offset >= 5 for record in whole)
        assert await _holds(log, whole)

    async def test_the_end_that_a_deposed_broker_remembers_is_not_believed(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was frozen while another one took over, and answers before it has heard of that."""
        await log.write(stream(4, WORKSPACES, 400))
        await project(log)
        whole = await log.read(EVENTS)
        asked: Counter[int] = Counter()
        bounds = PartitionReader.bounds

        async def remembered(reader: PartitionReader) -> tuple[int, int]:
            first, end = await bounds(reader)
            asked[reader.at.partition] += 1
            return first, end if asked[reader.at.partition] > 2 else max(first, end - 2)

        async def remembered_ends(kafka: KafkaSettings, partitions: Sequence[int]) -> dict[int, int]:
            return {partition: max(0, end - 2) for partition, end in (await ends_of(kafka, partitions)).items()}

        monkeypatch.setattr(PartitionReader, "copies", lambda self: 3)
        monkeypatch.setattr(PartitionReader, "bounds", remembered)
        monkeypatch.setattr(log_check, "ends_of", remembered_ends)
        monkeypatch.setattr(log_check, "_LOOK_AGAIN_SECONDS", 0.01)
        assert await complete(log.settings.kafka, log.settings.database) == {}
        assert asked
        assert max(asked.values()) > 2
        asked.clear()
        more = stream(5, WORKSPACES, 50)

        async def asked_again() -> bool:
            return max(asked.values(), default=0) > 2

        async with projecting(log.settings):
            await until(asked_again)
            await log.write(more)
            await log.stored_to_the_end()
        assert len(await log.read(EVENTS)) == len(whole) + len(more), "nothing was written again"
        await check_everything(log)

    async def test_a_tail_that_no_copy_has_is_completed_all_the_same(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await log.write(stream(4, WORKSPACES, 400))
        await project(log)
        whole = await log.read(EVENTS)
        await _delete(log, EVENTS)
        await _rewrite(log, [record for record in whole if record.offset < 5])
        monkeypatch.setattr(PartitionReader, "copies", lambda self: 3)
        monkeypatch.setattr(log_check, "_LOOK_AGAIN_SECONDS", 0.01)
        monkeypatch.setattr(log_check, "_DEPOSED_SECONDS", 0.1)
        lost = await complete(log.settings.kafka, log.settings.database)
        assert sum(lost.values()) == sum(record.offset >= 5 for record in whole)
        assert await _holds(log, whole)

    async def test_a_log_that_differs_stops_everything(self, log: Log) -> None:
        await log.write(stream(4, WORKSPACES, 200))
        await project(log)
        rows = await stored(log.database)
        whole = await log.read(EVENTS)
        await _delete(log, EVENTS)
        await _rewrite(log, [*whole[:-1], whole[0]] if whole[0].partition == whole[-1].partition else whole[::-1])
        with pytest.raises(LogDiverged, match="log_diverged"):
            async with projecting(log.settings) as running:
                await asyncio.wait({running}, timeout=DEADLINE)
        compare(rows, await stored(log.database))

    async def test_a_log_that_shrinks_while_it_runs_is_noticed_and_completed(self, log: Log) -> None:
        async with projecting(log.settings):
            await log.write(stream(4, WORKSPACES, 300))
            await log.stored_to_the_end()
            whole = await log.read(EVENTS)
            await _delete(log, EVENTS)

            await until(lambda: _holds(log, whole))
            await log.write(stream(9, WORKSPACES, 100))
            await log.stored_to_the_end()


async def test_a_consumer_that_gets_no_more_answers_is_built_anew(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[PartitionReader] = []
    sound = PartitionReader.records

    async def deaf_at_first(self: PartitionReader, *, at_most: int, seconds: float) -> list[Any]:
        if self not in made:
            made.append(self)
        if made.index(self) < 12:
            await asyncio.sleep(0.01)
            return []
        return await sound(self, at_most=at_most, seconds=seconds)

    monkeypatch.setattr(PartitionReader, "records", deaf_at_first)
    monkeypatch.setattr(PartitionReader, "last_answer_ms", lambda self: 0)
    monkeypatch.setattr(flow, "_STALLED_SECONDS", 1.0)
    await log.write(one_job("team"))
    await project(log)
    await check_everything(log)


async def _holds(log: Log, whole: list[Any]) -> bool:
    """Whether the log holds these records again, at the offsets that they had."""
    return [_bytes(record) for record in await log.read(EVENTS)] == [_bytes(record) for record in whole]


def _bytes(record: Any) -> tuple[Any, ...]:
    return record.partition, record.offset, record.key, record.value, tuple(record.headers)


async def _publish(log: Log, topic: Topic, partition: int, message: Written) -> None:
    await log.producer.send_and_wait(
        topic_name(log.settings.kafka, topic),
        message.value,
        key=message.key,
        partition=partition,
        headers=list(message.headers),
    )


async def _rewrite(log: Log, records: list[Any]) -> None:
    await log.write([Written(r.key, r.value, tuple(r.headers), r.partition) for r in records])


@contextlib.asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**client_options(settings.kafka))
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def _delete(log: Log, topic: Topic) -> None:
    """Empty a topic, as nothing but a loss of the broker's disk would."""
    name = topic_name(log.settings.kafka, topic)
    async with _admin(log.settings) as admin:
        await delete_topic(admin, name)

        async def made() -> bool:
            answer = await admin.create_topics([NewTopic(name, topic.partitions, 1, topic_configs=topic.config)])
            return bool(answer.topic_errors[0][1] == 0)

        await until(made)
        await until(lambda: _led(admin, name, topic.partitions))
    await log.producer.client.force_metadata_update()


async def _led(admin: AIOKafkaAdminClient, name: str, partitions: int) -> bool:
    [described] = await admin.describe_topics([name])
    return len(described["partitions"]) == partitions and all(p["leader"] >= 0 for p in described["partitions"])
