"""Rows of PostgreSQL as the bytes of its binary COPY, compared with the bytes that they ought to be: no decoding, no hashing.

Format: PostgreSQL documentation, COPY, binary format. A field is its length, a big-endian 32-bit number, and its bytes; null
has the length -1.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from struct import Struct
from typing import Any

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEADER = len(SIGNATURE) + 8
_END = b"\xff\xff"
_length = Struct(">i").pack
_read_length = Struct(">i").unpack_from
_read_count = Struct(">h").unpack_from
_DEPTH = 8
"""Buffers of some hundred kilobytes that may wait."""
NULL = _length(-1)
Field = bytes | None


def field(value: Field) -> bytes:
    """A field with its length before it."""
    return NULL if value is None else _length(len(value)) + value


def text(value: str | None) -> bytes:
    """A field of text."""
    return NULL if value is None else field(value.encode())


class Copied:
    """The stream of one COPY, read in step with what is expected."""

    def __init__(self, queue: asyncio.Queue[bytes | None], sending: asyncio.Task[None]) -> None:
        self._queue = queue
        self._sending = sending
        self._at_end = False
        self.buffer = b""
        self.place = 0
        """Where in the buffer the next row begins."""

    async def more(self) -> bool:
        """Take another buffer behind what is left of this one; whether there was one. Raises what the query raised."""
        if self._at_end:
            return False
        found = await self._queue.get()
        if found is None:
            self._at_end = True
            await self._sending
            return False
        self.buffer = self.buffer[self.place :] + found
        self.place = 0
        return True

    async def begin(self) -> None:
        """Skip the header."""
        while len(self.buffer) < _HEADER and await self.more():
            pass
        if self.buffer[: len(SIGNATURE)] != SIGNATURE:
            raise RuntimeError("the database did not answer in its binary COPY format")
        self.place = _HEADER

    async def need(self, count: int) -> bool:
        """Whether there are so many bytes from the present place on."""
        while len(self.buffer) - self.place < count:
            if not await self.more():
                return False
        return True

    async def row(self) -> list[Field] | None:
        """The row at the present place, which stays where it is; None at the end."""
        if not await self.need(2) or self.buffer[self.place : self.place + 2] == _END:
            return None
        (count,) = _read_count(self.buffer, self.place)
        fields: list[Field] = []
        ahead = 2
        for _ in range(count):
            await self.need(ahead + 4)
            (length,) = _read_length(self.buffer, self.place + ahead)
            ahead += 4
            if length < 0:
                fields.append(None)
                continue
            await self.need(ahead + length)
            fields.append(self.buffer[self.place + ahead : self.place + ahead + length])
            ahead += length
        return fields

    async def skip(self) -> None:
        """Go behind the row at the present place."""
        found = await self.row()
        if found is not None:
            self.place += 2 + sum(4 + len(f or b"") for f in found)


@contextlib.asynccontextmanager
async def copied(connection: Any, query: str, *arguments: Any) -> AsyncIterator[Copied]:
    """The rows of a query, streamed: the server waits while nobody reads.

    However it is left, the connection can be used or closed afterwards; whoever is cancelled in it loses the connection.
    """
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(_DEPTH)
    read = True

    async def send() -> None:
        failed: Exception | None = None
        try:
            await connection.copy_from_query(query, *arguments, output=queue.put, format="binary")
        except Exception as error:
            failed = error
        if read:  # Nobody makes room for it otherwise.
            await queue.put(None)
        if failed is not None:
            raise failed

    sending = asyncio.create_task(send())
    try:
        stream = Copied(queue, sending)
        await stream.begin()
        yield stream
    except Exception:
        # The rest is read all the same: if a COPY is cancelled whose end was received already, asyncpg waits for ever for
        # the server's word on it before it does anything more on this connection, closing it included.
        with contextlib.suppress(Exception):
            await drain(queue, sending)
        raise
    else:
        await drain(queue, sending)
    finally:
        if not sending.done():  # We are cancelled, and do not wait.
            read = False
            connection.terminate()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def drain(queue: asyncio.Queue[bytes | None], sending: asyncio.Task[None]) -> None:
    """Let the server finish, so that the connection can be used again. Raises what the query raised."""
    while not sending.done():
        while not queue.empty():
            queue.get_nowait()
        await asyncio.wait({sending}, timeout=0.01)
    await sending


def first_difference(columns: Sequence[str], found: Sequence[Field], expected: Sequence[Field]) -> str | None:
    """The first column in which two rows differ."""
    return next((name for name, a, b in zip(columns, found, expected, strict=True) if a != b), None)
