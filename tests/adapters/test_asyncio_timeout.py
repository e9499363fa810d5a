"""Time that is up is a `TimeoutError`, whatever Python 3.11 this is, and whatever befell the task before."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Any

import pytest

from adapters.asyncio_timeout import is_sound, mend


class _AsInPython3112:
    """What `asyncio.Timeout` does in Python 3.11.2, which Debian 12 brings."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_late = False

    async def __aenter__(self) -> _AsInPython3112:
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[Any] = task
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._end)
        return self

    def _end(self) -> None:
        self._is_late = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._is_late and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError


class _Mended(_AsInPython3112):
    """The same, mended."""

    __aenter__ = _AsInPython3112.__aenter__
    __aexit__ = _AsInPython3112.__aexit__


mend(_Mended)
BOTH = pytest.mark.parametrize("timeout", [asyncio.timeout, _Mended])


async def _that_failed_in_a_group() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


@BOTH
async def test_in_a_task_that_has_never_been_cancelled(timeout: Any) -> None:
    with pytest.raises(TimeoutError):
        async with timeout(0.01):
            await _for_ever()


@BOTH
async def test_after_a_group_in_which_a_task_failed(timeout: Any) -> None:
    await _that_failed_in_a_group()
    with pytest.raises(TimeoutError):
        async with timeout(0.01):
            await _for_ever()


async def test_which_is_what_python_3_11_2_gets_wrong() -> None:
    assert not is_sound(_AsInPython3112)
    await _that_failed_in_a_group()
    with pytest.raises(asyncio.CancelledError):
        async with _AsInPython3112(0.01):
            await _for_ever()


@BOTH
async def test_in_a_task_that_cleans_up_since_it_is_cancelled(timeout: Any) -> None:
    in_time: list[bool] = []

    async def work() -> None:
        try:
            await _for_ever()
        finally:
            try:
                async with timeout(0.01):
                    await _for_ever()
            except TimeoutError:
                in_time.append(False)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert in_time == [False]


@BOTH
async def test_a_task_that_is_cancelled_in_time_is_cancelled(timeout: Any) -> None:
    async def work() -> None:
        async with timeout(60):
            await _for_ever()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@BOTH
async def test_a_task_that_is_cancelled_when_its_time_is_up_is_cancelled(timeout: Any) -> None:
    late = asyncio.Event()

    async def work() -> None:
        async with timeout(0.01):
            try:
                await _for_ever()
            finally:
                late.set()
                await asyncio.sleep(0)

    task = asyncio.create_task(work())
    await late.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@BOTH
async def test_another_error_is_that_error(timeout: Any) -> None:
    with pytest.raises(KeyError):
        async with timeout(60):
            raise KeyError
