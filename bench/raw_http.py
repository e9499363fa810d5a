"""A client that costs next to nothing: the load shares its two cores with what is measured.

One kept-alive connection, requests prepared as bytes, answers read to their end and nothing more.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit


def prepared(method: str, url: str, headers: Mapping[str, str], body: Any = None) -> bytes:
    """A whole request."""
    parts = urlsplit(url)
    content = b"" if body is None else json.dumps(body).encode()
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {parts.netloc}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if content:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


class Connection:
    """`async with Connection(url) as it: await it.send(request)`"""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def send(self, request: bytes) -> bytes:
        """The answer's body. Raises `RuntimeError` for anything but success."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lowered = head.lower()
        at = lowered.index(b"content-length:") + len(b"content-length:")
        body = await self._reader.readexactly(int(lowered[at : lowered.index(b"\r\n", at)]))
        if head[9:10] != b"2":
            raise RuntimeError(f"{head.splitlines()[0]!r}: {body[:500]!r}")
        return body
