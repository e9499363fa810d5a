"""Raw connections: heads that never end, sockets that say nothing, and what is no HTTP."""

from __future__ import annotations

import asyncio
import json

import pytest

from api import connections
from tests.api.platform import Member, Platform

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def said_to(platform: Platform, data: bytes, *, end: bool = False) -> bytes:
    """What is answered to these bytes until the connection is closed."""
    host, port = platform.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        if end:
            writer.write_eof()
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def problem_in(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer[:100]
    assert b"application/problem+json" in head
    assert json.loads(body)["code"] == code


@pytest.mark.parametrize(
    "data", [b"nonsense\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"]
)
async def test_what_is_no_http_gets_a_problem(platform: Platform, data: bytes) -> None:
    problem_in(await said_to(platform, data), 400, "bad_request")


async def test_an_endless_head_is_cut_off(platform: Platform) -> None:
    beginning = b"GET /api/health/live HTTP/1.1\r\nX: "
    problem_in(await said_to(platform, beginning + b"a" * 70_000), 431, "head_too_large")
    await said_to(platform, beginning + b"a" * 3_000_000)  # Closed on it; the answer may be lost to the reset.


async def test_a_head_that_does_not_come_is_given_up(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    assert await said_to(platform, b"") == b""
    problem_in(await said_to(platform, b"GET /api/health/live HTTP/1.1\r\nX: "), 408, "request_timeout")


async def test_a_body_that_does_not_come_is_given_up(
    platform: Platform, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routing.BODY_SECONDS", 0.2)
    monkeypatch.setattr("api.routing.DISCARD_SECONDS", 0.2)
    request = (
        f"POST /api/train/stop HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {member.token}\r\n"
        "Content-Length: 1000\r\nConnection: close\r\n\r\n{"
    )
    problem_in(await said_to(platform, request.encode()), 408, "request_timeout")


async def test_a_thousand_idle_connections_keep_nobody_out(platform: Platform, member: Member) -> None:
    host, port = platform.url.removeprefix("http://").split(":")
    idle = [await asyncio.open_connection(host, int(port)) for _ in range(400)]
    try:
        assert (await member.http.get("/api/auth/me")).status_code == 200
    finally:
        for _, writer in idle:
            writer.close()


async def test_a_request_cut_off_in_its_body_changes_nothing(platform: Platform, member: Member) -> None:
    job = await member.job()
    request = (
        f"POST /api/train/stop HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {member.token}\r\n"
        f'Content-Length: 60\r\n\r\n{{"job_id": "{job}"'
    )
    await said_to(platform, request.encode(), end=True)
    assert (await member.http.get("/api/train/status", params={"job_id": job})).json()["status"] == "queued"
