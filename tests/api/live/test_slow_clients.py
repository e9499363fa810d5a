"""Clients that cannot keep up: what waits for them is bounded, the others notice nothing, and they can resume."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed

from adapters.settings import ApiSettings, Settings
from schemas.telemetry import StepMetrics
from tests.api.live.conftest import DEADLINE, Client, Server
from tests.api.live.test_messages import subscribe

QUEUE = 64 * 1024


@pytest.fixture
def settings() -> Settings:
    return Settings(api=ApiSettings(socket_queue_bytes=QUEUE))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.live.connection.SLOW_SECONDS", 0.5)


async def everything(client: Client) -> list[dict[str, Any]]:
    """All messages up to the end of the socket."""
    heard: list[dict[str, Any]] = []
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                heard.append(msgspec.json.decode(await client.connection.recv()))
            except ConnectionClosed:
                return heard


def connections(server: Server) -> list[Any]:
    return [connection for held in server.sockets._open.values() for connection in held]


class TestOneWhoDoesNotRead:
    async def test_is_closed_with_the_last_version_that_was_sent_and_others_are_not_held_up(
        self, server: Server
    ) -> None:
        server.append("a")
        async with server.client(max_queue=1) as slow, server.client() as quick:
            await subscribe(slow, "a")
            await subscribe(quick, "a")
            [slow_one] = [c for c in connections(server) if c.sink._socket.client == slow_address(slow)]
            most = 0
            for version in range(2, 3002):
                server.append("a", pad=1000)
                most = max(most, slow_one.sink.waiting())
                if version % 50 == 0:  # Live means soon: the quick one has each before the next come.
                    async with asyncio.timeout(DEADLINE):
                        while (await quick.hear())["version"] != version:
                            pass
            async with asyncio.timeout(DEADLINE):
                while len(connections(server)) > 1 and not slow_one.sink.closed:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert most <= QUEUE + 2000  # And a control frame or two.

            heard = await everything(slow)
            assert slow.connection.close_code == 4408
            versions = [message["version"] for message in heard]
            assert versions == list(range(2, len(versions) + 2))
            assert str(versions[-1]) in (slow.connection.close_reason or "")
            assert versions[-1] < 3001

        async with server.client() as again:
            await subscribe(again, "a", since=versions[-1])
            rest = await again.hear_updates(3001 - versions[-1])
            assert [update["version"] for update in rest] == list(range(versions[-1] + 1, 3002))

    async def test_is_closed_also_while_it_is_brought_up_to_date(self, server: Server) -> None:
        server.append(*["a"] * 3000, pad=1000)
        async with server.client(max_queue=1) as slow:
            await slow.say(type="subscribe_job", job_id="a", since=0)
            async with asyncio.timeout(DEADLINE):
                while connections(server) and not connections(server)[0].sink.closed:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            heard = await everything(slow)
            assert slow.connection.close_code == 4408
            versions = [message["version"] for message in heard[1:]]
            assert versions == list(range(1, len(versions) + 1))
            assert (slow.connection.close_reason or "").endswith(f" {versions[-1]}")

    async def test_that_asks_without_reading_the_answers_is_closed_too(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("api.live.connection.LINGER_SECONDS", 0.2)
        monkeypatch.setattr("api.live.socket.MESSAGES_AT_ONCE", 1_000_000)
        async with server.client(max_queue=1) as slow:

            async def ask_for_ever() -> None:
                async with asyncio.timeout(DEADLINE):
                    while True:
                        await slow.say(type="unsubscribe_job", job_id="x" * 128)

            with pytest.raises(ConnectionClosed):
                await ask_for_ever()

    async def test_does_not_keep_the_connection_for_ever(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("api.live.connection.LINGER_SECONDS", 0.2)
        server.append(*["a"] * 3000, pad=1000)
        async with server.client(max_queue=1) as slow:
            await slow.say(type="subscribe_job", job_id="a", since=0)
            async with asyncio.timeout(DEADLINE):
                while len(server.sockets) or connections(server):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await everything(slow)
            assert slow.connection.close_code in (1006, 4408)


class TestABurst:
    async def test_that_is_larger_than_the_queue_costs_a_client_that_reads_nothing(self, server: Server) -> None:
        server.append("a")
        async with server.client() as client:
            await subscribe(client, "a")
            server.append(*["a"] * 5000, pad=200)
            updates = await client.hear_updates(5000)
            assert [update["version"] for update in updates] == list(range(2, 5002))

    async def test_is_brought_up_to_date_from_the_journal_once_it_is_no_longer_in_memory(self, server: Server) -> None:
        server.append("a", "b")
        async with server.client() as client:
            await subscribe(client, "a")
            await subscribe(client, "b")
            server.append(*["a", "b", None] * 5000, pad=200)
            updates = await client.hear_updates(10_000)
            assert [update["version"] for update in updates] == server.workspace.versions_of(None, after=2)


class TestMeasurements:
    def measure(self, server: Server, sequence: int, **more: Any) -> None:
        for channel in server.hub.channels.values():
            channel.measurements.arrived(
                StepMetrics(
                    **{
                        "workspace": "one",
                        "job_id": "a",
                        "attempt": 1,
                        "sequence": sequence,
                        "at": sequence,
                        "epoch": 1,
                        "step": sequence,
                        "metrics": {"loss": 0.5},
                        **more,
                    }
                )
            )

    async def test_the_latest_wins_a_few_times_a_second(self, server: Server) -> None:
        server.append("a")
        async with server.client() as client:
            await subscribe(client, "a")
            for step in range(1, 1001):
                self.measure(server, step)
            first, second = await client.hear(), await client.hear()
            assert (first["type"], first["step"]) == ("metrics", 1)
            assert (second["step"], second["metrics"]) == (1000, {"loss": 0.5})

    async def test_late_and_repeated_ones_and_those_of_an_old_attempt_are_dropped(self, server: Server) -> None:
        server.append("a")
        async with server.client() as client:
            await subscribe(client, "a")
            self.measure(server, 5, attempt=2)
            assert (await client.hear())["attempt"] == 2
            self.measure(server, 5, attempt=2)
            self.measure(server, 4, attempt=2)
            self.measure(server, 9, attempt=1)
            self.measure(server, 6, attempt=2)
            assert (await client.hear())["step"] == 6

    async def test_a_client_that_is_busy_gets_only_the_newest_and_all_updates(self, server: Server) -> None:
        server.append("a")
        async with server.client() as client:
            await subscribe(client, "a")
            [connection] = connections(server)
            server.append(*["a"] * 2000, pad=200)
            for step in range(50):
                connection.push_measurement("a", b"\x81\x02%02d" % step)
            heard: list[Any] = [await client.hear() for _ in range(2001)]
            updates = [message for message in heard if isinstance(message, dict)]
            assert [update["version"] for update in updates] == list(range(2, 2002))
            assert [message for message in heard if not isinstance(message, dict)] == [49]


def slow_address(client: Client) -> Any:
    """The client's own address, as the server sees it."""
    return client.connection.local_address
