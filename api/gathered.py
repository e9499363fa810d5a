"""Look-ups that are asked for at the same time, made as one: a statement costs as much for one key as for ten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

AT_ONCE = 2
"""Look-ups under way at a time. While there are so many, what is asked for waits, and goes together with the next one; a
second one is allowed so that a connection that hangs does not hold up everybody."""


class Gathered(Generic[K, V]):
    """Finds values by their keys, for everybody in this process who asks."""

    def __init__(self, find: Callable[[list[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._find = find
        self._asked: dict[K, asyncio.Future[V | None]] = {}
        self._finding: set[asyncio.Task[None]] = set()
        self._looks = 0

    async def get(self, key: K) -> V | None:
        """What is found under the key by a look-up that begins after this was called. Raises what the look-up raises."""
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = asyncio.get_running_loop().create_future()
            if self._looks < AT_ONCE:
                self._looks += 1
                task = asyncio.create_task(self._look())
                self._finding.add(task)
                task.add_done_callback(self._finding.discard)
        return await asyncio.shield(asked)

    async def _look(self) -> None:
        # A task begins after the requests that came in the same breath: they are in this look-up already.
        try:
            while asked := self._asked:
                self._asked = {}
                await self._answer(asked)
        finally:
            # In the very turn in which nothing more was asked for. A task is done a turn before it says so: whoever asked
            # in between would be left to look-ups that look no more.
            self._looks -= 1

    async def _answer(self, asked: Mapping[K, asyncio.Future[V | None]]) -> None:
        try:
            found = await self._find(list(asked))
        except BaseException as error:
            for future in asked.values():
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # Nobody may be waiting any more.
            if not isinstance(error, Exception):
                raise
        else:
            for key, future in asked.items():
                if not future.done():
                    future.set_result(found.get(key))
