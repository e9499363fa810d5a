"""The live relay of one API process: what takes effect on the log, at the sockets that asked for it."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg
import msgspec
import structlog
from fastapi import APIRouter

from adapters.settings import Settings
from api.live import socket
from api.live.commits import Commits
from api.live.connection import RESTARTING
from api.live.hub import Hub
from api.live.ports import Listener, Sessions
from api.live.postgres_journal import JobDocument, PostgresJournal
from api.live.tail import Records, Tail
from api.live.tickets import Tickets
from schemas import telemetry
from schemas.facts import POSITION_HEADER
from schemas.topics import FACTS, TELEMETRY

READY_SECONDS = 10.0
OPEN_FILES = 65_536
"""Each socket is an open file; many systems start processes with a limit of 1,024."""

_log = structlog.get_logger("api.live")


class Relay:
    """Tails facts and telemetry once for the process, and serves the sockets."""

    router: APIRouter

    def __init__(
        self, settings: Settings, pool: asyncpg.Pool, sessions: Sessions, listener: Listener, *, document: JobDocument
    ) -> None:
        tickets = Tickets(pool)
        self.hub = Hub(PostgresJournal(pool, document))
        self.sockets = socket.Sockets(settings, tickets, sessions, self.hub)
        self.router = socket.router(self.sockets, tickets)
        self._commits = Commits(pool, listener, self.hub.committed, self.hub.log_is)
        self._facts = Tail(settings.kafka, FACTS, self.hub.wanted, self._facts_came)
        self.hub.on_stall = self._facts.restart
        self._telemetry = Tail(settings.kafka, TELEMETRY, self.hub.wanted, self._telemetry_came)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to follow. Returns at once: what is away is waited for, and reported by `problems`."""
        _allow_open_files()
        self._tasks = [
            asyncio.create_task(_forever(name, work), name=name)
            for name, work in (
                ("relay commits", self._commits.run),
                ("relay facts", self._facts.run),
                ("relay telemetry", self._telemetry.run),
                ("relay audit", self.hub.audit),
            )
        ]

    async def stop(self) -> None:
        """Close every socket and end."""
        self.sockets.close_all(RESTARTING, "the server restarts; reconnect and resume")
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.hub.close()
        for task in self._tasks:
            if not task.cancelled():
                task.result()

    def problems(self) -> dict[str, str]:
        """What is not as it should be, by part; for readiness. Sockets stay open and go on when it has passed."""
        found = {}
        if not self._commits.known.is_set():
            found["commits"] = "the projector's cursors could not be read yet"
        if self.hub.wanted.is_set() and not self._facts.following.is_set():
            found["facts"] = "not following Kafka"
        return found

    def _facts_came(self, partition: int, records: Records) -> None:
        self.hub.facts(
            partition,
            [
                (record.key.decode(errors="replace"), record.value, _position(record))
                for record in records
                if record.key and record.value
            ],
        )

    def _telemetry_came(self, _partition: int, records: Records) -> None:
        channels = self.hub.channels
        if not channels:
            return
        for record in records:
            try:
                measured = telemetry.decode(record.value or b"")
            except (msgspec.MsgspecError, ValueError):
                continue  # The telemetry sink reports it.
            if channel := channels.get(measured.workspace):
                channel.measurements.arrived(measured)


def _position(record: Any) -> int:
    for name, value in record.headers:
        if name == POSITION_HEADER:
            try:
                return int(value)
            except ValueError:
                break
    return 2**62  # Unknown, so never handed on from here: the journal has it.


async def _forever(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """A part of the relay may fail by a mistake of ours: it is reported and started again, the sockets stay open."""
    while True:
        try:
            await work()
        except Exception:
            _log.exception("a part of the relay failed", part=name)
        await asyncio.sleep(1)


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
