"""The worker's ends of a child's pipes, on the loop that services run on and on asyncio's own."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from workers.child_messages import Leave
from workers.child_pipe import WorkerEnd
from workers.child_process import Child, Ended

RUN: dict[str, Callable[[Coroutine[Any, Any, None]], None]] = {"uvloop": uvloop.run, "asyncio": asyncio.run}


class Watched:
    """A pipe's end. While it is closed somebody else opens a file, as another thread may."""

    def __init__(self, file: Any, strangers: list[int]) -> None:
        self._file, self._strangers = file, strangers

    def fileno(self) -> int:
        return int(self._file.fileno())

    def close(self) -> None:
        self._strangers.append(os.open(os.devnull, os.O_RDONLY))
        self._file.close()


@pytest.mark.parametrize("loop", RUN)
def test_the_end_of_a_pipe_is_closed_once_and_nobody_elses_file_with_it(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strangers: list[int] = []
    fdopen = os.fdopen
    monkeypatch.setattr(
        "workers.child_process.os.fdopen", lambda *args, **more: Watched(fdopen(*args, **more), strangers)
    )

    async def a_child_lives_and_ends() -> None:
        connection, theirs = socket.socketpair()
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        child = Child(kill=lambda: None)
        child.started(1)
        await child.open(connection, out, err)
        os.write(out_end, b"said\n")
        for descriptor in (out_end, err_end):
            os.close(descriptor)
        theirs.close()
        child.ended(Ended(code=0, signal=None))
        while await child.receive() is not None:
            pass

    RUN[loop](a_child_lives_and_ends())
    assert len(strangers) == 2
    for stranger in strangers:
        os.fstat(stranger)
        os.close(stranger)


@pytest.mark.parametrize("loop", RUN)
def test_what_is_sent_to_a_child_whose_connection_is_closed_is_lost_and_no_error(loop: str) -> None:
    async def send_too_late() -> None:
        connection, theirs = socket.socketpair()
        end = await WorkerEnd.over(connection)
        theirs.close()
        await end.close()
        await end.send(Leave())

    RUN[loop](send_too_late())
