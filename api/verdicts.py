"""What the log's order made of a request: told with the projector's commits, or looked up in one query for all who wait.

The projector writes the verdict on the first occurrence of every request id, and announces each commit. Most announcements
bring the verdicts along. Where one does not, or may have been missed, who waits is found in the table; how many wait makes
no difference to how often it is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import asyncpg
import msgspec
import structlog

from adapters.postgres import is_outage
from api.gathered import Gathered
from api.listener import Listener
from api.versions import home
from projections import announcements

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

    def __init__(self, pool: asyncpg.Pool, listener: Listener) -> None:
        self._pool = pool
        self._waiting: dict[int, dict[Key, _Awaited]] = {}
        self._looking: dict[int, tuple[asyncio.Event, asyncio.Task[None]]] = {}
        """By partition: who serves those who wait there, and what tells it to look into the table."""
        self._told: dict[int, int] = {}
        """By partition: the commit (its next offset) of which all verdicts were told."""
        self._earlier = Gathered(self._find)
        listener.hear(announcements.VERDICTS, self._announced)
        listener.hear(announcements.COMMITS, self._committed)
        listener.on_change(self._hearing_changed)

    async def earlier(self, workspace: str, id: str) -> Verdict | None:
        """The verdict on an id that may have been used before, if there is one already."""
        return await self._earlier.get((workspace, id))

    @contextmanager
    def expected(self, workspace: str, id: str) -> Iterator[asyncio.Future[Verdict]]:
        """Wait for a verdict from before its record is appended, so that no announcement is missed."""
        partition, key = home(workspace), (workspace, id)
        waiting = self._waiting.setdefault(partition, {})
        awaited = waiting.setdefault(key, _Awaited())
        awaited.by += 1
        if partition not in self._looking:
            due = asyncio.Event()
            self._looking[partition] = due, asyncio.create_task(self._look(partition, due))
        try:
            yield awaited.verdict
        finally:
            awaited.by -= 1
            if awaited.by == 0 and waiting.get(key) is awaited:
                del waiting[key]

    def _announced(self, payload: str) -> None:
        told = announcements.decode(payload)
        self._told[told.partition] = told.next_offset
        for it in told.verdicts:
            self._serve(
                it.workspace,
                Verdict(
                    id=it.id,
                    type=it.type,
                    subject=it.subject,
                    version=it.version,
                    refusal=it.refusal,
                    requesthash=it.requesthash,
                ),
            )

    def _committed(self, payload: str) -> None:
        partition, _, next_offset = payload.partition(":")
        if str(self._told.get(int(partition))) != next_offset:
            self._look_into_table(int(partition))

    def _hearing_changed(self, _connected: bool) -> None:
        for partition in self._looking:
            self._look_into_table(partition)

    def _look_into_table(self, partition: int) -> None:
        if partition in self._looking:
            self._looking[partition][0].set()

    def _serve(self, workspace: str, verdict: Verdict) -> None:
        awaited = self._waiting.get(home(workspace), {}).pop((workspace, verdict.id), None)
        if awaited is not None and not awaited.verdict.done():
            awaited.verdict.set_result(verdict)

    async def _look(self, partition: int, due: asyncio.Event) -> None:
        """Serve those who wait in one partition out of the table, whenever that is due, until nobody waits."""
        waiting = self._waiting[partition]
        try:
            while waiting:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
                        await due.wait()
                due.clear()
                try:
                    found = await self._find(list(waiting))
                except Exception as error:
                    if not is_outage(error):
                        log.error("verdicts could not be read", exc_info=error)
                    await asyncio.sleep(0.1)
                    due.set()
                    continue
                for (workspace, _), verdict in found.items():
                    self._serve(workspace, verdict)
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
