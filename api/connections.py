"""Connections: how long and how large the head of a request may be, before there is a request to judge.

uvicorn bounds neither: a peer that sends a header byte now and then, or nothing at all, would hold a connection for ever,
and one endless header all the memory.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import uuid_utils
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.errors import MEDIA_TYPE, Problem

HEAD_SECONDS = 15.0
HEAD_BYTES = 64 * 1024


class BoundedHttp(HttpToolsProtocol):
    """One connection. To be used as uvicorn's `http`."""

    _timer: asyncio.TimerHandle | None = None
    _received = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.access_log = False  # The entry's own line says more, and no query with a ticket in it.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The head is awaited from now on."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes that leave the head incomplete are counted against it."""
        super().data_received(data)
        if self._timer is not None:
            self._received += len(data)
            if self._received > HEAD_BYTES:
                self._refuse(Problem(431, "head_too_large", f"The head of a request has at most {HEAD_BYTES} bytes."))

    def on_message_begin(self) -> None:
        """A further request on the connection."""
        super().on_message_begin()
        if self._timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._head_is_here()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets a problem too."""
        self._refuse(Problem(400, "bad_request", msg))

    def _await_head(self) -> None:
        self._received = 0
        self._timer = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _head_is_here(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if self._received:
            self._refuse(Problem(408, "request_timeout", "The head of the request did not arrive in time."))
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        self._head_is_here()
        if self.transport.is_closing():
            return
        document = problem.document(str(uuid_utils.uuid7()))
        body = msgspec.json.encode(document)
        head = (
            f"HTTP/1.1 {problem.status_code} {document['title']}\r\nContent-Type: {MEDIA_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
