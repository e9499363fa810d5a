"""The processes of a rebuild: each judges one partition after the other, the largest first, and dies with its parent."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import asyncpg
from aiokafka.errors import KafkaError

from adapters.processes import die_with
from adapters.settings import Settings
from projections.first_error import first_error
from projections.rebuild import connecting
from projections.rebuild.replay import NotRebuildable, Replay
from projections.rebuild.runs import Run

_NICE = 10
"""Who reads and writes goes first where cores are short."""
_OUTAGES = (KafkaError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Interrupted(Exception):
    """Kafka, PostgreSQL or a process of the rebuild went away. What is done stays; the same command goes on with it."""


async def replay(settings: Settings, run: Run, goals: Mapping[int, int], processes: int) -> int:
    """Bring the partitions of the run to these positions; how many records that took.

    Raises `NotRebuildable` and `Interrupted`.
    """
    waiting = sorted(goals, key=lambda partition: goals[partition])
    count = min(processes, len(waiting))
    context = multiprocessing.get_context("spawn")
    with ThreadPoolExecutor(max(1, count)) as threads:
        children = [_Child(context, settings, run, threads) for _ in range(count)]
        try:
            async with asyncio.TaskGroup() as work:
                tasks = [work.create_task(child.work_off(waiting, goals)) for child in children]
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        finally:
            for child in children:
                child.end()
    return sum(task.result() for task in tasks)


class _Child:
    """One process, seen from its parent."""

    def __init__(self, context: Any, settings: Settings, run: Run, threads: ThreadPoolExecutor) -> None:
        self._pipe, theirs = context.Pipe()
        self._threads = threads
        self._process: BaseProcess = context.Process(
            target=_main, args=(theirs, settings, run, os.getpid()), daemon=True
        )
        self._process.start()
        theirs.close()  # So that the end of the process is the end of the pipe.

    async def work_off(self, waiting: list[int], goals: Mapping[int, int]) -> int:
        """Give it partitions until there are none left; how many records it judged."""
        loop = asyncio.get_running_loop()
        records = 0
        while waiting:
            partition = waiting.pop()
            try:
                self._pipe.send((partition, goals[partition]))
                answer = await loop.run_in_executor(self._threads, self._pipe.recv)
            except (EOFError, OSError):
                raise Interrupted("a process of the rebuild was killed, perhaps for want of memory") from None
            if isinstance(answer, Exception):
                raise answer
            records += answer
        return records

    def end(self) -> None:
        """Whatever it does."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _main(pipe: Connection, settings: Settings, run: Run, parent: int) -> None:
    """In the child."""
    import uvloop

    from adapters.logging import configure

    die_with(parent)
    configure(settings.model_copy(update={"log_level": "warning"}), "rebuild")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The terminal's goes to all of us; the parent decides.
    os.nice(_NICE)
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    uvloop.run(_serve(pipe, settings, run))


async def _serve(pipe: Connection, settings: Settings, run: Run) -> None:
    pool: asyncpg.Pool | None = None
    while True:
        try:
            partition, goal = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            if pool is None:
                pool = await connecting.pool(settings, 3)
            pipe.send(await _one(settings, pool, run, partition, goal))
        except NotRebuildable as error:
            pipe.send(error)
        except Exception as error:
            # As one that can be sent to another process, which those of the drivers cannot all be.
            said = f"{type(error).__name__}: {error}".partition("\n")[0]
            pipe.send(Interrupted(said) if isinstance(error, _OUTAGES) else RuntimeError(said))


async def _one(settings: Settings, pool: asyncpg.Pool, run: Run, partition: int, goal: int) -> int:
    one = Replay(settings, pool, partition, schema=run.schema, run=run.id)
    try:
        await one.start()
        return await one.to(goal)
    finally:
        await one.close()
