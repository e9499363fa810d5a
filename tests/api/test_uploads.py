"""Uploads: streamed, bounded by the bytes that come, and gone without a trace when they do not end well."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api import uploads
from tests.api.platform import CSV, Member, Platform, eventually
from tests.api.test_bad_input import files_of, problem

pytestmark = pytest.mark.asyncio(loop_scope="module")
SETTINGS = {"datasets": {"max_bytes": 2_000_000}}


def wide(size: int) -> bytes:
    return b"a,b\n" + b"1,2\n" * ((size - 4) // 4)


async def test_a_file_at_the_limit_is_taken_and_one_above_is_not(member: Member, objects: Path) -> None:
    answer = await member.upload(wide(2_000_000))
    assert answer.status_code == 201
    assert answer.json()["bytes"] == 2_000_000
    before = files_of(objects)
    problem(await member.upload(wide(2_000_000) + b"1,2\n"), 413, "dataset_too_large")
    problem(await member.upload(wide(30_000_000)), 413, "dataset_too_large")
    assert files_of(objects) == before


async def test_the_limit_counts_bytes_not_what_a_header_says(member: Member, objects: Path) -> None:
    before = files_of(objects)

    async def endless() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
        for _ in range(40):
            yield wide(100_000)

    answer = await member.http.post(
        "/api/datasets", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    problem(answer, 413, "dataset_too_large")
    assert files_of(objects) == before


def begun(platform: Platform, member: Member, length: int) -> bytes:
    return (
        f"POST /api/datasets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {member.token}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {length}\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\na,b\n1,2\n'
    ).encode()


async def connect(platform: Platform) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = platform.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def staged(objects: Path) -> set[Path]:
    return set(await asyncio.to_thread(lambda: list((objects / ".tmp").glob("upload-*"))))


async def are_staged(objects: Path, wanted: bool) -> bool:
    return bool(await staged(objects)) is wanted


async def readiness(member: Member) -> tuple[int, dict[str, str]]:
    answer = await member.http.get("/api/health/ready")
    return answer.status_code, answer.json()["checks"]


async def test_an_upload_that_is_cut_leaves_nothing(platform: Platform, member: Member, objects: Path) -> None:
    _, writer = await connect(platform)
    writer.write(begun(platform, member, 1_000_000))
    await writer.drain()
    await eventually(lambda: are_staged(objects, True))
    writer.transport.abort()
    await eventually(lambda: are_staged(objects, False))
    assert (await member.http.get("/api/datasets")).json() == []


async def test_an_upload_that_stalls_is_given_up(
    platform: Platform, member: Member, objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "STALL_SECONDS", 0.2)
    monkeypatch.setattr("api.routing.DISCARD_SECONDS", 0.2)
    reader, writer = await connect(platform)
    writer.write(begun(platform, member, 1_000_000))
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    writer.close()
    assert not await staged(objects)


@pytest.mark.parametrize("length", ["-1", "1, 2", "0x10", "99999999999999999999999"])
async def test_a_length_that_is_none_is_refused(platform: Platform, member: Member, length: str) -> None:
    reader, writer = await connect(platform)
    request = begun(platform, member, 0).replace(b"Content-Length: 0", f"Content-Length: {length}".encode())
    writer.write(request)
    writer.write_eof()
    async with asyncio.timeout(10):
        head = await reader.read(64)
    assert head == b"" or head.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413", b"HTTP/1.1 422")), head
    writer.close()
    assert (await member.http.get("/api/datasets")).json() == []


async def test_a_full_disk_is_said_and_leaves_nothing(
    member: Member, objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(objects)

    def full(_form: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("api.uploads._Form.flush", full)
        problem(await member.upload(CSV), 507, "storage_full")
    assert files_of(objects) == before
    assert (await member.upload(CSV)).status_code == 201


async def test_a_store_that_is_away_is_said_and_comes_back(member: Member, objects: Path) -> None:
    async def is_ready(status: int) -> bool:
        return (await readiness(member))[0] == status

    away = objects.with_name("objects-away")
    await asyncio.to_thread(objects.rename, away)
    try:
        problem(await member.upload(CSV), 503, "store_unavailable")
        await eventually(lambda: is_ready(503))
        _, checks = await readiness(member)
        assert checks["store"] != "ok"
        assert checks["database"] == "ok"
    finally:
        await asyncio.to_thread(away.rename, objects)
    await eventually(lambda: is_ready(200))
    assert (await member.upload(CSV)).status_code == 201


async def test_eight_uploads_at_once_are_eight_versions(member: Member) -> None:
    answers = await asyncio.gather(*(member.upload(CSV, name="flowers") for _ in range(8)))
    assert sorted(answer.json()["number"] for answer in answers) == list(range(1, 9))
