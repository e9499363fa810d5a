"""Which projector takes which partition: an advisory lock for each, spread evenly over the projectors that are there.

For efficiency only: that two never write one stretch is the compare-and-set's doing. The locks belong to one session, so
they are free again the moment that a projector dies, or that the server learns that its machine has.
"""

from __future__ import annotations

import random
from collections.abc import Collection

import asyncpg

_PARTITIONS = 0x72617670
_MEMBERS = 0x7261766D
_MEMBERS_NOW = """
SELECT objid::bigint FROM pg_locks
 WHERE locktype = 'advisory' AND classid = $1 AND objsubid = 2 AND granted
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
 ORDER BY objid
"""


class Ownership:
    """This projector's membership and locks, on one connection. When that is lost, so are they."""

    def __init__(self, connection: asyncpg.Connection, partitions: int) -> None:
        self._connection = connection
        self._partitions = partitions
        self._member = 0
        self.owned: set[int] = set()

    async def join(self) -> None:
        """Be counted."""
        while True:
            member = random.randrange(1, 2**31)
            if await self._connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", _MEMBERS, member):
                self._member = member
                return

    async def quota(self) -> int:
        """How many partitions this projector should have now."""
        members = [row[0] for row in await self._connection.fetch(_MEMBERS_NOW, _MEMBERS)]
        each, more = divmod(self._partitions, len(members))
        return each + (members.index(self._member) < more)

    async def take(self, count: int, unwanted: Collection[int]) -> list[int]:
        """Lock up to `count` partitions that nobody has, none of the unwanted ones."""
        free = [p for p in range(self._partitions) if p not in self.owned and p not in unwanted]
        # In random order, so that several that start at once do not try for the same ones.
        random.shuffle(free)
        taken: list[int] = []
        for partition in free:
            if len(taken) >= count:
                break
            if await self._connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", _PARTITIONS, partition):
                taken.append(partition)
        self.owned.update(taken)
        return sorted(taken)

    async def let_go(self, partition: int) -> None:
        """Unlock one; its work must have ended."""
        await self._connection.fetchval("SELECT pg_advisory_unlock($1, $2)", _PARTITIONS, partition)
        self.owned.discard(partition)
