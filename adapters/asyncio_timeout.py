"""`asyncio.timeout` as later releases of Python 3.11 have it, for those of before: Debian 12 brings Python 3.11.2.

There, the end of the time is a `CancelledError` instead of a `TimeoutError` in every task that was asked to cancel before,
whether or not it heeded that: one that cleans up, and one that has gone on after a `TaskGroup` in which a task failed. A
partition of the projector does the latter whenever PostgreSQL or Kafka is away. Source: CPython, gh-102780.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any


def is_sound(timeout: type[Any]) -> bool:
    """Whether this `asyncio.Timeout` compares with how often the task had been asked to cancel when it was entered."""
    return "cancelling" in timeout.__aenter__.__code__.co_names


def mend(timeout: type[Any]) -> None:
    """Let this `asyncio.Timeout` do so."""
    enter, leave = timeout.__aenter__, timeout.__aexit__

    async def __aenter__(self: Any) -> Any:
        entered = await enter(self)
        self._cancelling = self._task.cancelling()
        return entered

    async def __aexit__(
        self: Any, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        asked_to_cancel = self._task.cancelling()
        left = await leave(self, kind, error, trace)
        is_late = self._task.cancelling() < asked_to_cancel  # It takes back its own request, and makes none otherwise.
        if is_late and kind is asyncio.CancelledError and self._task.cancelling() <= self._cancelling:
            raise TimeoutError from error
        return left

    timeout.__aenter__, timeout.__aexit__ = __aenter__, __aexit__


def mend_if_needed() -> None:
    """Called once, by whatever imports `adapters`."""
    if not is_sound(asyncio.Timeout):
        mend(asyncio.Timeout)
