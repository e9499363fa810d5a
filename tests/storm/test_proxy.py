"""The proxy of the storm passes everything on, unless it is told not to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from storm.proxy import Proxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Before a server that answers each line with the same line."""

    served: set[asyncio.Task[None]] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.create_task(echo(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    running = Proxy()
    running.target = server.sockets[0].getsockname()
    await running.start()
    yield running
    await running.stop()
    server.close()
    await asyncio.gather(*served)


async def said(streams: Streams, line: bytes) -> bytes:
    reader, writer = streams
    writer.write(line)
    async with asyncio.timeout(5):
        return await reader.readline()


async def test_what_is_said_is_passed_on_both_ways(proxy: Proxy) -> None:
    streams = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await said(streams, b"hello\n") == b"hello\n"
    proxy.delay = 0.01
    assert await said(streams, b"slowly\n") == b"slowly\n"
    streams[1].close()


async def test_a_cut_is_seen_at_both_ends_and_a_new_connection_works(proxy: Proxy) -> None:
    streams = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await said(streams, b"hello\n") == b"hello\n"
    assert proxy.cut() == 1
    with pytest.raises((ConnectionError, EOFError)):
        async with asyncio.timeout(5):
            await streams[0].readexactly(1)
    streams[1].close()
    again = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await said(again, b"hello again\n") == b"hello again\n"
    again[1].close()


async def test_replies_can_be_lost_while_requests_arrive(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await said((reader, writer), b"hello\n") == b"hello\n"
    proxy.replies.clear()
    writer.write(b"is it done?\n")
    waiting = asyncio.create_task(reader.readexactly(1))
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    assert not done
    proxy.cut()
    proxy.replies.set()
    with pytest.raises((ConnectionError, EOFError)):
        async with asyncio.timeout(5):
            await waiting
    writer.close()


async def test_a_target_that_is_away_refuses(proxy: Proxy) -> None:
    proxy.target = ("127.0.0.1", 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    with pytest.raises((ConnectionError, EOFError)):
        async with asyncio.timeout(5):
            await reader.readexactly(1)
    writer.close()
