"""Puts new tables in the place of the live ones: in one transaction, and only where both stand at the same position.

Writers are kept out first, then the cursors are locked, and the new rows are brought to exactly where the live ones stand;
readers go on meanwhile. Only for the exchange of the names themselves they wait, some milliseconds. Who waits for a lock for
longer than that lets go and tries again, so nobody who reads is held up by somebody else who reads for long.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg

from projections.rebuild import shadow
from projections.tables import HOMES, NEXT, PREVIOUS, PROJECTED

WRITERS_SECONDS = 2.0
"""Longer than PostgreSQL takes to send a vacuum away that is in the way, which is a second."""
READERS_SECONDS = 0.3
"""How long reads may be held up by an attempt that comes to nothing."""
_ASIDE = "rebuild"
_BLOCKERS = """
SELECT DISTINCT a.pid, a.application_name, extract(epoch FROM now() - a.xact_start)::int AS seconds
  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.relation = ANY(SELECT to_regclass(t) FROM unnest($1::text[]) AS t) AND l.granted AND a.pid <> pg_backend_pid()
   AND a.xact_start < now() - interval '1 second' ORDER BY seconds DESC
"""
Positions = Mapping[int, int]
BUSY = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
"""Somebody was in the way, and nothing was changed."""


class NotAligned(Exception):
    """The new tables do not stand where the live ones do, or were not folded from the same bytes. Nothing was swapped."""


async def lock_cursors(connection: Any) -> Positions:
    """Keep the live read model where it is until the transaction ends; its positions."""
    await _at_most(connection, WRITERS_SECONDS)
    rows = await connection.fetch("SELECT partition, next_offset FROM log.cursors ORDER BY partition FOR UPDATE")
    return {row["partition"]: row["next_offset"] for row in rows}


async def swap(
    connection: Any,
    schema: str,
    projections: Sequence[str],
    bring_to: Callable[[Positions], Awaitable[None]],
) -> Positions:
    """Exchange these projections, inside the caller's transaction; the positions at which it was done.

    `bring_to` brings the tables of `schema` there. Raises one of `BUSY` when somebody is in the way, and `NotAligned`;
    then the transaction must be rolled back.
    """
    await _at_most(connection, WRITERS_SECONDS)
    await connection.execute(f"LOCK TABLE {', '.join(PROJECTED)} IN EXCLUSIVE MODE")
    positions = await lock_cursors(connection)
    await bring_to(positions)
    if wrong := await connection.fetch(
        f"SELECT l.partition FROM log.cursors l LEFT JOIN {schema}.cursors n ON n.partition = l.partition"  # noqa: S608
        " WHERE (l.next_offset, l.rules, l.chain) IS DISTINCT FROM (n.next_offset, n.rules, n.chain)"
        " AND NOT (l.next_offset = 0 AND n.partition IS NULL)"
    ):
        raise NotAligned(
            f"partitions {[row['partition'] for row in wrong]} do not stand where the live read model does"
        )
    await _at_most(connection, READERS_SECONDS)
    named = [home for home in PROJECTED if home.partition(".")[2] in projections]
    await connection.execute(f"LOCK TABLE {', '.join(named)} IN ACCESS EXCLUSIVE MODE")
    await _exchange(connection, schema, projections)
    await connection.execute("UPDATE log.cursors SET generation = generation + 1")
    return positions


async def _exchange(connection: Any, schema: str, projections: Sequence[str]) -> None:
    """The names alone are changed. What was live goes to `previous`, whole: with it stand, where only some projections were
    asked for, the new tables of the others, since going on with it needs all of them at one position."""
    for name in projections:
        await connection.execute(f"ALTER TABLE {HOMES[name]} SET SCHEMA {_ASIDE}")
        await connection.execute(f"ALTER TABLE {schema}.{name} SET SCHEMA {HOMES[name].partition('.')[0]}")
    if schema == NEXT:
        await shadow.drop(connection, PREVIOUS)
        for name in (*(name for name in HOMES if name not in projections), "cursors"):
            await connection.execute(f"ALTER TABLE {NEXT}.{name} SET SCHEMA {PREVIOUS}")
    for name in projections:
        await connection.execute(f"ALTER TABLE {_ASIDE}.{name} SET SCHEMA {PREVIOUS}")


async def _at_most(connection: Any, seconds: float) -> None:
    await connection.execute(f"SET LOCAL lock_timeout = {int(seconds * 1000)}")


async def in_the_way(connection: Any) -> str:
    """Who holds the tables for longer than a moment, for a sentence; empty where nobody does."""
    rows = await connection.fetch(_BLOCKERS, list(PROJECTED))
    return ", ".join(f"{row['application_name'] or 'a session'} (pid {row['pid']}, {row['seconds']} s)" for row in rows)
