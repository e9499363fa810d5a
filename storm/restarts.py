"""Counts how often each process was started again: no more than the storm explains (V2)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from checker.violation import Violation
from storm.world import World


class Restarts:
    """Looks at the processes twice a second."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[tuple[str, int], set[tuple[int, str]]] = defaultdict(set)

    def look(self) -> None:
        """Note who runs now."""
        for row in self._world.rows():
            if row.service != "trainer" and row.pid is not None and row.started is not None:
                self._seen[row.service, row.index].add((row.pid, row.started))

    async def watch(self) -> None:
        """For ever; cancel it to end."""
        while True:
            self.look()
            await asyncio.sleep(0.5)

    def counted(self) -> dict[str, int]:
        """Restarts by service."""
        counts: dict[str, int] = defaultdict(int)
        for (service, _), pids in self._seen.items():
            counts[service] += len(pids) - 1
        return dict(counts)

    def check(self, ended: Mapping[str, int], full: Collection[str]) -> Iterator[Violation]:
        """V2. A server whose disk was full ends by itself, and again at each start until there is room."""
        for service, count in sorted(self.counted().items()):
            if service not in full and count > ended.get(service, 0):
                said = f"{service} was started again {count} times and ended by the storm {ended.get(service, 0)} times"
                yield Violation("V2", said)
