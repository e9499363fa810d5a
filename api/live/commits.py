"""Hears of the projector's commits: PostgreSQL's notifications, and the cursors themselves whenever one may have been lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import asyncpg
import structlog

from adapters.postgres import is_outage
from api.live.ports import Listener
from projections import announcements

CHECK_SECONDS = 5.0
"""How often the cursors are read although nothing seems wrong."""

_log = structlog.get_logger("api.live")


class Commits:
    """Calls `log_is(log_id)` and `committed(partition, next_offset)` as it hears; the process's listener does the hearing."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        listener: Listener,
        committed: Callable[[int, int], None],
        log_is: Callable[[str], None],
    ) -> None:
        self._pool = pool
        self._committed = committed
        self._log_is = log_is
        self._changed = asyncio.Event()
        self.known = asyncio.Event()
        """Set once the cursors have been read."""
        listener.hear(announcements.COMMITS, self._heard)
        listener.on_change(self._on_change)

    async def run(self) -> None:
        """Read the cursors at the start, after every reconnection and now and then, for ever."""
        delay = 0.05
        while True:
            self._changed.clear()
            try:
                self._log_is(await self._pool.fetchval("SELECT log_id FROM log.history"))
                for partition, next_offset in await self._pool.fetch("SELECT partition, next_offset FROM log.cursors"):
                    self._committed(partition, next_offset)
                self.known.set()
                wait, delay = CHECK_SECONDS, 0.05
            except Exception as error:
                if not is_outage(error):
                    raise
                _log.warning("the cursors cannot be read", error=repr(error))
                wait, delay = delay, min(1.0, delay * 2)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    def _on_change(self, connected: bool) -> None:
        if connected:
            self._changed.set()

    def _heard(self, payload: str) -> None:
        partition, _, next_offset = payload.partition(":")
        self._committed(int(partition), int(next_offset))
