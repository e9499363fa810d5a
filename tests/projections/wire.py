"""A proxy before PostgreSQL that cuts connections at the worst moments of a commit."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class CuttingProxy:
    """Forwards everything, and a few times cuts the connection just before a COMMIT, or just before its answer."""

    def __init__(self, url: str, when: str, cuts: int) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._parts, self._when = parts, when
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()
        self.cuts_left = cuts

    @property
    def url(self) -> str:
        """Where to connect instead."""
        port = self._server.sockets[0].getsockname()[1]
        login = self._parts.netloc.rpartition("@")[0]
        return urlunsplit(self._parts._replace(netloc=f"{login}@127.0.0.1:{port}", query="sslmode=disable"))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        ends = (to_client, to_server)
        for task in (
            asyncio.create_task(self._forward(client, to_server, b"COMMIT;\0", "before the commit", ends)),
            asyncio.create_task(self._forward(server, to_client, b"COMMIT\0", "before its answer", ends)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        mark: bytes,
        moment: str,
        ends: tuple[asyncio.StreamWriter, ...],
    ) -> None:
        try:
            while data := await source.read(65536):
                if self.cuts_left and moment == self._when and mark in data:
                    self.cuts_left -= 1
                    break
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        finally:
            for end in ends:
                end.close()
            for end in ends:
                with contextlib.suppress(ConnectionError):
                    await end.wait_closed()
