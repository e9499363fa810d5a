"""What is said over the socket, message by message."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.api.live.conftest import Client, Server
from tests.api.live.history import LOG


async def subscribe(client: Client, job: str, **options: Any) -> dict[str, Any]:
    """The answer to a subscription."""
    await client.say(type="subscribe_job", job_id=job, **options)
    return await client.hear()


async def nothing_more(client: Client) -> None:
    """Whatever was on its way has come: a pong follows at once."""
    await client.say(type="ping")
    assert await client.hear() == {"type": "pong"}


class TestSubscribing:
    async def test_without_a_version_the_job_comes_as_it_is_and_then_only_what_is_newer(self, server: Server) -> None:
        server.append("a", "b", "a")
        async with server.client() as client:
            answer = await subscribe(client, "a")
            assert answer == {"type": "subscribed", "job_id": "a", "job": {"job_id": "a"}, "version": 3, "log": LOG}
            server.append("b", "a")
            [update] = await client.hear_updates(1)
            assert (update["version"], update["previous"]) == (5, 3)
            await nothing_more(client)

    async def test_an_update_says_what_the_job_has_reached(self, server: Server) -> None:
        server.append("a")
        async with server.client() as client:
            await subscribe(client, "a")
            server.append("a")
            update = await client.hear()
        assert update == {
            "type": "job_update",
            "job_id": "a",
            "version": 2,
            "previous": 1,
            "status": "running",
            "progress": 1.0,
            "message": "Epoch.",
            "event": "EpochCompleted",
            "epoch": 1,
            "epochs": 1000,
            "attempt": 1,
            "at": 0,
            "loss": 0.5,
            "metrics": {"loss": 0.5},
        }

    async def test_since_zero_is_the_whole_story_from_the_beginning(self, server: Server) -> None:
        server.append(*("a", "b", None) * 60)
        async with server.client() as client:
            assert (await subscribe(client, "a", since=0))["version"] == 180
            updates = await client.hear_updates(60)
            assert [update["version"] for update in updates] == server.workspace.versions_of("a")
            assert [update["previous"] for update in updates] == [0, *(update["version"] for update in updates)][:-1]
            await nothing_more(client)

    @pytest.mark.parametrize("cut", range(13))
    async def test_resuming_at_any_cut_misses_nothing_and_repeats_nothing(self, server: Server, cut: int) -> None:
        server.append(*("a", "b", "a") * 4)
        async with server.client() as client:
            await subscribe(client, "a", since=cut, log=LOG)
            server.append("a")
            expected = server.workspace.versions_of("a", after=cut)
            assert [update["version"] for update in await client.hear_updates(len(expected))] == expected
            await nothing_more(client)

    async def test_a_version_above_the_newest_is_answered_with_resync(self, server: Server) -> None:
        server.append("a", "a")
        async with server.client() as client:
            answer = await subscribe(client, "a", since=3)
            assert (answer["type"], answer["job_id"], answer["version"], answer["log"]) == ("resync", "a", 2, LOG)
            server.append("a")
            await nothing_more(client)  # That subscription is over.
            assert (await subscribe(client, "a", since=3))["type"] == "subscribed"

    async def test_a_version_of_another_log_is_answered_with_resync(self, server: Server) -> None:
        server.append("a", "a")
        async with server.client() as client:
            assert (await subscribe(client, "a", since=1, log="another"))["type"] == "resync"
            assert (await subscribe(client, "a", log="another"))["type"] == "resync"
            assert (await subscribe(client, "a", since=1, log=LOG))["type"] == "subscribed"

    async def test_another_members_job_is_as_unknown_as_one_that_never_was(self, server: Server) -> None:
        server.append("theirs", workspace=server.other)
        server.append("ours")
        async with server.client() as client:
            answers = [await subscribe(client, job) for job in ("theirs", "never", "ours\0", "0' OR 1=1")]
            assert {answer["type"] for answer in answers} == {"error"}
            assert {(answer["code"], answer["message"]) for answer in answers} == {
                ("not_found", "There is no such job in this workspace.")
            }
            server.append("theirs", workspace=server.other)
            await nothing_more(client)

    async def test_subscribing_again_begins_again(self, server: Server) -> None:
        server.append("a", "a")
        async with server.client() as client:
            await subscribe(client, "a")
            await subscribe(client, "a", since=1)
            assert [update["version"] for update in await client.hear_updates(1)] == [2]
            server.append("a")
            assert [update["version"] for update in await client.hear_updates(1)] == [3]
            await nothing_more(client)

    async def test_unsubscribed_is_the_last_message_about_the_job(self, server: Server) -> None:
        server.append("a", "b")
        async with server.client() as client:
            await subscribe(client, "a")
            await subscribe(client, "b")
            await client.say(type="unsubscribe_job", job_id="a")
            assert await client.hear() == {"type": "unsubscribed", "job_id": "a"}
            server.append("a", "b")
            assert (await client.hear())["job_id"] == "b"
            await client.say(type="unsubscribe_job", job_id="never")
            assert await client.hear() == {"type": "unsubscribed", "job_id": "never"}

    async def test_subscriptions_are_limited(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("api.live.connection.MAX_SUBSCRIPTIONS", 2)
        server.append("a", "b", "c")
        async with server.client() as client:
            assert [(await subscribe(client, job))["type"] for job in "abc"] == ["subscribed", "subscribed", "error"]
            assert (await subscribe(client, "a"))["type"] == "subscribed"
            server.append("c", "a")
            assert (await client.hear())["job_id"] == "a"


class TestAWholeWorkspace:
    async def test_every_job_is_told_also_one_that_begins_later(self, server: Server) -> None:
        server.append("a", None, "b")
        async with server.client() as client:
            await client.say(type="subscribe_jobs", since=0)
            assert await client.hear() == {"type": "subscribed_jobs", "version": 3, "log": LOG}
            server.append("c", None, "a")
            assert [update["version"] for update in await client.hear_updates(4)] == [1, 3, 4, 6]
            await nothing_more(client)

    async def test_a_job_that_is_subscribed_to_as_well_is_told_once(self, server: Server) -> None:
        server.append("a")
        async with server.client() as client:
            await client.say(type="subscribe_jobs")
            await client.hear()
            await subscribe(client, "a")
            server.append("a", "b")
            assert [update["version"] for update in await client.hear_updates(2)] == [2, 3]
            await nothing_more(client)
            await client.say(type="unsubscribe_jobs")
            assert await client.hear() == {"type": "unsubscribed_jobs"}
            server.append("b", "a")
            assert [update["version"] for update in await client.hear_updates(1)] == [5]
            await nothing_more(client)


class TestMalformedMessages:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "{",
            "null",
            "[]",
            "1",
            '"subscribe_job"',
            "{}",
            '{"type": "subscribe_job"}',
            '{"type": "subscribe"}',
            '{"type": null}',
            '{"type": "subscribe_job", "job_id": 1}',
            '{"type": "subscribe_job", "job_id": ""}',
            '{"type": "subscribe_job", "job_id": "' + "x" * 129 + '"}',
            '{"type": "subscribe_job", "job_id": "a", "since": -1}',
            '{"type": "subscribe_job", "job_id": "a", "since": 1.5}',
            '{"type": "subscribe_job", "job_id": "a", "since": "1"}',
            '{"type": "subscribe_job", "job_id": "a", "since": true}',
            '{"type": "subscribe_job", "job_id": "a", "since": NaN}',
            '{"type": "subscribe_job", "job_id": "a", "since": 1e400}',
            '{"type": "subscribe_job", "job_id": "a", "since": 99999999999999999999}',
            '{"type": "subscribe_job", "job_id": "a", "log": 1}',
            "[" * 50_000,
            '{"type":' * 5_000,
            b'{"type": "ping"',
            b"\xff\xfe",
            b"",
        ],
        ids=repr,
    )
    async def test_each_is_answered_and_the_socket_stays_open(self, server: Server, text: str | bytes) -> None:
        async with server.client() as client:
            await client.connection.send(text)
            answer = await client.hear()
            assert (answer["type"], answer["code"]) == ("error", "malformed")
            await nothing_more(client)

    async def test_members_that_are_unknown_are_no_fault(self, server: Server) -> None:
        async with server.client() as client:
            await client.say(type="ping", more={"of": "it"})
            assert await client.hear() == {"type": "pong"}

    async def test_a_message_of_more_than_64_kib_ends_the_socket(self, server: Server) -> None:
        async with server.client() as client:
            await client.connection.send("x" * (64 * 1024 + 1))
            with pytest.raises(ConnectionClosed) as caught:
                await client.hear()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1009

    async def test_a_flood_of_messages_is_read_slowly_and_starves_nobody(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("api.live.socket.MESSAGES_AT_ONCE", 5)
        server.append("a")
        async with server.client() as flooding, server.client() as other:
            await subscribe(other, "a")
            flood = asyncio.gather(*(flooding.connection.send("{") for _ in range(200)))
            server.append("a")
            assert (await other.hear())["version"] == 2
            answers = [await flooding.hear() for _ in range(10)]
            assert {answer["code"] for answer in answers} == {"malformed"}
            flood.cancel()


class TestTroubleWithTheHistory:
    async def test_a_database_that_is_away_for_a_moment_is_waited_for(self, server: Server) -> None:
        server.append("a")
        server.journal.away = True
        async with server.client() as client:
            await client.say(type="subscribe_job", job_id="a", since=0)
            await nothing_more(client)
            server.journal.away = False
            assert (await client.hear())["type"] == "subscribed"
            assert (await client.hear())["version"] == 1

    async def test_one_that_stays_away_is_said_to_be(self, server: Server) -> None:
        server.append("a")
        server.journal.away = True
        server.hub._patience = 0.1
        async with server.client() as client:
            answer = await subscribe(client, "a")
            assert (answer["type"], answer["code"], answer["job_id"]) == ("error", "unavailable", "a")

    async def test_a_restored_backup_ends_all_subscriptions_with_resync(self, server: Server) -> None:
        server.append("a", "b")
        async with server.client() as client:
            await subscribe(client, "a")
            await subscribe(client, "b")
            server.journal.log = "log-2"
            server.hub.log_is("log-2")
            ended = [await client.hear() for _ in "ab"]
            assert {(message["type"], message["job_id"], message["log"]) for message in ended} == {
                ("resync", "a", "log-2"),
                ("resync", "b", "log-2"),
            }
            assert (await subscribe(client, "a", since=1, log=LOG))["type"] == "resync"
            assert (await subscribe(client, "a"))["log"] == "log-2"

    async def test_facts_that_never_come_are_filled_from_the_journal(self, server: Server) -> None:
        server.append("a")
        async with server.client() as client:
            await subscribe(client, "a")
            server.workspace.append("a", server.offset)
            server.journal.committed["one"] = 2
            server.offset += 1
            server.hub.committed(next(iter(server.hub.channels.values())).partition, server.offset)
            assert (await client.hear())["version"] == 2
