"""From a worker's record on the log to the sockets, over a real broker, database and projector."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed, InvalidStatus

from adapters.kafka import producer, topic_name
from schemas import telemetry
from schemas.facts import POSITION_HEADER
from schemas.topics import FACTS, TELEMETRY
from tests.api.live.real import Worker, assert_whole, socket_of, ticket_of, until_epoch, workspace_of
from tests.api.platform import Member, Platform, eventually, until_said

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def worker(platform: Platform, member: Member) -> AsyncIterator[Worker]:
    """A worker at a job of the member's."""
    job_id = await member.job()
    async with Worker(platform.settings, await workspace_of(platform, member), job_id).working() as working:
        yield working


async def test_a_job_is_told_from_its_request_to_its_epochs(platform: Platform, member: Member, worker: Worker) -> None:
    async with socket_of(platform, member) as client:
        await client.say(type="subscribe_job", job_id=worker.job_id, since=0)
        answer = await client.hear()
        assert answer["type"] == "subscribed"
        status = (await member.http.get("/api/train/status", params={"job_id": worker.job_id})).json()
        assert set(status) == set(answer["job"])
        await worker.epochs(3)
        updates: list[dict[str, object]] = []
        await until_epoch(client, 3, updates)
        assert [update["event"] for update in updates] == ["JobRequested", "AttemptStarted", *["EpochCompleted"] * 3]
        assert_whole(updates)
        assert updates[0]["status"] == "queued"
        assert (updates[-1]["status"], updates[-1]["progress"], updates[-1]["loss"]) == ("running", 100.0, 1 / 3)

        # What a client has seen, a read has too.
        status = (await member.http.get("/api/train/status", params={"job_id": worker.job_id})).json()
        assert (status["version"], status["epoch"]) == (updates[-1]["version"], 3)


async def test_resuming_at_every_cut_of_a_stream_misses_nothing(
    platform: Platform, member: Member, worker: Worker
) -> None:
    await worker.epochs(3)
    async with socket_of(platform, member) as client:
        await client.say(type="subscribe_job", job_id=worker.job_id, since=0)
        log = (await client.hear())["log"]
        story: list[dict[str, object]] = []
        await until_epoch(client, 3, story)
        for cut in range(story[-1]["version"] + 1):  # type: ignore[operator]
            await client.say(type="subscribe_job", job_id=worker.job_id, since=cut, log=log)
            assert (await client.hear())["type"] == "subscribed"
            left = [update for update in story if update["version"] > cut]  # type: ignore[operator]
            assert [await client.hear() for _ in left] == left
        await client.say(type="ping")
        assert (await client.hear())["type"] == "pong"


async def test_sockets_that_are_cut_again_and_again_see_the_whole_stream_once(
    platform: Platform, member: Member, worker: Worker
) -> None:
    async def follow(cut_after: int) -> list[dict[str, object]]:
        heard: list[dict[str, object]] = []
        since = 0
        while True:
            async with socket_of(platform, member) as client:
                await client.say(type="subscribe_job", job_id=worker.job_id, since=since)
                assert (await client.hear())["type"] == "subscribed"
                for _ in range(cut_after):
                    heard.append(await client.hear())
                    if heard[-1]["epoch"] == 3 and heard[-1]["event"] == "EpochCompleted":
                        return heard
                since = int(heard[-1]["version"])  # type: ignore[call-overload]
                client.connection.transport.abort()

    followers = [asyncio.create_task(follow(cut_after)) for cut_after in (1, 2, 3)]
    await worker.epochs(3)
    stories = await asyncio.gather(*followers)
    assert_whole(stories[0])
    assert stories[0] == stories[1] == stories[2]


async def test_another_members_job_is_unknown(platform: Platform, stranger: Member, worker: Worker) -> None:
    async with socket_of(platform, stranger) as client:
        await client.say(type="subscribe_job", job_id=worker.job_id, since=0)
        answer = await client.hear()
        assert (answer["type"], answer["code"]) == ("error", "not_found")
        await client.say(type="subscribe_jobs", since=0)
        assert (await client.hear())["version"] == 0
        await worker.epochs(1)
        await client.say(type="ping")
        assert (await client.hear())["type"] == "pong"


async def test_a_logout_closes_the_sockets_of_that_session_and_kills_its_tickets(
    platform: Platform, member: Member
) -> None:
    ticket = await ticket_of(member)
    async with socket_of(platform, member) as client:
        await client.say(type="ping")
        await client.hear()
        assert (await member.http.post("/api/auth/logout")).status_code == 204
        with pytest.raises(ConnectionClosed) as ended:
            await client.hear()
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 4401
    assert await status_of(platform, ticket) == 401
    assert (await member.http.post("/api/ws/ticket")).status_code == 401


async def test_sockets_of_a_session_that_ended_unheard_are_closed_though_that_could_not_be_read_at_first(
    platform: Platform, member: Member, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = await asyncpg.connect(platform.settings.database.url.get_secret_value())
    try:
        async with socket_of(platform, member) as client:
            await client.say(type="ping")
            await client.hear()
            await connection.execute(
                "UPDATE accounts.sessions SET ended_at = now() WHERE user_id = $1", member.user["id"]
            )
            await connection.execute("ALTER TABLE accounts.sessions RENAME TO sessions_away")
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'ravand-api-listener' AND datname = current_database()"
            )
            await until_said(capsys, "ended sessions could not be read")
            await connection.execute("ALTER TABLE accounts.sessions_away RENAME TO sessions")
            with pytest.raises(ConnectionClosed) as ended:
                await client.hear()
            assert ended.value.rcvd is not None
            assert ended.value.rcvd.code == 4401
    finally:
        await connection.execute("ALTER TABLE IF EXISTS accounts.sessions_away RENAME TO sessions")
        await connection.close()


async def test_facts_that_nobody_can_read_are_passed_over_and_the_job_is_told_all_the_same(
    platform: Platform, member: Member, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    async def is_followed() -> bool:
        return (await member.http.get("/api/health/ready")).status_code == 200

    sender = producer(platform.settings.kafka)
    await sender.start()
    try:
        async with socket_of(platform, member) as client:
            await client.say(type="subscribe_job", job_id=worker.job_id, since=0)
            assert (await client.hear())["type"] == "subscribed"
            await eventually(is_followed, 30)
            await sender.send_and_wait(
                topic_name(platform.settings.kafka, FACTS),
                b"no fact",
                key=worker.workspace.encode(),
                headers=[(POSITION_HEADER, b"nowhere")],
            )
            said = await until_said(capsys, "a fact cannot be read")
            await worker.epochs(2)
            heard: list[dict[str, object]] = []
            await until_epoch(client, 2, heard)
            assert_whole(heard)
    finally:
        await sender.stop()
    assert "a part of the relay failed" not in said + capsys.readouterr().err


async def status_of(platform: Platform, ticket: str) -> int:
    """How a socket with that ticket is refused."""
    from websockets.asyncio.client import connect

    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"{platform.url.replace('http', 'ws')}/api/ws?ticket={ticket}"):
            pass
    return refused.value.response.status_code


class TestTickets:
    async def test_one_opens_one_socket(self, platform: Platform, member: Member) -> None:
        from websockets.asyncio.client import connect

        ticket = await ticket_of(member)
        async with connect(f"{platform.url.replace('http', 'ws')}/api/ws?ticket={ticket}", close_timeout=1):
            assert await status_of(platform, ticket) == 401
        assert await status_of(platform, ticket) == 401

    async def test_of_many_who_try_one_at_once_one_gets_in(self, platform: Platform, member: Member) -> None:
        from websockets.asyncio.client import connect

        ticket = await ticket_of(member)

        async def attempt() -> bool:
            try:
                async with connect(f"{platform.url.replace('http', 'ws')}/api/ws?ticket={ticket}", close_timeout=1):
                    return True
            except InvalidStatus:
                return False

        assert sorted(await asyncio.gather(*(attempt() for _ in range(8)))) == [False] * 7 + [True]

    async def test_it_is_too_late_after_its_time(self, platform: Platform, member: Member) -> None:
        ticket = await ticket_of(member)
        connection = await asyncpg.connect(platform.settings.database.url.get_secret_value())
        try:
            await connection.execute("UPDATE accounts.tickets SET expires_at = now() - interval '1 second'")
            assert await status_of(platform, ticket) == 401
        finally:
            await connection.close()

    async def test_only_its_hash_is_stored_and_old_ones_are_swept(self, platform: Platform, member: Member) -> None:
        ticket = await ticket_of(member)
        connection = await asyncpg.connect(platform.settings.database.url.get_secret_value())
        try:
            held = await connection.fetchval("SELECT hash FROM accounts.tickets WHERE expires_at > now()")
            assert held == hashlib.sha256(ticket.encode()).digest()
            await connection.execute("UPDATE accounts.tickets SET expires_at = now() - interval '1 second'")
            await ticket_of(member)
            assert await connection.fetchval("SELECT count(*) FROM accounts.tickets") == 1
        finally:
            await connection.close()

    async def test_nobody_gets_one_without_a_token(self, platform: Platform) -> None:
        async with platform.client() as http:
            assert (await http.post("/api/ws/ticket")).status_code == 401
        assert await status_of(platform, "x" * 43) == 401


async def test_measurements_reach_the_socket_and_what_is_none_is_passed_over(
    platform: Platform, member: Member, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    topic, key = topic_name(platform.settings.kafka, TELEMETRY), worker.job_id.encode()
    common: dict[str, Any] = {"workspace": worker.workspace, "job_id": worker.job_id, "attempt": 1, "at": 1}
    async with socket_of(platform, member) as client:
        await client.say(type="subscribe_job", job_id=worker.job_id, lines=True)
        await client.hear()
        sender = producer(platform.settings.kafka)
        await sender.start()
        heard: list[dict[str, object]] = []
        try:
            sequence = 0
            # The tail begins at the end, when somebody listens: what was measured before that is not told.
            while not {"metrics", "lines"} <= {str(message["type"]) for message in heard}:
                for measured in (
                    telemetry.StepMetrics(sequence=sequence, epoch=1, step=sequence, metrics={"loss": 0.5}, **common),
                    telemetry.LogLines(sequence=sequence + 1, lines=(("stdout", "hello"),), **common),
                ):
                    await sender.send_and_wait(topic, telemetry.encode(measured), key=key)
                sequence += 2
                try:
                    heard.append(await client.hear(0.5))
                except TimeoutError:
                    continue
            # It is followed now: what is none comes to the same reader, before the one that is.
            await sender.send_and_wait(topic, b"no measurement", key=key)
            last = telemetry.LogLines(sequence=sequence, lines=(("stdout", "and goodbye"),), **common)
            await sender.send_and_wait(topic, telemetry.encode(last), key=key)
            while heard[-1].get("lines") != [["stdout", "and goodbye"]]:
                heard.append(await client.hear())
        finally:
            await sender.stop()
        assert "a part of the relay failed" not in capsys.readouterr().err
        told = {str(message["type"]): message for message in heard}
        assert told["metrics"]["metrics"] == {"loss": 0.5}
        assert told["lines"]["lines"] == [["stdout", "and goodbye"]]
        assert next(message["lines"] for message in heard if "lines" in message) == [["stdout", "hello"]]
