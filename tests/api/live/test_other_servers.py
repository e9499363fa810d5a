"""The same sockets on other event loops, and on WebSocket implementations that know nothing of finished frames."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidStatus

from adapters.settings import ApiSettings, Settings
from tests.api.live.conftest import DEADLINE, Server
from tests.api.live.test_messages import subscribe
from tests.api.live.test_slow_clients import connections, everything

QUEUE = 64 * 1024


async def _tell_and_be_too_slow(**options: str) -> None:
    async with Server(Settings(api=ApiSettings(socket_queue_bytes=QUEUE))).serving(**options) as server:
        server.append("a", "b")
        async with server.client() as quick, server.client(max_queue=1) as slow:
            assert (await subscribe(quick, "a", since=0))["type"] == "subscribed"
            await subscribe(slow, "a")
            assert (await quick.hear())["version"] == 1
            server.append(*["a"] * 3000, pad=5000)  # More than the system itself keeps for a socket.
            updates = await quick.hear_updates(3000)
            assert [update["version"] for update in updates] == list(range(3, 3003))
            async with asyncio.timeout(DEADLINE):
                while len(connections(server)) > 1:  # noqa: ASYNC110 — a counter sets no event.
                    await asyncio.sleep(0.01)
            heard = await everything(slow)
            assert slow.connection.close_code == 4408
            assert (slow.connection.close_reason or "").endswith(f" {heard[-1]['version']}")
            server.doors.end("session-ana")
            async with asyncio.timeout(DEADLINE):
                await quick.connection.wait_closed()
            assert quick.connection.close_code == 4401


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.live.connection.SLOW_SECONDS", 0.5)


class WithoutRefusals(WebSocketsSansIOProtocol):
    """A server that cannot send an answer of ours in place of the handshake."""

    async def run_asgi(self) -> None:
        self.scope["extensions"] = {}
        await super().run_asgi()


async def test_without_refusals_of_our_own_the_servers_own_is_sent_and_nobody_comes_in() -> None:
    async with Server(Settings()).serving(ws=WithoutRefusals) as server:
        with pytest.raises(InvalidStatus) as refused:
            async with server.client("wrong"):
                pass
        assert refused.value.response.status_code == 403
        async with server.client() as client:
            await client.say(type="ping")
            assert await client.hear() == {"type": "pong"}


@pytest.mark.parametrize("implementation", ["websockets-sansio", "wsproto"])
async def test_without_finished_frames_everything_is_told_as_well(implementation: str) -> None:
    await _tell_and_be_too_slow(ws=implementation)


def test_on_the_event_loop_of_production() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_tell_and_be_too_slow())
