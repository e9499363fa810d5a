"""The process itself: starting while something is away, stopping while something is under way, and refusing what cannot be."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from importlib.metadata import version as installed_version
from pathlib import Path

import httpx2
import pytest

from adapters.settings import Settings
from api import app, document
from api.app import run
from tests.api.platform import CSV, eventually, initialise, serving, settings_for, until_said
from tests.api.test_bad_input import problem
from tests.servers import Servers


@pytest.fixture
def settings(servers: Servers, topic_prefix: str, database_url: str, tmp_path: Path) -> Settings:
    return settings_for(servers.kafka, topic_prefix, database_url, tmp_path)


async def test_an_address_that_is_taken_is_said(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        api = settings.api.model_copy(update={"port": taken.getsockname()[1]})
        with pytest.raises(OSError, match="in use"):
            await run(settings.model_copy(update={"api": api}), asyncio.Event())


async def test_it_stops_also_while_it_waits_for_a_database(settings: Settings) -> None:
    away = settings.database.model_copy(update={"url": type(settings.database.url)("postgresql://x@127.0.0.1:1/x")})
    stop = asyncio.Event()
    running = asyncio.create_task(run(settings.model_copy(update={"database": away}), stop))
    async with asyncio.timeout(20):
        await asyncio.sleep(0)
        stop.set()
        await running


async def test_it_waits_for_a_log_that_is_away_and_lets_go_of_every_client_that_could_not_connect(
    settings: Settings, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    away = settings.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})
    stop = asyncio.Event()
    running = asyncio.create_task(run(settings.model_copy(update={"kafka": away}), stop))
    said = await until_said(capsys, '"waiting"')
    stop.set()
    await running
    assert '"what": "log", "reason": "KafkaConnectionError"' in said
    gc.collect()
    assert "Unclosed" not in caplog.text


def test_a_source_tree_that_is_not_installed_has_a_version_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "installed_version", lambda _name: installed_version("no-such-package"))
    assert document.version.__wrapped__() == "0"


UPLOAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
"""How one begins, of the boundary x."""


async def until_received(folder: Path) -> None:
    async def is_received() -> bool:
        return bool(await asyncio.to_thread(lambda: list((folder / "objects" / ".tmp").glob("upload-*"))))

    await eventually(is_received)


async def test_what_is_not_finished_in_time_when_it_stops_is_told_so(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "GRACE_SECONDS", 1)
    await initialise(settings)
    release = asyncio.Event()

    async def endlessly() -> AsyncIterator[bytes]:
        yield UPLOAD
        await release.wait()

    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        async with serving(settings) as platform:
            async with platform.member() as member:
                headers = {"Authorization": f"Bearer {member.token}"}
            form = {**headers, "Content-Type": "multipart/form-data; boundary=x"}
            upload = asyncio.create_task(http.post(f"{platform.url}/api/datasets", content=endlessly(), headers=form))
            reading = asyncio.create_task(http.get(f"{platform.url}/api/train/jobs?after=1000", headers=headers))
            await until_received(tmp_path)
        release.set()
        problem(await upload, 503, "outcome_unknown")
        problem(await reading, 503, "stopping")
    assert "Exception in ASGI application" not in capsys.readouterr().err


async def test_what_is_under_way_is_finished_before_it_stops(settings: Settings, tmp_path: Path) -> None:
    await initialise(settings)
    released = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield UPLOAD
        await released.wait()
        yield CSV + b"\r\n--x--\r\n"

    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        async with serving(settings) as platform:
            async with platform.member() as member:
                token = member.token
            form = {"Content-Type": "multipart/form-data; boundary=x", "Authorization": f"Bearer {token}"}
            upload = asyncio.create_task(http.post(f"{platform.url}/api/datasets", content=slowly(), headers=form))
            await until_received(tmp_path)
            asyncio.get_running_loop().call_later(0.3, released.set)  # By then it has been told to stop.
        answer = await upload
        assert answer.status_code in (201, 202)  # The projector stops too; without its verdict the answer is 202.
        with pytest.raises(httpx2.TransportError):
            await http.get(f"{platform.url}/api/health/live")
