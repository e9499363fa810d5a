"""The projector: judges every record of its partitions, and stores and publishes what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Iterable

import asyncpg
import structlog

from adapters.postgres import as_it_is, connect, create_pool, is_outage
from adapters.settings import Settings
from projections.budget import Budget
from projections.flow import Common
from projections.health import Health
from projections.jobs_table import JobKey, JobsTable
from projections.judging import PartitionStopped
from projections.kafka_clients import Producers
from projections.ownership import Ownership
from projections.partition import Partition
from projections.reading import home
from projections.trouble import Trouble
from schemas.topics import EVENTS

IN_HAND_BYTES = 9 * 1024 * 1024
"""Three batches of a backlog: one is judged, one written, one published."""
MEMORY_KEYS = 8_000
"""Jobs and the like that a process keeps in memory when idle, over all its partitions."""
_TICK_SECONDS = 0.5
_PAUSE_SECONDS = 1.0
_STOP_SECONDS = 8.0
# The statements that load and upsert find rows by keys, and their plans are kept: made while a table is still small,
# a plan that reads all of it would be kept too, and the rate would fall as history grows.
_PLANS = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # By itself the server plans the look-up anew each time, which takes it five times as long as the look-up.
    "plan_cache_mode": "force_generic_plan",
}
log = structlog.get_logger(__name__)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Work until `stop` is set, on tables and topics that were found right; wait out whatever is away. Raises `LogDiverged`."""
    # Batches are made of tens of thousands of objects without cycles: looking for those each time costs a tenth.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    pool = await create_pool(settings.database, name="projector", plans=_PLANS, min_size=0, reset=as_it_is)
    producers = Producers(settings.kafka)
    projector = Projector(settings, pool, producers, stop)
    log.info("starting")
    try:
        await projector.run()
    finally:
        await producers.close()
        pool.terminate()
        log.info("gone")


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


class Projector:
    """Takes and lets go of partitions, and runs those that it has."""

    def __init__(self, settings: Settings, pool: asyncpg.Pool, producers: Producers, stop: asyncio.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._running: dict[int, tuple[Partition, asyncio.Task[None]]] = {}
        self._health = Health()
        self._broken: set[int] = set()
        """Partitions that this build cannot judge any further; a mended one may, so they are left to it."""
        trouble = Trouble()
        self._common = Common(
            pool=pool,
            kafka=settings.kafka,
            producers=producers,
            budget=Budget(IN_HAND_BYTES),
            memory_keys=lambda: MEMORY_KEYS // max(1, len(self._running)),
            table=JobsTable(settings.kafka, pool, self._show, trouble),
            trouble=trouble,
        )

    async def run(self) -> None:
        """Until told to stop. Raises `LogDiverged`."""
        trouble = self._common.trouble
        following = asyncio.create_task(self._common.table.run())
        try:
            while not self._stop.is_set():
                try:
                    await self._hold()
                except Exception as error:
                    if not is_outage(error):
                        raise
                    trouble.tell("the locks of the partitions are lost", error)
                    await self._end(list(self._running))
                    await _sleep(self._stop, _PAUSE_SECONDS)
        finally:
            following.cancel()
            await self._end(list(self._running))
            await asyncio.wait({following}, timeout=_PAUSE_SECONDS)

    def _show(self, jobs: Iterable[JobKey]) -> None:
        """Have the rows of these jobs published again, of those whose partition is ours."""
        for workspace, job_id in jobs:
            if (found := self._running.get(home(workspace.encode()))) is not None:
                found[0].progress.shown.add((workspace, job_id))

    async def _hold(self) -> None:
        """Keep the locks of one session, and run what they stand for."""
        connection = await connect(self._settings.database, name="projector-locks")
        try:
            ownership = Ownership(connection, EVENTS.partitions)
            await ownership.join()
            while not self._stop.is_set():
                await self._notice_ends(ownership)
                await self._balance(ownership)
                self._health.tell({number: one.progress for number, (one, _) in self._running.items()}, self._broken)
                await _sleep(self._stop, _TICK_SECONDS)
            await self._end(list(self._running))
        finally:
            connection.terminate()

    async def _balance(self, ownership: Ownership) -> None:
        quota = await ownership.quota()
        excess = sorted(ownership.owned)[quota:]
        if excess:
            await self._end(excess)
            for number in excess:
                await ownership.let_go(number)
            log.info("partitions let go", partitions=excess)
        if len(ownership.owned) < quota:
            taken = await ownership.take(quota - len(ownership.owned), self._broken)
            for number in taken:
                partition = Partition(number, self._common)
                self._running[number] = (partition, asyncio.create_task(partition.run()))
            if taken:
                log.info("partitions taken", partitions=taken)

    async def _notice_ends(self, ownership: Ownership) -> None:
        for number, (_, task) in list(self._running.items()):
            if not task.done():
                continue
            del self._running[number]
            try:
                task.result()
            except PartitionStopped as stopped:
                why = stopped.__cause__
                log.error(
                    "the partition stands still",
                    partition=number,
                    offset=stopped.offset,
                    record=stopped.id,
                    error=f"{type(why).__name__}: {why}",
                )
                self._broken.add(number)
            await ownership.let_go(number)

    async def _end(self, numbers: list[int]) -> None:
        """End these partitions in good order, or after a while without."""
        ending = [self._running.pop(number) for number in numbers]
        for partition, _ in ending:
            partition.stop()
        tasks = [task for _, task in ending]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_STOP_SECONDS)
            if late and self._stop.is_set():
                # Cancelled, asyncpg would ask the server to give up as well: one that is frozen never answers that either.
                self._common.pool.terminate()
                await asyncio.wait(late, timeout=_PAUSE_SECONDS)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                log.warning("a task ended with an error", error=f"{type(result).__name__}: {result}")
