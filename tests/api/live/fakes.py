"""A journal and a client in memory: the ends of the relay's pure part."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from api.live import messages
from api.live.feed import COMMITTED
from api.live.hub import update_of
from api.live.journal import Page, Snapshot
from schemas import facts
from tests.api.live.history import LOG, Workspace, messages_of


class FakeJournal:
    """The committed part of some histories. Answers take a random while, and now and then the server is away."""

    def __init__(self, workspaces: Sequence[Workspace], rng: random.Random, *, page: int = 7) -> None:
        self.workspaces = {workspace.name: workspace for workspace in workspaces}
        self.committed = {workspace.name: 0 for workspace in workspaces}
        self.log = LOG
        self.away = False
        self.quick = False
        """Answer at once."""
        self.reads = 0
        self._rng = rng
        self._page = page

    async def _wait(self) -> None:
        self.reads += 1
        await asyncio.sleep(0 if self.quick else self._rng.choice((0, 0.001, 0.01, 0.3)))
        if self.away:
            raise ConnectionRefusedError("the server is away")

    async def snapshot(self, workspace: str, job_id: str | None) -> Snapshot:
        await self._wait()
        version = self.committed.get(workspace, 0)
        known = workspace in self.workspaces and job_id in self.workspaces[workspace].jobs[:version]
        answer = Snapshot(version, self.log, messages.document({"job_id": job_id}) if job_id and known else None)
        await asyncio.sleep(0 if self.quick else self._rng.choice((0, 0.01)))  # It is old by the time it arrives.
        return answer

    async def since(self, workspace: str, version: int, job_id: str | None) -> Page:
        await self._wait()
        held, through = self.workspaces[workspace], self.committed[workspace]
        about = (v for v in range(version + 1, through + 1) if job_id is None or held.jobs[v - 1] == job_id)
        found = list(islice(about, self._page + 1))
        page = [update_of(facts.decode(held.facts[v - 1]), COMMITTED) for v in found[: self._page]]
        await asyncio.sleep(0 if self.quick else self._rng.choice((0, 0.01)))
        if page and (job_id is None or len(page) < len(found)):
            return Page(page, page[-1].version)
        return Page(page, max(version, through) if job_id else version)

    async def versions(self, workspaces: Sequence[str]) -> Mapping[str, int]:
        await self._wait()
        return {name: self.committed[name] for name in workspaces}


class FakeSink:
    """A client that takes `rate` bytes each time it is let, all at once by default, or nothing."""

    def __init__(self, check: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.on_drain: Callable[[], None] | None = None
        self.received: list[dict[str, Any]] = []
        self.ended: tuple[int, str] | None = None
        self.most_waiting = 0
        self.reading = True
        self._check = check
        self._buffer = b""
        self._limit = 64 * 1024
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def writable(self) -> bool:
        return self._writable.is_set()

    @property
    def closed(self) -> bool:
        return self.ended is not None

    def limit(self, waiting: int) -> None:
        self._limit = waiting

    def waiting(self) -> int:
        return len(self._buffer)

    def write(self, frames: bytes) -> None:
        if self.closed:
            return
        if self._check:
            for message in messages_of(frames):
                self._check(message)
        self._buffer += frames
        self.most_waiting = max(self.most_waiting, len(self._buffer))
        if len(self._buffer) > self._limit:
            self._writable.clear()
        if self.reading:
            asyncio.get_running_loop().call_soon(self.drain)

    def drain(self) -> None:
        """The client takes all that waits."""
        self.received += messages_of(self._buffer)
        self._buffer = b""
        if not self._writable.is_set():
            self._writable.set()
            if self.on_drain:
                self.on_drain()

    async def drained(self) -> None:
        await self._writable.wait()

    def close(self, code: int, reason: str, linger: float) -> None:
        if self.ended is None:
            self.ended = (code, reason)
            self._writable.set()

    def updates(self, job_id: str | None = None) -> list[dict[str, Any]]:
        """The updates that came, of one job or all."""
        return [m for m in self.received if m["type"] == "job_update" and job_id in (None, m["job_id"])]

    def of_type(self, type: str) -> list[dict[str, Any]]:
        """The messages of a type."""
        return [message for message in self.received if message["type"] == type]
