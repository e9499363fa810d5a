"""One training child as its worker sees it: what it says and prints, how to reach it, and how it ended."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

import uvloop

from workers.child_messages import ToChild, ToWorker
from workers.child_pipe import WorkerEnd
from workers.log_lines import lines

logger = logging.getLogger(__name__)

LAST_WORDS = 2.0
"""Seconds until a pipe is given up that something keeps open after the child has ended."""


class ForkServerLost(Exception):
    """The process that forks children has ended."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: by itself with a code, or by a signal."""

    code: int | None
    signal: signal.Signals | None
    out_of_memory: bool = False
    """A SIGKILL while the kernel was killing for memory, so probably that."""

    @classmethod
    def of(cls, status: int, kernel_killed: bool) -> Ended:
        """From a wait status."""
        if os.WIFSIGNALED(status):
            number = signal.Signals(os.WTERMSIG(status))
            return cls(code=None, signal=number, out_of_memory=kernel_killed and number == signal.SIGKILL)
        return cls(code=os.WEXITSTATUS(status), signal=None)


class Child:
    """A process that trains one attempt, and ends."""

    def __init__(self, kill: Callable[[], None]) -> None:
        """Made by the fork server's handle; `kill` ends the process and what it started."""
        loop = asyncio.get_running_loop()
        self.pid = 0
        self.kill = kill
        self._started: asyncio.Future[int] = loop.create_future()
        self._ended: asyncio.Future[Ended] = loop.create_future()
        self._messages: asyncio.Queue[ToWorker | None] = asyncio.Queue(1000)
        self._pipe: WorkerEnd | None = None
        self._streams: dict[str, tuple[asyncio.StreamReader, asyncio.ReadTransport]] = {}
        self._relaying: asyncio.Task[None] | None = None
        self._all_said = False

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._ended.done()

    async def send(self, message: ToChild) -> None:
        """Send a message; to a child that is gone it is lost, which `receive` and `wait` will tell."""
        assert self._pipe is not None
        await self._pipe.send(message)

    async def receive(self) -> ToWorker | None:
        """What the child says, and prints, in order; None once it has ended and everything was delivered."""
        if self._all_said:
            return None
        message = await self._messages.get()
        self._all_said = message is None
        return message

    async def wait(self) -> Ended:
        """How it ended, once it has."""
        return await asyncio.shield(self._ended)

    async def close(self) -> None:
        """Drop the connection, by which a child that still runs ends. What it said and nobody received is lost."""
        if self._relaying is not None:
            self._relaying.cancel()
            await asyncio.wait([self._relaying])
            await self._hang_up()  # It does so by itself, unless it was cancelled before it began.

    async def open(self, connection: socket.socket, out: int, err: int) -> None:
        """Begin to read what it says, and wait until it runs."""
        self._pipe = await WorkerEnd.over(connection)
        # Opened before anything can be cancelled that is to close them.
        self._streams = {name: await _read_from(end) for name, end in (("stdout", out), ("stderr", err))}
        self._relaying = asyncio.create_task(self._relay(self._pipe))
        try:
            self.pid = await asyncio.shield(self._started)
        except BaseException:
            await self.close()
            raise

    def started(self, pid: int) -> None:
        """The fork server has forked it."""
        if not self._started.done():
            self._started.set_result(pid)

    def ended(self, how: Ended) -> None:
        """The fork server has reaped it, or is lost itself, and then the kernel has killed its children."""
        if not self._started.done():
            self._started.set_exception(ForkServerLost())
            self._started.exception()  # Nobody may be waiting for it any more.
        if not self._ended.done():
            self._ended.set_result(how)

    async def _relay(self, pipe: WorkerEnd) -> None:
        readers = [asyncio.create_task(self._relay_messages(pipe))]
        readers += [asyncio.create_task(self._relay_lines(name, reader)) for name, (reader, _) in self._streams.items()]
        try:
            await self.wait()
            # All that it wrote is in the pipes by now; only a process that it left behind can keep one open.
            await asyncio.wait(readers, timeout=LAST_WORDS)
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            await self._hang_up()
        await self._messages.put(None)

    async def _relay_messages(self, pipe: WorkerEnd) -> None:
        try:
            while (message := await pipe.receive()) is not None:
                await self._messages.put(message)
        except ValueError:
            logger.exception("The training child %d does not speak the protocol and is killed.", self.pid)
            self.kill()

    async def _relay_lines(self, stream: str, reader: asyncio.StreamReader) -> None:
        async for logged in lines(reader, stream):
            await self._messages.put(logged)

    async def _hang_up(self) -> None:
        for _, transport in self._streams.values():
            transport.close()
        if self._pipe is not None:
            await self._pipe.close()


async def _read_from(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    # uvloop closes the descriptor itself and then the file: that would close whatever another thread has opened in between
    # under the same number, and the loop aborts the process when it was a connection of its own.
    file = os.fdopen(descriptor, "rb", buffering=0, closefd=not isinstance(loop, uvloop.Loop))
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    return reader, transport
