"""A rebuild from beginning to end, and a rollback: the order of the steps, and what each leaves behind when it is interrupted."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from aiokafka.errors import KafkaError

from adapters.migrations import newest
from adapters.settings import Settings
from domain.events import SystemEvent
from projections import snapshots
from projections.first_error import first_error
from projections.rebuild import children, connecting, parity, records, runs, shadow, swap
from projections.rebuild.children import Interrupted
from projections.rebuild.replay import NotRebuildable, Replay
from projections.rebuild.runs import NAMES, Difference, Run, Status, TableReport
from projections.tables import NEXT, PREVIOUS
from projections.writing import LostRace

Told = Callable[[Status], None]
_FEW = 2_000
"""Records that may be left to be judged while the projector waits."""
PATIENCE_SECONDS = 60.0
"""How long somebody who reads for long is waited for."""
NOTED_SECONDS = 5.0
_LOOK_SECONDS = 0.25


class Unfinished(Exception):
    """Another run was interrupted, and has to be gone on with or cancelled first."""


class NothingKept(Exception):
    """There is nothing to roll back to."""


class Refused(Exception):
    """Verdicts of the journal are not what the log comes to: an alarm, and nothing was swapped."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"{run.report.verdicts:,} verdicts of the journal are not what the log comes to")
        self.run = run


class Cancelled(Exception):
    """Somebody asked for it. What had been made is dropped."""


class Busy(Exception):
    """Somebody has been reading the tables for so long that they could not be swapped. The new ones are ready."""


@dataclass(frozen=True)
class Wanted:
    """What to do, and how."""

    projections: tuple[str, ...] = NAMES
    processes: int = field(default_factory=lambda: os.cpu_count() or 1)
    dry_run: bool = False
    accept_differences: bool = False
    """Swap though verdicts of the journal are not what the log comes to."""
    actor: str = "admin"
    id: str | None = None


@dataclass(frozen=True)
class Done:
    """What came of it."""

    run: Run
    differences: list[Difference]
    noted: records.Outcome
    """Whether the log has noted it in the workspace `system`."""


async def rebuild(settings: Settings, wanted: Wanted, told: Told = lambda status: None) -> Done:
    """Make the read model anew, compare, and swap.

    Raises `runs.AlreadyRunning`, `Unfinished`, `NotRebuildable`, `Refused`, `Busy`, `Cancelled`, `Interrupted`.
    """
    async with _locked(settings) as connection:
        run = await _begun(connection, wanted)
        return await _Rebuild(settings, connection, run, wanted, told).do()


async def roll_back(settings: Settings, wanted: Wanted, told: Told = lambda status: None) -> Done:
    """Bring back what the last swap has replaced, after it has caught up. Raises `NothingKept` and the same."""
    async with _locked(settings) as connection:
        run = await _back(connection, wanted)
        return await _Rebuild(settings, connection, run, wanted, told).do()


async def cancel(settings: Settings) -> Run | None:
    """End what runs, or drop what an interrupted run has left; the run, if there was one to cancel."""
    connection = await connecting.connection(settings)
    try:
        try:
            await runs.lock(connection)
        except runs.AlreadyRunning:
            await runs.ask_to_cancel(connection)
            return await runs.newest_run(connection)
        run = await runs.newest_run(connection)
        if run is None or not run.is_unfinished:
            return None
        await _drop(settings, connection, run)
        return run
    finally:
        await connection.close()


async def drop_previous(settings: Settings) -> bool:
    """Give up what is kept for a rollback; whether there was anything."""
    async with _locked(settings) as connection:
        kept = await shadow.is_whole(connection, PREVIOUS)
        async with connection.transaction():
            await shadow.drop(connection, PREVIOUS)
        return kept


async def renew_snapshots(settings: Settings, told: Callable[[str, int, int], None] | None = None) -> int:
    """Throw the snapshots for time travel away, and make them again; how many. Reads are right meanwhile, and slower."""
    async with _locked(settings) as connection:
        await snapshots.forget(connection)
        pool = await connecting.pool(settings, 2)
        try:
            return await snapshots.catch_up(pool, told=told)
        finally:
            await pool.close()


@asynccontextmanager
async def _locked(settings: Settings) -> AsyncIterator[Any]:
    connection = await connecting.connection(settings)
    try:
        await runs.lock(connection)
        yield connection
    finally:
        connection.terminate()


async def _begun(connection: Any, wanted: Wanted) -> Run:
    """A new run with its empty tables, or the one that was interrupted."""
    before = await runs.newest_run(connection)
    if before is not None and before.is_unfinished:
        if before.kind != "rebuild" or before.projections != wanted.projections:
            names = "a rollback" if before.kind == "rollback" else f"a rebuild of {', '.join(before.projections)}"
            raise Unfinished(f"{names} was interrupted")
        if before.step == newest() and await shadow.is_whole(connection, NEXT):
            async with connection.transaction():
                run = await runs.go_on(connection, before, dry_run=wanted.dry_run)
                if before.dry_run:
                    await records.keep(connection, run, records.started(run))
            return run
        await runs.end(connection, before, "cancelled", "its tables were gone, or made by another version")
    async with connection.transaction():
        run = await runs.begin(
            connection, "rebuild", wanted.projections, wanted.actor, id=wanted.id, dry_run=wanted.dry_run
        )
        await records.keep(connection, run, records.started(run))
        await shadow.create(connection, NEXT)
    return run


async def _back(connection: Any, wanted: Wanted) -> Run:
    """A rollback of what the last swap has exchanged, or the one that was interrupted."""
    before = await runs.newest_run(connection)
    if before is not None and before.is_unfinished:
        if before.kind != "rollback":
            raise Unfinished(f"a rebuild of {', '.join(before.projections)} was interrupted")
        return await runs.go_on(connection, before, dry_run=False)
    last = await runs.last_swap(connection)
    if last is None or not await shadow.is_whole(connection, PREVIOUS):
        raise NothingKept("no tables of before are kept")
    if last.step != newest():
        raise NothingKept("the tables that are kept are of an older version of the platform")
    return await runs.begin(connection, "rollback", last.projections, wanted.actor, id=wanted.id, dry_run=False)


async def _drop(settings: Settings, connection: Any, run: Run) -> None:
    """End a run for good."""
    async with connection.transaction():
        if run.kind == "rebuild":
            await shadow.drop(connection, NEXT)
            await records.keep(connection, run, records.cancelled(run))
        await runs.end(connection, run, "cancelled")
    await records.send(settings, connection)


class _Rebuild:
    """One run, in the process that has the lock."""

    def __init__(self, settings: Settings, connection: Any, run: Run, wanted: Wanted, told: Told) -> None:
        self._settings = settings
        self._connection = connection
        self._run = run
        self._wanted = wanted
        self._told = told
        self._began = time.monotonic() - run.report.seconds
        self._pool: asyncpg.Pool
        self._replays: dict[int, Replay] = {}
        self._lag = 0
        self._compared_at: swap.Positions = {}
        self._found: dict[str, list[Difference]] = {}
        self._compared: dict[str, TableReport] = {}

    async def do(self) -> Done:
        """All of it."""
        self._pool = await connecting.pool(self._settings, 8)
        watching = await connecting.connection(self._settings)
        work = asyncio.create_task(self._work())
        watch = asyncio.create_task(self._watch(watching))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and watch.exception() is None:  # Somebody asks for an end.
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                await _drop(self._settings, self._connection, self._run)
                raise Cancelled("it was cancelled")
            return await work
        except (KafkaError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, LostRace) as error:
            raise Interrupted(f"{type(error).__name__}: {error}".partition("\n")[0]) from error
        finally:
            for task in (work, watch):
                task.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)
            for replay in self._replays.values():
                await replay.close()
            watching.terminate()
            self._pool.terminate()

    async def _watch(self, connection: Any) -> None:
        """Tell how far it is, and return when somebody asks for an end."""
        while True:
            status = await runs.status(connection)
            self._told(status)
            if status.run is not None and status.run.id == self._run.id and status.run.cancel:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _work(self) -> Done:
        # What an earlier run could not append goes first.
        await records.send(self._settings, self._connection)
        try:
            await self._catch_up_largely()
            if self._run.kind == "rebuild":
                await self._enter("indexing")
                await shadow.finish(self._connection, NEXT)
                await self._compare()
            await self._refuse_odd_verdicts()
            if self._wanted.dry_run:
                return await self._end_dry()
            if self._run.kind == "rebuild":
                await records.keep(self._connection, self._run, records.rebuilt(self._run))
            await self._swap()
        except Refused:
            await self._end_refused()
            raise
        except (NotRebuildable, Busy) as error:
            await runs.end(self._connection, self._run, "running", str(error))
            raise
        return await self._done()

    async def _enter(self, phase: str) -> None:
        self._run.report.seconds = round(time.monotonic() - self._began, 3)
        await runs.enter(self._connection, self._run, phase)

    # --- judging ------------------------------------------------------------------------------------------------------

    async def _behind(self) -> Mapping[int, int]:
        """Where the partitions have to go that are not there."""
        await shadow.begin_partitions(self._connection, self._run.schema)
        at = await runs.positions(self._connection, self._run.schema)
        self._run.report.records = sum(one.position for one in at)
        self._lag = sum(one.goal - one.position for one in at)
        return {one.partition: one.goal for one in at if one.goal > one.position}

    async def _catch_up_largely(self) -> None:
        """By as many processes as there are cores, until little is left."""
        await self._enter("replaying")
        while (goals := await self._behind()) and self._lag > _FEW:
            await children.replay(self._settings, self._run, goals, self._wanted.processes)

    async def _catch_up(self) -> None:
        """Until little is left of whatever is written meanwhile. From now on this process follows every partition."""
        await self._behind()
        await self._follow(p.partition for p in await runs.positions(self._connection, self._run.schema) if p.goal)
        while goals := await self._behind():
            lag = self._lag
            await self._follow(goals)
            await _together(self._replays[partition].to(goal) for partition, goal in goals.items())
            if lag <= _FEW:
                return

    async def _follow(self, partitions: Iterable[int]) -> None:
        fresh = [partition for partition in partitions if partition not in self._replays]
        for partition in fresh:
            self._replays[partition] = Replay(
                self._settings, self._pool, partition, schema=self._run.schema, run=self._run.id
            )
        await _together(self._replays[partition].start() for partition in fresh)

    async def _bring_to(self, positions: swap.Positions) -> None:
        """Every partition to exactly there. Raises `swap.NotAligned` for one that is not followed yet."""
        if fresh := [partition for partition, goal in positions.items() if goal and partition not in self._replays]:
            raise swap.NotAligned(f"partitions {fresh} were first written to this moment")
        await _together(self._replays[partition].to(goal) for partition, goal in positions.items() if goal)
        self._run.report.records = sum(positions.values())

    # --- comparing ----------------------------------------------------------------------------------------------------

    async def _compare(self) -> None:
        """Row by row, in one snapshot of the database in which both stand at the same position."""
        await self._enter("comparing")
        await runs.forget_rows(self._connection, self._run)
        self._run.report.tables.clear()
        async with AsyncExitStack() as stack:
            readers = [await stack.enter_async_context(_reader(self._settings)) for _ in range(2)]
            await self._at_one_moment(readers)
            epochs = [name for name in self._run.projections if name == "epochs"]
            rest = [name for name in self._run.projections if name != "epochs"]
            await _together(self._compare_tables(*pair) for pair in zip(readers, (epochs, rest), strict=True))
        self._compared = dict(self._run.report.tables)
        for found in self._found.values():
            await runs.note(self._connection, self._run.id, found)
        self._run.report.verdicts = await runs.odd_verdicts(self._connection, self._run)

    async def _at_one_moment(self, readers: Sequence[Any]) -> None:
        """Let the readers see the live rows and the new ones where both stand at one position."""

        async def once() -> None:
            async with self._connection.transaction():
                positions = await swap.lock_cursors(self._connection)
                await self._bring_to(positions)
                snapshot = await readers[0].fetchval("SELECT pg_export_snapshot()")
                for reader in readers[1:]:
                    await reader.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
                self._compared_at = positions

        await self._patiently(once)

    async def _compare_tables(self, connection: Any, names: Sequence[str]) -> None:
        for name in names:
            report, found = await parity.compare(connection, name, self._run.schema)
            self._run.report.tables[name], self._found[name] = report, found

    async def _compare_since(self) -> None:
        """What was changed between the comparison and the swap, under the locks of the swap."""
        touched = await parity.touched_since(self._connection, self._compared_at)
        for name in self._run.projections:
            report, found = await parity.compare(self._connection, name, self._run.schema, touched)
            known = {difference.key for difference in self._found[name]}
            fresh = [difference for difference in found if difference.key not in known]
            await runs.note(self._connection, self._run.id, fresh)
            # From what was found before, since an attempt that comes to nothing is made again.
            self._run.report.tables[name] = parity.together(self._compared[name], report if fresh else TableReport())

    async def _refuse_odd_verdicts(self) -> None:
        """Raises `Refused`: what was answered to people is not what the log comes to, and no swap can mend that."""
        run = self._run
        run.report.verdicts = await runs.odd_verdicts(self._connection, run)
        if not run.report.verdicts or self._wanted.accept_differences:
            return
        raise Refused(run)

    # --- the swap -----------------------------------------------------------------------------------------------------

    async def _swap(self) -> None:
        await self._enter("swapping")

        async def once() -> None:
            async with self._connection.transaction():
                await swap.swap(self._connection, self._run.schema, self._run.projections, self._bring_and_compare)
                await self._note_end("swapped", records.swapped(self._run))

        await self._patiently(once)

    async def _bring_and_compare(self, positions: swap.Positions) -> None:
        await self._bring_to(positions)
        if self._run.kind == "rebuild":
            await self._compare_since()
        await self._refuse_odd_verdicts()

    async def _patiently(self, once: Callable[[], Awaitable[None]]) -> None:
        """Do what needs everybody to let go for a moment, again and again for a while. Raises `Busy`."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            await self._catch_up()
            try:
                return await once()
            except (*swap.BUSY, swap.NotAligned) as error:
                if time.monotonic() > until:
                    who = await swap.in_the_way(self._connection)
                    raise Busy(
                        f"the tables could not be locked for {PATIENCE_SECONDS:.0f} s ({who or error})"
                    ) from None
            await asyncio.sleep(random.uniform(0.5, 1.5))

    # --- ends ---------------------------------------------------------------------------------------------------------

    async def _note_end(self, state: str, event: SystemEvent | None) -> None:
        self._run.report.seconds = round(time.monotonic() - self._began, 3)
        if event is not None:
            await records.keep(self._connection, self._run, event)
        await runs.end(self._connection, self._run, state)

    async def _end_refused(self) -> None:
        async with self._connection.transaction():
            await self._note_end("refused", records.rebuilt(self._run) if self._run.kind == "rebuild" else None)
        await records.send(self._settings, self._connection)

    async def _end_dry(self) -> Done:
        async with self._connection.transaction():
            await shadow.drop(self._connection, NEXT)
            await self._note_end("compared", None)
        return await self._done()

    async def _done(self) -> Done:
        sent = await records.send(self._settings, self._connection)
        noted = await self._noted() if sent else "waiting"
        run = await runs.newest_run(self._connection)
        assert run is not None
        return Done(run, await runs.differences(self._connection, run), noted)

    async def _noted(self) -> records.Outcome:
        """What the log made of the records; for a while, since a projector may not be running."""
        until = time.monotonic() + NOTED_SECONDS
        while True:
            outcome = records.outcome(await records.noted(self._connection, self._run), self._run)
            if outcome != "waiting" or time.monotonic() > until:
                return outcome
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _reader(settings: Settings) -> AsyncIterator[Any]:
    """A connection that will see one moment, from its first statement on."""
    connection = await connecting.connection(settings)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection
    finally:
        connection.terminate()


async def _together(work: Iterable[Coroutine[Any, Any, object]]) -> None:
    """All at once; the first that fails ends the others, and its error is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as several:
        raise first_error(several) from None
