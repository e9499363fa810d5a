"""A worker's side of the log, and a member's side of the socket, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import uuid_utils
from websockets.asyncio.client import connect

from adapters.kafka import Appender, producer, topic_name
from adapters.settings import Settings
from domain.events import AttemptStarted, EpochCompleted, Event
from schemas import envelope
from schemas.topics import EVENTS
from tests.api.live.conftest import Client
from tests.api.platform import Member, Platform

DEADLINE = 60.0


class Worker:
    """Appends what a worker of one job would, one record at a time, until it is acknowledged."""

    def __init__(self, settings: Settings, workspace: str, job_id: str) -> None:
        self._settings = settings
        self.workspace = workspace
        self.job_id = job_id
        self.epoch = 0

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Worker]:
        """Connected, and with the attempt begun."""
        client = producer(self._settings.kafka)
        await client.start()
        self._appender = Appender(client, DEADLINE)
        try:
            await self.append(AttemptStarted(attempt=1, worker="w-1"))
            yield self
        finally:
            await client.stop()

    async def append(self, event: Event) -> None:
        """One record."""
        record = envelope.record(
            event,
            id=str(uuid_utils.uuid7()),
            source="w-1",
            subject=self.job_id,
            time="2026-01-01T00:00:00Z",
            workspace=self.workspace,
            actor="w-1",
        )
        await self._appender.append(
            topic_name(self._settings.kafka, EVENTS),
            key=self.workspace.encode(),
            value=envelope.encode(record),
            headers=envelope.headers(record),
        )

    async def epochs(self, count: int) -> None:
        """The next ones."""
        for _ in range(count):
            self.epoch += 1
            metrics = {"loss": 1 / self.epoch}
            await self.append(EpochCompleted(attempt=1, worker="w-1", epoch=self.epoch, metrics=metrics))


async def workspace_of(platform: Platform, member: Member) -> str:
    """The member's workspace."""
    connection = await asyncpg.connect(platform.settings.database.url.get_secret_value())
    try:
        query = "SELECT workspace_id FROM accounts.memberships WHERE user_id = $1"
        return str(await connection.fetchval(query, member.user["id"]))
    finally:
        await connection.close()


async def ticket_of(member: Member) -> str:
    """A new ticket."""
    answer = await member.http.post("/api/ws/ticket")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["ticket"])


@asynccontextmanager
async def socket_of(platform: Platform, member: Member, **options: Any) -> AsyncIterator[Client]:
    """A socket of the member's."""
    url = f"{platform.url.replace('http', 'ws')}/api/ws?ticket={await ticket_of(member)}"
    async with connect(url, **{"close_timeout": 1, **options}) as connection:
        yield Client(connection)


def assert_whole(updates: Sequence[dict[str, Any]], *, since: int = 0) -> None:
    """Nothing missing, nothing twice: each update's `previous` is the version of the one before it."""
    before = since
    for update in updates:
        assert update["type"] == "job_update", update
        assert update["version"] > before
        assert update["previous"] == before or (update is updates[0] and update["previous"] <= since)
        before = update["version"]


async def until_epoch(client: Client, epoch: int, heard: list[dict[str, Any]]) -> None:
    """Hear up to that epoch."""
    async with asyncio.timeout(DEADLINE):
        while not heard or heard[-1].get("epoch") != epoch:
            heard.append(await client.hear(DEADLINE))
