"""A server with the relay's sockets: uvicorn as it runs in production, a journal in memory, tickets that are names."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from websockets.asyncio.client import ClientConnection, connect

from adapters.kafka import partition_of
from adapters.settings import Settings
from api.live import UVICORN_OPTIONS
from api.live.hub import Hub
from api.live.socket import Sockets
from api.live.tickets import Holder
from schemas.topics import EVENTS
from tests.api.live.fakes import FakeJournal
from tests.api.live.history import LOG, Workspace

DEADLINE = 20.0


class Doors:
    """Tickets and sessions in memory: the ticket `ana` belongs to ana, in the workspace `one`."""

    def __init__(self) -> None:
        self.holders = {
            "ana": Holder("ana", "one", "session-ana", time.time() + 3600),
            "bob": Holder("bob", "two", "session-bob", time.time() + 3600),
        }
        self.ended: set[str] = set()
        self._callbacks: list[Callable[[str], None]] = []

    async def redeem(self, ticket: str) -> Holder | None:
        return self.holders.get(ticket)

    def is_ended(self, session_id: str) -> bool:
        return session_id in self.ended

    def on_end(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    def end(self, session_id: str) -> None:
        self.ended.add(session_id)
        for callback in self._callbacks:
            callback(session_id)


class Client:
    """A socket that speaks in messages."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def hear(self, deadline: float = DEADLINE) -> dict[str, Any]:
        async with asyncio.timeout(deadline):
            message: dict[str, Any] = msgspec.json.decode(await self.connection.recv())
        return message

    async def hear_updates(self, count: int) -> list[dict[str, Any]]:
        """The next updates, of any job; nothing else may come between."""
        heard = [await self.hear() for _ in range(count)]
        assert {message["type"] for message in heard} <= {"job_update"}, heard
        return heard


class Server:
    """The server, its history, and the ways in."""

    def __init__(self, settings: Settings) -> None:
        self.workspace = Workspace("one")
        self.other = Workspace("two")
        self.journal = FakeJournal([self.workspace, self.other], random.Random(0), page=50)
        self.journal.quick = True
        self.hub = Hub(self.journal)
        self.hub.log_is(LOG)
        self.doors = Doors()
        doors: Any = self.doors
        self.sockets = Sockets(settings, doors, doors, self.hub)
        self.port = 0
        self.offset = 0

    def append(self, *jobs: str | None, workspace: Workspace | None = None, pad: int = 0) -> None:
        """Records take effect, are committed, and their facts come."""
        held = workspace or self.workspace
        records = []
        for job in jobs:
            held.append(job, self.offset, pad=pad)
            records.append((held.name, held.facts[-1], self.offset))
            self.offset += 1
        self.journal.committed[held.name] = len(held.facts)
        partition = partition_of(held.name.encode(), EVENTS.partitions)
        self.hub.facts(partition, records)
        self.hub.committed(partition, self.offset)

    @asynccontextmanager
    async def client(self, ticket: str = "ana", **options: Any) -> AsyncIterator[Client]:
        url = f"ws://127.0.0.1:{self.port}/api/ws?ticket={ticket}"
        async with connect(url, **{"close_timeout": 1, **options}) as connection:
            yield Client(connection)

    @asynccontextmanager
    async def serving(self, **options: Any) -> AsyncIterator[Server]:
        app = Starlette(routes=[WebSocketRoute("/api/ws", self.sockets.serve)])
        config = uvicorn.Config(
            app, port=0, lifespan="off", log_config=None, timeout_graceful_shutdown=1, **{**UVICORN_OPTIONS, **options}
        )
        server = uvicorn.Server(config)
        audit = asyncio.create_task(self.hub.audit())
        serving = asyncio.create_task(server.serve())
        async with asyncio.timeout(DEADLINE):
            while not server.started:  # noqa: ASYNC110 — uvicorn offers nothing to wait for.
                await asyncio.sleep(0.005)
        self.port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self.sockets.close_all(1012, "the test is over")
            server.should_exit = True
            await serving
            audit.cancel()
            await self.hub.close()


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[Server]:
    async with Server(settings).serving() as running:
        yield running
