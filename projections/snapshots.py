"""Keeps snapshots of jobs, so that going back in time folds little: behind the projector, never in its way.

It runs beside the telemetry sink, in a process that nobody waits for, and rests after each piece of work for longer than
that took, so that a backlog leaves the database to the projector. Everything here is derived from the journal and may be
thrown away (`forget`), which a change of the fold asks for. Several may run: who finds the progress moved by another
starts anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import asyncpg
import msgspec
import structlog

from adapters.postgres import create_pool, is_outage
from adapters.settings import Settings
from projections.as_of import EVERY, Standing, standings, step, store

_CHUNK = 1_000
"""Versions folded in one step: some ten milliseconds."""
_KEPT_JOBS = 5_000
_SECONDS = 5.0
"""How often somebody looks for new versions."""
_REST = 3.0
"""How much longer than a piece of work the rest after it is, for whoever keeps them in the background."""
_BROKEN_SECONDS = 60.0
"""After what should not happen: it is a mistake of ours, and its repetition a line a minute."""
_BEHIND = """
SELECT w.workspace, max(w.version) AS version, coalesce(max(s.version), 0) AS done
  FROM log.workspaces w LEFT JOIN audit.snapshots s ON s.workspace = w.workspace
 WHERE w.workspace <> 'system' GROUP BY w.workspace
HAVING max(w.version) >= coalesce(max(s.version), 0) + $1 ORDER BY w.workspace
"""
_RECORDS = """
SELECT subject, "offset", at, version, actor, value, CASE WHEN type = 'ravand.ModelRegistered' THEN tail END AS tail
  FROM log.journal WHERE workspace = $1 AND version > $2 AND version <= $3 AND type <> 'ravand.DatasetRegistered'
 ORDER BY version
"""
_MOVE = """
INSERT INTO audit.snapshots (workspace, version) VALUES ($1, $3)
    ON CONFLICT (workspace) DO UPDATE SET version = excluded.version WHERE snapshots.version = $2
"""
_encode = msgspec.json.Encoder().encode
log = structlog.get_logger(__name__)


async def catch_up(
    pool: Any, *, at_least: int = 1, rest: float = 0.0, told: Callable[[str, int, int], None] | None = None
) -> int:
    """Make what is missing, in every workspace that is `at_least` so many versions ahead; how many snapshots were made.

    `rest`: pause after each piece of work for so many times what it took. `told` hears the workspace, the version
    reached and the one to reach.
    """
    made = 0
    for row in await pool.fetch(_BEHIND, at_least):
        made += await _workspace(pool, row["workspace"], row["done"], row["version"], rest, told)
    return made


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Keep them until `stop`. Waits out whatever is away; the tables are there already."""
    pool = await create_pool(settings.database, name="snapshots", size=1, min_size=0)
    try:
        await keep(pool, stop)
    finally:
        pool.terminate()


async def keep(pool: Any, stop: asyncio.Event) -> None:
    """Catch up every few seconds until `stop`. Trouble of PostgreSQL is waited out."""
    while not stop.is_set():
        pause = _SECONDS
        working = asyncio.create_task(catch_up(pool, at_least=EVERY, rest=_REST))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        except Exception as error:
            if is_outage(error):
                log.warning("PostgreSQL is away", error=f"{type(error).__name__}: {error}")
            else:
                log.error("snapshots cannot be kept", exc_info=error)
                pause = _BROKEN_SECONDS
        finally:
            working.cancel()
            stopped.cancel()
            await asyncio.gather(working, stopped, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stop.wait()


async def forget(connection: Any) -> None:
    """Throw all snapshots away: after the fold was mended, or the journal replaced. They come again by themselves."""
    await connection.execute("TRUNCATE audit.job_states, audit.snapshots")


async def _workspace(
    pool: Any, workspace: str, done: int, version: int, rest: float, told: Callable[[str, int, int], None] | None
) -> int:
    held: OrderedDict[str, Standing] = OrderedDict()
    made = 0
    while done < version:
        began = time.monotonic()
        upto = min(done + _CHUNK, version)
        rows = await pool.fetch(_RECORDS, workspace, done, upto)
        unknown = {row["subject"] for row in rows} - held.keys()
        held.update(await standings(pool, workspace, sorted(unknown), done))
        fresh: list[tuple[str, str, int, int, bytes]] = []
        for row in rows:
            id = row["subject"]
            then = step(held.get(id), id, row)
            if then is None:
                continue
            if then.since >= EVERY:
                fresh.append((workspace, id, row["version"], then.offset, _encode(then.job)))
                then = Standing(then.job, then.offset, 0)
            held[id] = then
            held.move_to_end(id)
        while len(held) > _KEPT_JOBS:
            held.popitem(last=False)
        if not await _commit(pool, workspace, done, upto, fresh):
            return made
        made, done = made + len(fresh), upto
        if told is not None:
            told(workspace, done, version)
        await asyncio.sleep(rest * (time.monotonic() - began))
    return made


async def _commit(
    pool: asyncpg.Pool, workspace: str, done: int, upto: int, fresh: list[tuple[str, str, int, int, bytes]]
) -> bool:
    async with pool.acquire() as connection, connection.transaction():
        moved = await connection.execute(_MOVE, workspace, done, upto)
        if moved != "INSERT 0 1":
            return False  # Somebody else keeps the snapshots of this workspace just now.
        if fresh:
            await store(connection, fresh)
        return True
