"""One service of Ravand as a program to keep running: `python -m cli <name>`."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# The root of the packages, put first: without it a service would not find them when they are not installed.
SOURCE = Path(__file__).resolve().parent.parent


@dataclass
class Service:
    """Reads its settings from the environment, waits by itself for the servers it needs, ends on SIGTERM."""

    name: str
    settings: Mapping[str, str]
    folder: Path
    index: int = 0
    address: str | None = None
    # It waits for its servers as long as they take, and a first start may fetch them first.
    patience_seconds: float | None = None
    grace_seconds: float = 10.0
    hurry_signal: signal.Signals = signal.SIGKILL
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    before_exec: Callable[[], None] | None = field(default=None)

    async def prepare(self) -> None:
        """Nothing: what it needs is made by the servers and by `admin init`."""

    def command(self) -> Sequence[str]:
        """`-P` keeps the current folder off the path: a file `cli.py` in it is not ours."""
        return [sys.executable, "-P", "-m", "cli", self.name]

    def environment(self) -> Mapping[str, str]:
        """The settings, and what the operator's environment says beside them."""
        return self.settings

    async def answers(self) -> None:
        """Returns once it answers 200 on its health path; one that does not listen is taken to work once it lives."""
        if self.address is None:
            return
        while not await _is_ready(self.address):  # noqa: ASYNC110 - another process cannot set an event of ours
            await asyncio.sleep(0.05)


async def _is_ready(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(f"GET /api/health/ready HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
                return (await reader.readline()).split()[1:2] == [b"200"]
            finally:
                writer.close()
    except OSError:
        return False
