"""Hears the database's notifications, on one connection of its own for the whole process.

A notification comes after the commit that sent it, or never: while the connection is away nothing is heard. So whoever
relies on it is told when that begins and when it ends, and asks the tables for what it missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import structlog

from adapters.postgres import connect, is_outage
from adapters.settings import DatabaseSettings
from api.errors import unavailable

log = structlog.get_logger("api")

_PULSE_SECONDS = 1.0
"""A peer that went silent without closing is noticed after about this long, twice."""
_SILENT_SECONDS = 1.5
_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)


class Listener:
    """The connection. `hear` first, then `run` until cancelled."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._hearers: dict[str, list[Callable[[str], None]]] = {}
        self._on_change: list[Callable[[bool], None]] = []
        self._on_frozen: list[Callable[[], None]] = []
        self.connected = False
        self.generation = 0
        """Counts the connections: what was asked under one may be forgotten news under the next."""
        self._silent_since: float | None = time.monotonic()

    def hear(self, channel: str, hearer: Callable[[str], None]) -> None:
        """Call with the payload of every notification on the channel."""
        self._hearers.setdefault(channel, []).append(hearer)

    def on_change(self, changed: Callable[[bool], None]) -> None:
        """Call with False when hearing ends, and with True when it begins (again)."""
        self._on_change.append(changed)

    def on_frozen(self, frozen: Callable[[], None]) -> None:
        """Call when the database is connected and yet does not answer."""
        self._on_frozen.append(frozen)

    def check(self) -> None:
        """Raise 503 while the database has not answered for a while: whoever asked it now would only wait in a queue."""
        if self._silent_since is not None and time.monotonic() - self._silent_since > _SILENT_SECONDS:
            raise unavailable(
                "read_model_unavailable", "The database does not answer. Nothing was changed; try again shortly."
            )

    async def run(self) -> None:
        """Listen, and connect again whenever that ends."""
        failures = 0
        while True:
            try:
                await self._listen()
            except Exception as error:
                if not is_outage(error):
                    log.error("listener failed", exc_info=error)
                elif failures == 0:
                    log.warning("database connection lost", reason=type(error).__name__)
            failures = 0 if self._became_connected() else failures + 1
            await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])

    def _became_connected(self) -> bool:
        """Whether the attempt that ended had succeeded; says that it is over."""
        was, self.connected = self.connected, False
        if was:
            self._silent_since = time.monotonic()
            self._tell(False)
        return was

    async def _listen(self) -> None:
        connection: asyncpg.Connection = await connect(self._settings, name="api-listener")
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _connection: lost.set())
            for channel in self._hearers:
                await connection.add_listener(channel, self._heard)
            self.connected = True
            self.generation += 1
            self._silent_since = None
            self._tell(True)
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PULSE_SECONDS):
                        await lost.wait()
                    return
                try:
                    await connection.fetchval("SELECT 1", timeout=_PULSE_SECONDS)
                except TimeoutError:
                    for tell in self._on_frozen:
                        tell()
                    raise
        finally:
            connection.terminate()

    def _heard(self, _connection: Any, _pid: int, channel: str, payload: str) -> None:
        for hearer in self._hearers.get(channel, ()):
            try:
                hearer(payload)
            except Exception as error:
                log.error("a notification could not be handled", channel=channel, exc_info=error)

    def _tell(self, connected: bool) -> None:
        for changed in self._on_change:
            changed(connected)
