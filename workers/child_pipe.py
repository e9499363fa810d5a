"""The pipe between a worker and its training child: each message is its length in four bytes, then MessagePack.

The child's end blocks and may be used from several threads; the worker's end is for an event loop.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

import msgspec

from workers.child_messages import ToChild, ToWorker

_LENGTH = struct.Struct(">I")
LARGEST = 16 * 1024 * 1024
"""Longer messages are a bug: what is large goes to the object store."""

_encode = msgspec.msgpack.Encoder().encode
_decode_to_child: Callable[[bytes], ToChild] = msgspec.msgpack.Decoder(ToChild).decode
_decode_to_worker: Callable[[bytes], ToWorker] = msgspec.msgpack.Decoder(ToWorker).decode


def frame(message: ToChild | ToWorker) -> bytes:
    """A message as it goes over the wire."""
    body = _encode(message)
    if len(body) > LARGEST:
        raise ValueError(f"a {type(message).__name__} of {len(body)} bytes does not belong on the pipe")
    return _LENGTH.pack(len(body)) + body


class WorkerGone(Exception):
    """Nobody reads what a child sends any more."""


class ChildEnd:
    """The training child's end."""

    def __init__(self, connection: socket.socket) -> None:
        """Take over a connected stream socket."""
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, message: ToWorker) -> None:
        """Send, waiting while the worker is behind. Raises `WorkerGone`."""
        data = frame(message)
        with self._sending:
            try:
                self._connection.sendall(data)
            except ConnectionError:
                raise WorkerGone from None

    def receive(self) -> ToChild | None:
        """The next message; None when the worker has closed its end, or is gone."""
        head = self._exactly(_LENGTH.size)
        if head is None:
            return None
        body = self._exactly(_LENGTH.unpack(head)[0])
        return None if body is None else _decode_to_child(body)

    def _exactly(self, size: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < size:
            try:
                part = self._connection.recv(size - len(parts))
            except ConnectionError:
                return None
            if not part:
                return None
            parts += part
        return bytes(parts)


class WorkerEnd:
    """The worker's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use `WorkerEnd.over`."""
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connection: socket.socket) -> WorkerEnd:
        """Take over a connected stream socket."""
        connection.setblocking(False)
        return cls(*await asyncio.open_connection(sock=connection))

    async def send(self, message: ToChild) -> None:
        """Send. A child that is gone is no error here: its end is reported where it is waited for."""
        if self._writer.is_closing():
            return
        try:
            self._writer.write(frame(message))
            await self._writer.drain()
        except ConnectionError:
            return

    async def receive(self) -> ToWorker | None:
        """The next message; None when the child has closed its end, or is gone. ValueError for what is no message."""
        try:
            (size,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if size > LARGEST:
                raise ValueError(f"the training child announces a message of {size} bytes")
            body = await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return _decode_to_worker(body)

    async def close(self) -> None:
        """Close; a child that reads from it then ends."""
        self._writer.close()
        with suppress(ConnectionError):
            # Shielded: who is cancelled here would cancel what everybody waits for who closes it after him.
            await asyncio.shield(self._writer.wait_closed())
