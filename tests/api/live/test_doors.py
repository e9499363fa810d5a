"""Who is let in, and who is put out again."""

from __future__ import annotations

import asyncio
import json
import logging
import time

import pytest
from websockets.exceptions import InvalidStatus

from adapters.settings import AuthSettings, Settings
from api.live.origins import is_allowed
from api.live.tickets import Holder
from tests.api.live.conftest import DEADLINE, Client, Server


async def closed(client: Client) -> tuple[int, str]:
    """The close frame that ends the socket."""
    async with asyncio.timeout(DEADLINE):
        await client.connection.wait_closed()
    return client.connection.close_code or 0, client.connection.close_reason or ""


class TestBeforeAccept:
    async def test_a_bad_ticket_is_answered_401_with_a_problem_document(self, server: Server) -> None:
        for ticket in ("wrong", "", "x" * 5000, "%00", "ana&ticket=wrong"):
            if ticket.startswith("ana"):
                continue
            with pytest.raises(InvalidStatus) as refused:
                async with server.client(ticket):
                    pass
            assert refused.value.response.status_code == 401
            assert json.loads(refused.value.response.body or b"")["code"] == "unauthenticated"

    async def test_a_foreign_origin_is_answered_403_even_with_a_good_ticket(self, server: Server) -> None:
        for origin in ("https://evil.example", "null", "http://localhost:1", "https://127.0.0.1.evil.example"):
            with pytest.raises(InvalidStatus) as refused:
                async with server.client(origin=origin):
                    pass
            assert refused.value.response.status_code == 403
            assert json.loads(refused.value.response.body or b"")["code"] == "foreign_origin"

    async def test_our_own_pages_are_let_in(self, server: Server) -> None:
        async with server.client(origin=f"http://127.0.0.1:{server.port}") as client:
            await client.say(type="ping")
            assert await client.hear() == {"type": "pong"}

    async def test_a_session_that_ended_after_its_ticket_was_issued_is_not_let_in(self, server: Server) -> None:
        server.doors.end("session-ana")
        with pytest.raises(InvalidStatus) as refused:
            async with server.client():
                pass
        assert refused.value.response.status_code == 401

    async def test_a_user_opens_a_limited_number_of_sockets(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("api.live.socket.MAX_SOCKETS", 2)
        async with server.client(), server.client():
            with pytest.raises(InvalidStatus) as refused:
                async with server.client():
                    pass
            assert refused.value.response.status_code == 429
            async with server.client("bob"):
                pass

    async def test_no_log_line_holds_a_ticket(self, server: Server, caplog: pytest.LogCaptureFixture) -> None:
        server.doors.holders["s3cret-ticket"] = server.doors.holders["ana"]
        with caplog.at_level(logging.DEBUG):
            for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
                caplog.set_level(logging.DEBUG, name)
            async with server.client("s3cret-ticket") as client:
                await client.say(type="ping")
                await client.hear()
            with pytest.raises(InvalidStatus):
                async with server.client("s3cret-other"):
                    pass
        ours = [record.getMessage() for record in caplog.records if record.name.startswith("uvicorn")]
        assert any("WebSocket" in line for line in ours)
        assert not [line for line in ours if "s3cret" in line]


class TestOrigins:
    @pytest.mark.parametrize(
        ("origin", "host", "allowed"),
        [
            (None, "ravand.example", True),
            ("https://ravand.example", "ravand.example", True),
            ("https://RAVAND.example", "ravand.example", True),
            ("https://ravand.example", "ravand.example:443", True),
            ("http://ravand.example:8000", "ravand.example:8000", True),
            ("http://[::1]:8000", "[::1]:8000", True),
            ("https://page.example", "ravand.example", True),
            ("https://page.example/", "ravand.example", True),
            ("http://ravand.example:8001", "ravand.example:8000", False),
            ("https://ravand.example.evil", "ravand.example", False),
            ("https://evil.example", "ravand.example", False),
            ("https://user@evil.example", "ravand.example", False),
            ("http://page.example", "ravand.example", False),
            ("null", "ravand.example", False),
            ("", "ravand.example", False),
            ("file://", "", False),
            ("http://", None, False),
            ("http://[", "[", False),
            ("http://a:99999", "a:99999", False),
        ],
    )
    def test_only_listed_ones_and_our_own_may(self, origin: str | None, host: str | None, allowed: bool) -> None:
        assert is_allowed(origin, host, ("https://page.example",)) is allowed

    async def test_a_listed_origin_is_let_in(self) -> None:
        settings = Settings(auth=AuthSettings(origins=("https://page.example",)))
        async with Server(settings).serving() as server, server.client(origin="https://page.example") as client:
            await client.say(type="ping")
            assert (await client.hear())["type"] == "pong"


class TestTheEndOfASession:
    async def test_a_logout_closes_its_sockets_at_once_and_no_others(self, server: Server) -> None:
        async with server.client() as first, server.client() as second, server.client("bob") as other:
            for client in (first, second, other):
                await client.say(type="ping")
                await client.hear()
            server.doors.end("session-ana")
            assert (await closed(first))[0] == 4401
            assert (await closed(second))[0] == 4401
            await other.say(type="ping")
            assert await other.hear() == {"type": "pong"}

    async def test_a_token_that_expires_closes_its_socket(self, server: Server) -> None:
        server.doors.holders["brief"] = Holder("ana", "one", "session-brief", time.time() + 0.2)
        async with server.client("brief") as client:
            assert (await closed(client))[0] == 4401
