"""A platform for the API's tests: the API behind a real socket, a projector in the same process, real servers below."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adapters.migrations import migrate
from adapters.object_store import ObjectStore
from adapters.settings import Settings, environment_of
from adapters.topics import create_topics
from api.app import run as run_api
from projections.projector import run as run_projector
from tests.servers import kafka_settings_of

PASSWORD = "correct horse 9 battery"
_numbers = itertools.count(1)


@dataclass
class Member:
    """Somebody with an account, and their client."""

    email: str
    token: str
    user: dict[str, Any]
    http: httpx2.AsyncClient

    async def upload(self, data: bytes, filename: str = "flowers.csv", **fields: str) -> httpx2.Response:
        return await self.http.post("/api/datasets", files={"file": (filename, data)}, data=fields)

    async def dataset(self, data: bytes | None = None) -> dict[str, Any]:
        answer = await self.upload(CSV if data is None else data)
        if answer.status_code == 202:  # A busy machine: what became of it is told a little later.
            url = answer.json()["status_url"]
            while (answer := await self.http.get(url)).status_code in (202, 404):  # noqa: ASYNC110 — one has to ask.
                await asyncio.sleep(0.05)
            assert answer.status_code == 200, answer.text
        else:
            assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def train(self, dataset_id: str, **more: Any) -> httpx2.Response:
        headers = {"Idempotency-Key": more.pop("key")} if "key" in more else {}
        parameters = more.pop("parameters", {"target": "kind", "epochs": 3})
        body = {"recipe": "tabular", "dataset_id": dataset_id, "parameters": parameters, **more}
        return await self.http.post("/api/train", json=body, headers=headers)

    async def job(self) -> str:
        answer = await self.train((await self.dataset())["id"])
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])


CSV = b"width,height,kind\n" + b"".join(
    b"%d.%d,%d,%s\n" % (i % 7, i % 10, i % 5, (b"rose", b"tulip")[i % 2]) for i in range(60)
)


@dataclass
class Platform:
    """A running API and how to reach it."""

    settings: Settings
    url: str

    def client(self, token: str | None = None) -> httpx2.AsyncClient:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    @asynccontextmanager
    async def member(self, name: str = "Member") -> AsyncIterator[Member]:
        """Somebody new."""
        email = f"member{next(_numbers)}@example.org"
        body = {"email": email, "password": PASSWORD, "name": name}
        async with self.client() as http:
            answer = await http.post("/api/auth/register", json=body)
            # A platform may lose patience with its database sooner than this machine is fast.
            while answer.status_code == 503:
                await asyncio.sleep(0.05)
                answer = await http.post("/api/auth/register", json=body)
            assert answer.status_code == 201, answer.text
            token = answer.json()["token"]
            http.headers["Authorization"] = f"Bearer {token}"
            yield Member(email, token, answer.json()["user"], http)


def settings_for(kafka: dict[str, str], prefix: str, database: str, folder: Path, /, **changes: Any) -> Settings:
    """Settings of one test's platform."""
    return Settings(
        _env_file=None,
        kafka=kafka_settings_of(kafka, prefix).model_copy(update=changes.pop("kafka", {})),
        database={"url": database, **changes.pop("database", {})},
        store={"url": f"file://{folder}/objects"},
        **{"api": {"port": 0}, **changes},
    )


async def initialise(settings: Settings) -> None:
    """What `ravand admin init` does."""
    await migrate(settings.database.url.get_secret_value())
    await create_topics(settings.kafka)
    await ObjectStore(settings.store.url).init()


@asynccontextmanager
async def serving(settings: Settings, *, projector: bool = True) -> AsyncIterator[Platform]:
    """Run the API, and a projector unless the test wants none."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = settings.model_copy(update={"api": settings.api.model_copy(update={"port": port})})
    stop = asyncio.Event()
    tasks = [asyncio.create_task(run_api(settings, stop))]
    if projector:
        tasks.append(asyncio.create_task(run_projector(settings, stop)))
    platform = Platform(settings, f"http://127.0.0.1:{port}")
    try:
        await answers(platform, tasks)
        yield platform
    finally:
        stop.set()
        await asyncio.gather(*tasks)


@asynccontextmanager
async def service(name: str, settings: Settings) -> AsyncIterator[asyncio.subprocess.Process]:
    """A service in a process of its own, so that it can be frozen or limited; ended at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", name),
        cwd=Path(__file__).parents[2],
        env={**environment_of(settings), "PATH": os.environ.get("PATH", "")},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        await process.wait()


async def eventually(is_so: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    """Wait for something that another process or task brings about."""
    async with asyncio.timeout(seconds):
        while not await is_so():  # noqa: ASYNC110 — there is nothing to be told by.
            await asyncio.sleep(0.01)


async def until_said(capsys: pytest.CaptureFixture[str], text: str) -> str:
    """Wait for a log line of this process; everything that was said up to then."""
    said = ""

    async def is_said() -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return text in said

    await eventually(is_said, 30)
    return said


async def answers(platform: Platform, tasks: list[asyncio.Task[None]], path: str = "/api/health/live") -> None:
    """Wait until the API answers 200 on the path."""
    async with asyncio.timeout(30), platform.client() as http:
        while True:
            for task in tasks:
                if task.done():
                    task.result()
            with contextlib.suppress(httpx2.TransportError):
                if (await http.get(path)).status_code == 200:
                    return
            await asyncio.sleep(0.02)
