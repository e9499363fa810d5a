"""An API whose file descriptors are used up refuses or delays, answers again when some are free, and never dies of it."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator

import httpx2
import psutil
import pytest
import pytest_asyncio

from adapters.settings import Settings
from tests.api.platform import Platform, eventually, service

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(module_settings: Settings, platform: Platform) -> AsyncIterator[tuple[Platform, psutil.Process]]:
    """Another API process beside the one that works with the projector."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = module_settings.model_copy(update={"api": module_settings.api.model_copy(update={"port": port})})
    async with service("api", settings) as process:
        other = Platform(settings, f"http://127.0.0.1:{port}")
        await eventually(lambda: answers(other), 60)
        yield other, psutil.Process(process.pid)


async def answers(platform: Platform) -> bool:
    """Whether it is ready."""
    with contextlib.suppress(httpx2.TransportError):
        async with platform.client() as http:
            return (await http.get("/api/health/ready", timeout=5)).status_code == 200
    return False


async def test_without_descriptors_it_lives_and_with_some_it_answers_again(
    platform: Platform, api: tuple[Platform, psutil.Process]
) -> None:
    limited, process = api
    port = int(limited.url.rpartition(":")[2])
    before = process.rlimit(resource.RLIMIT_NOFILE)
    process.rlimit(resource.RLIMIT_NOFILE, (process.num_fds() + 40, before[1]))
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
    try:
        await eventually(lambda: used_up(process), 30)
        assert not await answers(limited), "nobody new is let in"
    finally:
        for _, writer in held:
            writer.close()
    await eventually(lambda: answers(limited), 60)
    async with platform.member() as member, limited.client(member.token) as http:
        answer = await http.post("/api/datasets", files={"file": ("a.csv", b"a,kind\n1,x\n2,y\n" * 20)})
        assert answer.status_code == 201, answer.text
    assert process.is_running()
    assert process.status() != psutil.STATUS_ZOMBIE
    process.rlimit(resource.RLIMIT_NOFILE, before)


async def used_up(process: psutil.Process) -> bool:
    """Whether it may open nothing more."""
    return process.num_fds() >= process.rlimit(resource.RLIMIT_NOFILE)[0]
