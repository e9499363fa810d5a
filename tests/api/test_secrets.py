"""What is secret stays so: in log lines, in records, in the database, in files, in answers. And who else may read answers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
import structlog
import websockets

from adapters.settings import Settings
from tests.api.platform import Member, Platform

pytestmark = pytest.mark.asyncio(loop_scope="module")
SETTINGS = {"auth": {"origins": ["https://app.example"]}}
CANARY = "canary phrase 7391 nobody knows"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What a service would write, of all loggers at all levels."""
    root = logging.getLogger()
    formatter = next(h.formatter for h in root.handlers if isinstance(h.formatter, structlog.stdlib.ProcessorFormatter))
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(formatter)
    levels = {name: logging.getLogger(name).level for name in ("", "uvicorn", "websockets", "asyncpg", "aiokafka")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield written
    root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@contextlib.asynccontextmanager
async def said_to(written: io.StringIO) -> AsyncIterator[None]:
    """Standard error goes there."""
    with contextlib.redirect_stderr(written):
        yield


async def test_no_secret_is_kept_or_said_anywhere(
    platform: Platform, module_settings: Settings, logged: io.StringIO
) -> None:
    # Our own lines go to standard error, which pytest replaces for each test.
    async with platform.client() as http, said_to(logged):
        body = {"email": "canary@example.org", "password": CANARY, "name": "Canary"}
        token = (await http.post("/api/auth/register", json=body)).json()["token"]
        assert (await http.post("/api/auth/login", json={**body, "name": 5})).status_code == 422
        login = {"email": body["email"], "password": CANARY}
        assert CANARY not in (await http.post("/api/auth/login", json={**login, "password": CANARY + "x"})).text
        assert CANARY not in (await http.post("/api/auth/register", json=body)).text
        http.headers["Authorization"] = f"Bearer {token}"
        ticket = (await http.post("/api/ws/ticket")).json()["ticket"]
        url = platform.url.replace("http", "ws")
        async with websockets.connect(f"{url}/api/ws?ticket={ticket}") as socket:
            await socket.send('{"type": "subscribe_job", "job_id": "x"}')
            async with asyncio.timeout(10):
                await socket.recv()
        assert (await http.get("/api/nothing", params={"token": token})).status_code == 404
    assert "user registered" in logged.getvalue()
    for secret in (CANARY, token, ticket):
        assert secret not in logged.getvalue()
    connection = await asyncpg.connect(module_settings.database.url.get_secret_value())
    try:
        tables = await connection.fetch(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('accounts', 'log', 'read', 'telemetry')"
        )
        assert len(tables) > 12
        for schema, table in tables:
            rows = await connection.fetch(f'SELECT t::text FROM "{schema}"."{table}" t')
            text = "\n".join(row[0] for row in rows)
            for secret in (CANARY, token, ticket, CANARY.encode().hex(), token.encode().hex()):
                assert secret not in text, f"{schema}.{table}"
    finally:
        await connection.close()


async def test_pages_of_a_listed_origin_may_call(member: Member) -> None:
    page = {"Origin": "https://app.example"}
    answer = await member.http.get("/api/auth/me", headers=page)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "Ravand-Version" in answer.headers["access-control-expose-headers"]
    assert "Origin" in answer.headers["vary"]
    asked = {**page, "Access-Control-Request-Method": "POST"}
    preflight = await member.http.request("OPTIONS", "/api/train", headers=asked)
    assert preflight.status_code == 204
    assert "Idempotency-Key" in preflight.headers["access-control-allow-headers"]
    for other in ("https://app.example.evil", "http://app.example", "https://APP.example:444", "null"):
        answer = await member.http.get("/api/auth/me", headers={"Origin": other})
        assert "access-control-allow-origin" not in answer.headers


async def test_logging_out_closes_the_sockets(platform: Platform, member: Member) -> None:
    ticket = (await member.http.post("/api/ws/ticket")).json()["ticket"]
    url = platform.url.replace("http", "ws") + "/api/ws?ticket="
    async with websockets.connect(url + ticket) as socket:
        assert (await member.http.post("/api/auth/logout")).status_code == 204
        with pytest.raises(websockets.ConnectionClosed) as closed:
            async with asyncio.timeout(10):
                await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(url + ticket)
    assert refused.value.response.status_code == 401
