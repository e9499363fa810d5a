"""Where frames go: straight to a socket's transport, or through ASGI where the server is not ours."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Protocol

from api.live.frames import payloads

EXTENSION = "ravand.frames"
"""The ASGI extension under which `FramedSocket` offers its sink: `scope["extensions"][EXTENSION]["sink"]`."""

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Sink(Protocol):
    """One client's end of the wire. Nothing here blocks but `drained`."""

    on_drain: Callable[[], None] | None
    """Called when the sink is writable again."""

    @property
    def writable(self) -> bool:
        """Whether so little waits that more may be written."""

    @property
    def closed(self) -> bool:
        """Whether nothing written reaches anybody any more."""

    def limit(self, waiting: int) -> None:
        """From how many waiting bytes on the sink is not writable."""

    def waiting(self) -> int:
        """Bytes that were written and not yet taken by the system."""

    def write(self, frames: bytes) -> None:
        """Send whole frames. Never waits; a closed sink drops them."""

    async def drained(self) -> None:
        """Return once the sink is writable, or closed."""

    def close(self, code: int, reason: str, linger: float) -> None:
        """Say why after what was written, and end the connection after `linger` seconds, read or not."""


class AsgiSink:
    """A sink over plain ASGI messages. Slower than `FramedSocket` by what the server does for each message."""

    def __init__(self, send: Send) -> None:
        self.on_drain: Callable[[], None] | None = None
        self.on_close: Callable[[], object] | None = None
        """Called when the connection is to end: whoever reads from it stops."""
        self._send = send
        self._limit = 64 * 1024
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._wake = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._ending: tuple[int, str] | None = None
        self._closed = False
        self._sender = asyncio.create_task(self._run(), name="socket sender")

    @property
    def writable(self) -> bool:
        return self._writable.is_set()

    @property
    def closed(self) -> bool:
        return self._closed or self._ending is not None

    def limit(self, waiting: int) -> None:
        self._limit = waiting

    def waiting(self) -> int:
        return self._size

    def write(self, frames: bytes) -> None:
        if self.closed:
            return
        self._queue.append(frames)
        self._size += len(frames)
        if self._size > self._limit:
            self._writable.clear()
        self._wake.set()

    async def drained(self) -> None:
        await self._writable.wait()

    def close(self, code: int, reason: str, linger: float) -> None:
        if self.closed:
            return
        self._ending = (code, reason)
        self._wake.set()
        self._writable.set()
        asyncio.get_running_loop().call_later(linger, self._sender.cancel)
        if self.on_close:
            self.on_close()

    async def finished(self) -> None:
        """Return once the close frame is sent; stop sending at once where the client has gone."""
        if self._ending is None:
            self._closed = True
            self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)
        self._writable.set()

    async def _run(self) -> None:
        # A server says in its own way that the client has gone; there is nobody left to tell.
        with suppress(Exception):
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    frames = self._queue.popleft()
                    for payload in payloads(frames):
                        await self._send({"type": "websocket.send", "text": payload.decode()})
                    self._size -= len(frames)
                    self._relieve()
                if self._ending:
                    code, reason = self._ending
                    await self._send({"type": "websocket.close", "code": code, "reason": reason})
                    break
        self._closed = True
        self._writable.set()

    def _relieve(self) -> None:
        if not self._writable.is_set() and self._size <= self._limit // 4:
            self._writable.set()
            if self.on_drain:
                self.on_drain()
