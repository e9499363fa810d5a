"""A small TCP proxy between the services and one of their servers, which can delay, hold and cut what goes through it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field

CHUNK = 64 * 1024
_SLOW_PIECES_A_SECOND = 4
"""On a slow line pieces are small, so that it is slow and not only late."""


def _open() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(eq=False)
class Link:
    """One connection: two sockets and what copies between them."""

    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    flows: asyncio.Event = field(default_factory=_open)
    """While cleared, nothing goes through in either direction."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def cut(self) -> None:
        """Both ends see a reset."""
        self.flows.set()
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Listens on a port of its own and forwards to `target`; without one, it refuses."""

    def __init__(self) -> None:
        self.target: tuple[str, int] | None = None
        self.port = 0
        self.delay = 0.0
        """Seconds that every piece waits, in both directions."""
        self.bytes_a_second: int | None = None
        """How much goes through each connection, in each direction, when it is slow."""
        self.reset_chance = 0.0
        """That a piece is followed by a reset instead of arriving."""
        self.requests = _open()
        """While cleared, nothing reaches the server."""
        self.replies = _open()
        """While cleared, nothing comes back from the server: a request may have been done, and nobody hears of it."""
        self.links: set[Link] = set()
        self._accepted: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        links = list(self.links)
        for link in links:
            link.cut()
        return len(links)

    def heal(self) -> None:
        """Let everything through as it comes."""
        self.delay, self.bytes_a_second, self.reset_chance = 0.0, None, 0.0
        for event in (self.requests, self.replies, *(link.flows for link in self.links)):
            event.set()

    async def stop(self) -> None:
        """Cut everything and listen no more."""
        if self._server is not None:
            self._server.close()
        self.heal()
        self.cut()
        await asyncio.gather(*self._accepted, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._accepted.add(task)
        task.add_done_callback(self._accepted.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.target is None:
                raise ConnectionRefusedError
            there, back = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        link = Link((writer, back))
        self.links.add(link)
        link.tasks = [
            asyncio.create_task(self._copy(reader, back, link, self.requests)),
            asyncio.create_task(self._copy(there, writer, link, self.replies)),
        ]
        await asyncio.wait(link.tasks, return_when=asyncio.FIRST_COMPLETED)
        link.cut()
        await asyncio.gather(*link.tasks, return_exceptions=True)
        self.links.discard(link)

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link, direction: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(self._piece()):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self.bytes_a_second:
                    await asyncio.sleep(len(piece) / self.bytes_a_second)
                await direction.wait()
                await link.flows.wait()
                if self.reset_chance and random.random() < self.reset_chance:
                    return
                writer.write(piece)
                await writer.drain()

    def _piece(self) -> int:
        return max(1, self.bytes_a_second // _SLOW_PIECES_A_SECOND) if self.bytes_a_second else CHUNK
