"""A fork server that goes away, at any moment, is known to be lost, and so are the children that it was to fork."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from workers.child_process import ForkServerLost
from workers.fork_server_handle import PACKET, ForkServerHandle


@pytest.fixture
async def held() -> AsyncIterator[tuple[ForkServerHandle, socket.socket]]:
    """The worker's hold on a process that does nothing, and that process's end of the socket, as a test uses it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    handle = ForkServerHandle(await asyncio.create_subprocess_exec("sleep", "600"), ours)
    with theirs:
        yield handle, theirs
        await handle.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def ready(handle: ForkServerHandle, theirs: socket.socket) -> None:
    theirs.send(b'{"ready": true}')
    handle._on_packet()
    assert handle.ready.is_set()


async def test_one_that_is_gone_when_it_is_asked_to_fork_is_lost_and_nothing_of_the_child_stays_open(
    held: tuple[ForkServerHandle, socket.socket],
) -> None:
    handle, theirs = held
    ready(handle, theirs)
    theirs.close()
    before = open_files()
    with pytest.raises(ForkServerLost):
        await handle.fork()
    assert handle.lost.is_set()
    async with asyncio.timeout(10):
        while open_files() != before - 1:  # noqa: ASYNC110 — The loop closes them. The socket to the server is closed too.
            await asyncio.sleep(0)


async def test_one_that_dies_with_a_request_unread_is_lost_and_so_is_the_child(
    held: tuple[ForkServerHandle, socket.socket],
) -> None:
    handle, theirs = held
    ready(handle, theirs)
    forking = asyncio.create_task(handle.fork())
    await asyncio.to_thread(theirs.recv, PACKET, socket.MSG_PEEK)
    theirs.close()  # Unread, the request makes this a reset and no end.
    with pytest.raises(ForkServerLost):
        await forking
    assert handle.lost.is_set()


async def test_being_woken_for_nothing_changes_nothing(held: tuple[ForkServerHandle, socket.socket]) -> None:
    handle, theirs = held
    handle._on_packet()
    assert not handle.lost.is_set()
    ready(handle, theirs)
