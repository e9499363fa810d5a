"""How far the read model is: for the version that answers carry, and for readers that ask to see at least one.

The projector announces every commit with its partition. What was read since the last announcement is still true, so most
answers cost no query for their version.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import asyncpg

from adapters.kafka import partition_of
from api.errors import unavailable
from api.listener import Listener
from projections import announcements
from projections.queries import workspace_version
from schemas.topics import EVENTS

_REMEMBERED = 10_000
_LOOK_AGAIN_SECONDS = 0.25
"""While announcements may be missed, the table is looked at this often."""


class Commits:
    """Counts the projector's commits by partition, and lets one wait for the next."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.count = [0] * EVENTS.partitions
        self._next: list[asyncio.Event] = [asyncio.Event() for _ in range(EVENTS.partitions)]
        listener.hear(announcements.COMMITS, self._heard)
        listener.on_change(self._hearing_changed)

    @property
    def heard(self) -> bool:
        """Whether announcements arrive."""
        return self._listener.connected

    async def after(self, partition: int, count: int, seconds: float) -> None:
        """Return once there is a commit beyond the `count`-th, or the time is over."""
        if self.count[partition] != count:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._next[partition].wait()
        except TimeoutError:
            return

    def _heard(self, payload: str) -> None:
        partition = payload.partition(":")[0]
        if partition.isdecimal() and int(partition) < EVENTS.partitions:
            self._count(int(partition))

    def _hearing_changed(self, _connected: bool) -> None:
        for partition in range(EVENTS.partitions):  # There may have been commits: look again, everywhere.
            self._count(partition)

    def _count(self, partition: int) -> None:
        self.count[partition] += 1
        waited, self._next[partition] = self._next[partition], asyncio.Event()
        waited.set()


class Versions:
    """The versions of workspaces."""

    def __init__(self, pool: asyncpg.Pool, commits: Commits, deadline_seconds: float) -> None:
        self._pool = pool
        self._commits = commits
        self._deadline = deadline_seconds
        self._known: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """Version of a workspace, and how many commits its partition had had before it was read."""

    async def current(self, workspace: str) -> int:
        """The workspace's version; what is read afterwards is at least as new."""
        count = self._commits.count[home(workspace)]
        known = self._known.get(workspace)
        if known is not None and known[1] == count and self._commits.heard:
            return known[0]
        version = max(await workspace_version(self._pool, workspace), known[0] if known else 0)
        self._known[workspace] = (version, count)
        self._known.move_to_end(workspace)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return version

    def saw(self, workspace: str, version: int) -> None:
        """A verdict was read that has this version: answers from here on are at least as new."""
        known = self._known.get(workspace)
        if known is not None and known[0] < version:
            self._known[workspace] = (version, known[1])

    async def reach(self, workspace: str, version: int) -> int:
        """Wait until the read model is at that version. Raises 503 `version_not_reached`."""
        loop, partition = asyncio.get_running_loop(), home(workspace)
        until = loop.time() + self._deadline
        while True:
            count = self._commits.count[partition]
            now = await self.current(workspace)
            if now >= version:
                return now
            left = until - loop.time()
            if left <= 0:
                raise unavailable(
                    "version_not_reached",
                    f"The workspace is at version {now}; version {version} was not reached in time.",
                    version=now,
                )
            await self._commits.after(
                partition, count, min(left, _LOOK_AGAIN_SECONDS if not self._commits.heard else 1.0)
            )


def home(workspace: str) -> int:
    """The partition of the log in which the workspace lives."""
    return partition_of(workspace.encode(), EVENTS.partitions)
