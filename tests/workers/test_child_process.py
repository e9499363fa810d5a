"""The worker's ends of a child's pipes, on the loop that services run on and on asyncio's own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from msgspec.structs import replace

from tests.workers.orders import TRAIN
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


@pytest.mark.parametrize("loop", RUN)
def test_closing_that_is_cancelled_leaves_the_connection_to_be_closed_by_the_next_one(loop: str) -> None:
    async def close_twice() -> None:
        connection, theirs = socket.socketpair()
        end = await WorkerEnd.over(connection)
        first = asyncio.create_task(end.close())
        await asyncio.sleep(0)  # It waits for the connection now, which is closed in the loop's next turn.
        first.cancel()
        await asyncio.wait({first})
        await end.close()
        assert theirs.recv(1) == b""
        theirs.close()

    RUN[loop](close_twice())


@pytest.mark.parametrize("loop", RUN)
def test_a_child_that_dies_while_something_is_sent_to_it_is_no_error(loop: str) -> None:
    long = replace(TRAIN, parameters={"text": "x" * 8_000_000})

    async def die_in_the_middle() -> None:
        connection, theirs = socket.socketpair()
        end = await WorkerEnd.over(connection)
        sending = asyncio.create_task(end.send(long))
        theirs.setblocking(False)
        await asyncio.get_running_loop().sock_recv(theirs, 1)
        assert not sending.done()
        theirs.close()
        async with asyncio.timeout(10):
            await sending
        await end.close()

    RUN[loop](die_in_the_middle())


@pytest.mark.parametrize("nonsense", [struct.pack(">I", 3) + b"\xff\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\0"])
@pytest.mark.parametrize("loop", RUN)
def test_a_child_that_does_not_speak_the_protocol_is_killed(loop: str, nonsense: bytes) -> None:
    async def talk_nonsense() -> None:
        connection, theirs = socket.socketpair()
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        child = Child(kill=lambda: child.ended(Ended(code=None, signal=signal.SIGKILL)))
        child.started(1)
        await child.open(connection, out, err)
        with theirs:
            theirs.sendall(nonsense)
            async with asyncio.timeout(10):
                ended = await child.wait()
            for descriptor in (out_end, err_end):
                os.close(descriptor)
            assert await child.receive() is None
        assert ended.signal is signal.SIGKILL

    RUN[loop](talk_nonsense())
