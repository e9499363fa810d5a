"""A small TCP proxy between the services and PostgreSQL, which can delay, freeze and cut what goes through it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

CHUNK = 64 * 1024


@dataclass(eq=False)
class _Link:
    """One connection: two sockets and what copies between them."""

    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def cut(self) -> None:
        """Both ends see a reset."""
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Listens on a port of its own and forwards to `target`."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = 0
        self.delay = 0.0
        """Seconds that every piece waits, in both directions."""
        self.replies = asyncio.Event()
        """While cleared, nothing comes back from the server: a request may have been done, and nobody hears of it."""
        self.replies.set()
        self._links: set[_Link] = set()
        self._accepted: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        links = list(self._links)
        for link in links:
            link.cut()
        return len(links)

    async def stop(self) -> None:
        """Cut everything and listen no more."""
        if self._server is not None:
            self._server.close()
        self.replies.set()
        self.cut()
        await asyncio.gather(*self._accepted, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._accepted.add(task)
        task.add_done_callback(self._accepted.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link((writer, back))
        self._links.add(link)
        link.tasks = [
            asyncio.create_task(self._copy(reader, back, replies=False)),
            asyncio.create_task(self._copy(there, writer, replies=True)),
        ]
        await asyncio.wait(link.tasks, return_when=asyncio.FIRST_COMPLETED)
        link.cut()
        await asyncio.gather(*link.tasks, return_exceptions=True)
        self._links.discard(link)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if replies:
                    await self.replies.wait()
                writer.write(piece)
                await writer.drain()
