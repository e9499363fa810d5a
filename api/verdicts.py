"""What the log's order made of a request: waited for by everybody at once, looked up in one query a commit.

The projector writes the verdict on the first occurrence of every request id, and announces each commit. Who waits is found
in the table then; how many wait makes no difference to how often it is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import asyncpg
import msgspec
import structlog

from adapters.postgres import is_outage
from api.versions import Commits, home

log = structlog.get_logger("api")

_LOOK_AGAIN_SECONDS = 0.25
"""How long an announcement may be missing before the table is asked without one."""
Key = tuple[str, str]
"""Workspace and request id."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on the first occurrence of a request."""

    id: str
    type: str
    subject: str
    version: int | None
    refusal: str | None
    requesthash: str | None


class _Awaited:
    """One verdict, and how many wait for it."""

    __slots__ = ("by", "verdict")

    def __init__(self) -> None:
        self.by = 0
        self.verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()


class Verdicts:
    """Everybody in this process who waits for one."""

    def __init__(self, pool: asyncpg.Pool, commits: Commits) -> None:
        self._pool = pool
        self._commits = commits
        self._waiting: dict[int, dict[Key, _Awaited]] = {}
        self._looking: dict[int, asyncio.Task[None]] = {}

    async def earlier(self, workspace: str, id: str) -> Verdict | None:
        """The verdict on an id that may have been used before, if there is one already."""
        found = await self._find([(workspace, id)])
        return found.get((workspace, id))

    @contextmanager
    def expected(self, workspace: str, id: str) -> Iterator[asyncio.Future[Verdict]]:
        """Wait for a verdict from before its record is appended, so that no announcement is missed."""
        partition, key = home(workspace), (workspace, id)
        waiting = self._waiting.setdefault(partition, {})
        awaited = waiting.setdefault(key, _Awaited())
        awaited.by += 1
        if partition not in self._looking:
            self._looking[partition] = asyncio.create_task(self._look(partition, self._commits.count[partition]))
        try:
            yield awaited.verdict
        finally:
            awaited.by -= 1
            if awaited.by == 0 and waiting.get(key) is awaited:
                del waiting[key]

    async def _look(self, partition: int, count: int) -> None:
        """Serve those who wait in one partition, until nobody does. `count`: the commits before anybody did."""
        waiting = self._waiting[partition]
        try:
            while waiting:
                await self._commits.after(partition, count, _LOOK_AGAIN_SECONDS)
                count = self._commits.count[partition]
                try:
                    found = await self._find(list(waiting))
                except Exception as error:
                    if not is_outage(error):
                        log.error("verdicts could not be read", exc_info=error)
                    await asyncio.sleep(0.1)
                    continue
                for key, verdict in found.items():
                    awaited = waiting.pop(key, None)
                    if awaited is not None and not awaited.verdict.done():
                        awaited.verdict.set_result(verdict)
        finally:
            del self._looking[partition], self._waiting[partition]

    async def _find(self, keys: Sequence[Key]) -> dict[Key, Verdict]:
        if not keys:
            return {}
        rows = await self._pool.fetch(_FIND, [key[0] for key in keys], [key[1] for key in keys])
        return {
            (row["workspace"], row["id"]): Verdict(
                id=row["id"],
                type=row["type"],
                subject=row["subject"],
                version=row["version"],
                refusal=row["refusal"],
                requesthash=row["requesthash"],
            )
            for row in rows
        }


_FIND = """
SELECT r.workspace, r.id, r.type, r.subject, r.version, r.refusal, r.requesthash
FROM unnest($1::text[], $2::text[]) AS asked (workspace, id)
JOIN log.requests r ON r.workspace = asked.workspace AND r.id = asked.id
"""
