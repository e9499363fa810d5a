"""uvicorn's own WebSocket protocol, with a way past its per-message work for frames that are already encoded.

uvicorn answers the handshake, pings, closes and reads as before. What is added is a sink that writes finished frames straight
to the transport: whole frames only, so that they never interleave with control frames, and with the transport's own buffer as
the client's queue. And two things are tightened: nothing logs the query, in which the ticket stands, and a peer that does
not read cannot hold a closing connection for ever.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.protocol import State

from api.live.sink import EXTENSION

KERNEL_BUFFER = 256 * 1024
"""Asked of the kernel for each socket, which otherwise grows it to megabytes for a client that does not read."""
CLOSING_SECONDS = 10.0
"""How long a peer may take to read what waits for it once the connection is closing."""


class FramedSocket(WebSocketsSansIOProtocol):
    """A WebSocket connection that also takes finished frames. To be used as uvicorn's `ws`."""

    wire: Wire
    _abort_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.wire = Wire(self)
        # The library would log the request line, ticket and all, at its debug level.
        self.conn.debug = False
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)

    async def run_asgi(self) -> None:
        scope, app = self.scope, self.app
        scope["extensions"] = {**(scope.get("extensions") or {}), EXTENSION: {"sink": self.wire}}

        async def application(_logged: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            await app(scope, receive, send)

        # uvicorn logs the path with the query from `self.scope`: only the application gets the real one.
        self.scope = {**scope, "query_string": b""}
        self.app = cast(ASGI3Application, application)
        await super().run_asgi()
        self.bound_closing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.wire.on_drain:
            self.wire.on_drain()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._abort_timer:
            self._abort_timer.cancel()

    def handle_close(self, event: Frame) -> None:
        super().handle_close(event)
        self.bound_closing()

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self.bound_closing()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.bound_closing()

    def shutdown(self) -> None:
        super().shutdown()
        self.bound_closing()

    def bound_closing(self, seconds: float = CLOSING_SECONDS) -> None:
        """A transport that is closed first sends what it holds; give up on a peer that does not take it."""
        if self._abort_timer is None and not self.disconnected:
            self._abort_timer = self.loop.call_later(seconds, self.transport.abort)


class Wire:
    """The sink of a `FramedSocket`: the transport's own buffer is the client's queue."""

    __slots__ = ("_socket", "_transport", "on_drain")

    def __init__(self, connection: FramedSocket) -> None:
        self._socket = connection
        self._transport = connection.transport
        self.on_drain: Callable[[], None] | None = None

    @property
    def writable(self) -> bool:
        return self._socket.writable.is_set()

    @property
    def closed(self) -> bool:
        return self._socket.close_sent or self._socket.disconnected or self._transport.is_closing()

    def limit(self, waiting: int) -> None:
        self._transport.set_write_buffer_limits(high=waiting)

    def waiting(self) -> int:
        return self._transport.get_write_buffer_size()

    def write(self, frames: bytes) -> None:
        if not self.closed:
            self._transport.write(frames)

    async def drained(self) -> None:
        await self._socket.writable.wait()

    def close(self, code: int, reason: str, linger: float) -> None:
        connection = self._socket
        if self.closed or connection.conn.state is not State.OPEN:
            return
        connection.conn.send_close(code, reason)
        self._transport.write(b"".join(connection.conn.data_to_send()))
        connection.close_sent = True
        connection.stop_keepalive()
        connection.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        if connection.read_paused:
            # The peer's own close frame is read, which ends the connection before the time is up.
            connection.read_paused = False
            self._transport.resume_reading()
        connection.close_timer = connection.loop.call_later(linger, self._transport.abort)
