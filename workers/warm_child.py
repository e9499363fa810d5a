"""Training children that have torch loaded already and wait for a job; the worker's side. Never imports torch itself.

    children = WarmChildren()
    await children.start()
    child = await children.take()
    await child.send(Train(...))
    while (message := await child.receive()) is not None: ...
    ended = await child.wait()

A child ends with its worker, whatever ends that: the kernel kills the fork server with the worker and the children with
the server, and a child whose pipe closes ends by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from workers.child_process import Child, ForkServerLost
from workers.fork_server_handle import ForkServerHandle

__all__ = ["Child", "WarmChildren"]

logger = logging.getLogger(__name__)

SECRETS = ("RAVAND_KAFKA", "RAVAND_DATABASE", "RAVAND_AUTH")
"""Settings that no training code needs to see; what the object store needs is elsewhere in the environment."""
NEXT_AFTER = 0.1
"""The next child is forked so long after one was taken, or when that one ends: not while it reads its data."""
LONGEST_PAUSE = 5.0


class WarmChildren:
    """Keeps one child waiting, so that a job starts without a wait for torch, or even for a fork."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """`environment` adds to the worker's own, without its secrets."""
        self._environment = child_environment(environment or {})
        self._waiting: asyncio.Queue[Child] = asyncio.Queue()
        self._taken = asyncio.Event()
        self._server: ForkServerHandle | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the fork server; the first child waits when torch is loaded, some seconds later."""
        self._server = await ForkServerHandle.launch(self._environment)
        self._keeping = asyncio.create_task(self._keep_one_waiting())

    async def take(self) -> Child:
        """A child that waits for its `Train`. Another one is forked for the next time."""
        while True:
            child = await self._waiting.get()
            if not child.has_ended:
                self._taken.set()
                return child

    async def until_waiting(self) -> None:
        """Return once a child waits for its `Train`, so that a job would start at once."""
        self._waiting.put_nowait(await self._waiting.get())

    async def close(self) -> None:
        """End the fork server and every child, also one that trains."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        while not self._waiting.empty():
            await self._waiting.get_nowait().close()
        if self._server is not None:
            await self._server.close()
        if self._keeping is not None and not self._keeping.cancelled():
            self._keeping.result()

    async def _keep_one_waiting(self) -> None:
        pause = 0.1
        while True:
            try:
                child = await self._fork()
            except (ForkServerLost, OSError) as error:
                logger.warning("The fork server has ended, and is started again: %r", error)
            else:
                self._taken.clear()
                self._waiting.put_nowait(child)
                if await _comes_first(self._taken.wait(), child.wait()):
                    pause = 0.1
                    await _comes_first(asyncio.sleep(NEXT_AFTER), child.wait())
                    continue
                logger.warning("The waiting training child %d has ended by itself.", child.pid)
                await child.close()
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    async def _fork(self) -> Child:
        if self._server is None or self._server.lost.is_set():
            if self._server is not None:
                await self._server.close()
            self._server = await ForkServerHandle.launch(self._environment)
        return await self._server.fork()


def child_environment(more: Mapping[str, str]) -> dict[str, str]:
    """The environment of the fork server, and so of every child."""
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(SECRETS)}
    # Without it, asking whether there is a GPU would initialise CUDA, which does not survive a fork.
    environment["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    environment["OPENBLAS_NUM_THREADS"] = "1"  # Otherwise importing numpy starts threads.
    environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # Matrix products on a GPU give the same bits every time.
    environment |= more
    root = str(Path(__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    return environment


async def _comes_first(first: Coroutine[Any, Any, Any], second: Coroutine[Any, Any, Any]) -> bool:
    """Whether the first is done when either is."""
    tasks = [asyncio.create_task(first), asyncio.create_task(second)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].done()
    finally:
        for task in tasks:
            task.cancel()
