"""What every request passes first: its id, the address without version, headers that protect, origins, one access line."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import structlog
import uuid_utils
from starlette.datastructures import Headers
from starlette.requests import Request

from api.errors import Problem, answer, handle, stopping

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger("api")

VERSIONED = "/api/v1"
_PROTECTING = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""On every answer of the API that does not say otherwise itself."""
_EXPOSED = b"Ravand-Version, Ravand-Request-Id, Idempotency-Key, Link, Retry-After, ETag, Content-Disposition, Location"
"""Headers of answers that pages of an allowed origin may read."""


class CutOff(Exception):
    """An answer that had begun ends here. It is in the log already; the server only has to hang up."""


def is_news(record: logging.LogRecord) -> bool:
    """A filter for the server's own log: without a second word about what `Entry` logged together with its id."""
    return not (record.exc_info and isinstance(record.exc_info[1], CutOff))


class Entry:
    """The outermost part of the application. Sockets only get their address; their origin is the relay's matter."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        self._app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's scope: a request, a socket, or the server's own start and end."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if path.startswith(f"{VERSIONED}/"):
            scope["path"] = path = "/api" + path[len(VERSIONED) :]
            scope["raw_path"] = path.encode()
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})
        state["request_id"] = id = str(uuid_utils.uuid7())
        origin = Headers(scope=scope).get("origin")
        allowed = origin if origin in self._origins else None
        began, status = time.perf_counter(), 0
        is_api = scope["path"].startswith("/api/")

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers: list[tuple[bytes, bytes]] = message.setdefault("headers", [])
                headers.append((b"ravand-request-id", id.encode()))
                if is_api:
                    given = {name for name, _ in headers}
                    headers += [pair for pair in _PROTECTING if pair[0] not in given]
                if "version" in state and status < 400:
                    headers.append((b"ravand-version", b"%d" % state["version"]))
                if allowed:
                    headers.append((b"access-control-allow-origin", allowed.encode()))
                    headers.append((b"access-control-expose-headers", _EXPOSED))
                if self._origins:
                    headers.append((b"vary", b"Origin"))
            await send(message)

        try:
            if scope["method"] == "OPTIONS" and origin:
                await self._preflight(scope, receive, with_headers, allowed)
            else:
                await self._app(scope, receive, with_headers)
        # What cancels a request is the server's end, when it has waited for long enough, and nothing comes after it.
        except (Exception, asyncio.CancelledError) as error:
            if status:  # The answer had begun; cutting it off is all that is left to say.
                log.error("answer cut off", id=id, method=scope["method"], path=scope["path"], exc_info=error)
                raise CutOff from error
            told = error if isinstance(error, Exception) else stopping(scope["method"])
            await (await handle(Request(scope, receive), told))(scope, receive, with_headers)
        finally:
            log.debug(
                "request",
                id=id,
                method=scope["method"],
                path=scope["path"],
                status=status,
                code=state.get("code"),
                ms=round(1000 * (time.perf_counter() - began), 2),
            )

    async def _preflight(self, scope: Scope, receive: Receive, send: Send, allowed: str | None) -> None:
        """A browser asks whether a page of another origin may call."""
        if allowed is None:
            refusal = Problem(403, "foreign_origin", "Pages of this origin may not call.")
            await answer(refusal, scope["state"]["request_id"])(scope, receive, send)
            return
        headers = [
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
            (b"access-control-allow-headers", b"Authorization, Content-Type, Idempotency-Key, If-None-Match, Range"),
            (b"access-control-max-age", b"600"),
        ]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
