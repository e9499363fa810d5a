"""A process that holds many WebSockets and counts what comes, cheaply enough not to be what is measured.

Frames are not parsed: a mark that every message holds once is counted in the bytes. Run as
`python -m bench.socket_receivers`, it talks to its parent by lines on stdin and stdout.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import os
import sys
import time
from typing import Any, cast

import uvloop

SUBSCRIBED = b'"type":"subscribed"'


class Receiver(asyncio.Protocol):
    """One client: shakes hands, sends its requests, counts."""

    def __init__(self, path: str, say: bytes, crowd: Crowd) -> None:
        self._path = path
        self._say = say
        self._crowd = crowd
        self._open = self._ready = False
        self._tail = b""
        self.count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's are of another family.
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if not self._open:
            head, found, data = (self._tail + data).partition(b"\r\n\r\n")
            if not found:
                self._tail = head
                return
            if b" 101 " not in head:
                raise SystemExit(f"refused: {head[:200]!r}")
            self._open, self._tail = True, b""
            if self._say:
                self._transport.write(masked(self._say))
            else:
                self._crowd.opened()
            if not data:
                return
        crowd = self._crowd
        joined = self._tail + data
        if not self._ready and self._say:
            if SUBSCRIBED not in joined:
                self._tail = joined
                return
            self._ready = True
            crowd.opened()
        marks = joined.count(crowd.mark)
        if marks and not crowd.first_at:
            crowd.first_at = time.monotonic()
        self.count += marks
        # A mark may be cut in two by the reads; less than a whole one is carried over.
        self._tail = joined[-(len(crowd.mark) - 1) :]
        if self.count >= crowd.expected:
            crowd.done(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.count < self._crowd.expected:
            self._crowd.lost(self)


class Crowd:
    """All of them."""

    def __init__(self, sockets: int, mark: bytes, expected: int) -> None:
        self.sockets, self.mark, self.expected = sockets, mark, expected
        self.first_at = 0.0
        self.last_at = 0.0
        self._opened = self._done = 0
        self.all_open, self.all_done = asyncio.Event(), asyncio.Event()

    def opened(self) -> None:
        self._opened += 1
        if self._opened == self.sockets:
            self.all_open.set()

    def done(self, receiver: Receiver) -> None:
        if receiver.count > self.expected:
            raise SystemExit("more messages than were sent")
        self._done += 1
        if self._done == self.sockets:
            self.last_at = time.monotonic()
            self.all_done.set()

    def lost(self, receiver: Receiver) -> None:
        print(json.dumps({"lost_at": receiver.count}), flush=True)
        os._exit(1)


def masked(text: bytes) -> bytes:
    """A client's text frame; the mask of zeros leaves the payload as it is."""
    size = len(text)
    head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return head + b"\0\0\0\0" + text


async def main() -> None:
    order: dict[str, Any] = json.loads(sys.stdin.readline())
    crowd = Crowd(len(order["paths"]), order["mark"].encode(), order["expected"])
    loop = asyncio.get_running_loop()
    for path in order["paths"]:
        made = functools.partial(Receiver, path, order["say"].encode(), crowd)
        await loop.create_connection(made, order["host"], order["port"])
    async with asyncio.timeout(60):
        await crowd.all_open.wait()
    print(json.dumps({"open": True}), flush=True)
    async with asyncio.timeout(120):
        await crowd.all_done.wait()
    print(json.dumps({"seconds": crowd.last_at - crowd.first_at}), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
