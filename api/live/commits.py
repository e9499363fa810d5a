"""Hears of the projector's commits: PostgreSQL's notifications, and the cursors themselves after every interruption."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import asyncpg
import structlog

from adapters import postgres
from adapters.settings import DatabaseSettings

CHANNEL = "ravand_commits"
CHECK_SECONDS = 5.0
"""How often the cursors are read although nothing is wrong: a connection that died silently is found out by it."""

_log = structlog.get_logger(__name__)


class Commits:
    """One connection that listens; `committed(partition, next_offset)` and `log_is(log_id)` are called as it hears."""

    def __init__(
        self,
        settings: DatabaseSettings,
        committed: Callable[[int, int], None],
        log_is: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._committed = committed
        self._log_is = log_is
        self.listening = asyncio.Event()
        """Set while notifications arrive."""

    async def run(self) -> None:
        """Listen for ever; connection trouble is waited out."""
        delay = 0.05
        while True:
            try:
                connection = await postgres.connect(self._settings, name="relay")
            except Exception as error:
                if not postgres.is_outage(error):
                    raise
                _log.warning("listener_waits", error=repr(error))
                await asyncio.sleep(delay)
                delay = min(1.0, delay * 2)
                continue
            try:
                await self._listen(connection)
            except Exception as error:
                if not postgres.is_outage(error):
                    raise
                _log.warning("listener_interrupted", error=repr(error))
                await asyncio.sleep(delay)
            finally:
                self.listening.clear()
                connection.terminate()
            delay = 0.05

    async def _listen(self, connection: asyncpg.Connection) -> None:
        lost = asyncio.Event()
        connection.add_termination_listener(lambda *_: lost.set())
        await connection.add_listener(CHANNEL, self._notified)
        while True:
            # Read after the listening began: no commit falls between the two.
            self._log_is(await connection.fetchval("SELECT log_id FROM log.history"))
            for partition, next_offset in await connection.fetch("SELECT partition, next_offset FROM log.cursors"):
                self._committed(partition, next_offset)
            self.listening.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await lost.wait()
                    raise ConnectionError("the connection was closed")

    def _notified(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        partition, _, next_offset = payload.partition(":")
        try:
            self._committed(int(partition), int(next_offset))
        except ValueError:
            _log.error("notification_unreadable", payload=payload[:100])
