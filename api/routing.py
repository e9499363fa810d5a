"""The route class of every endpoint: access first, then a bounded and strict body, then the endpoint; problems come out.

FastAPI reads a body before it solves dependencies; a rule that were a dependency would let a stranger send 1 MiB and learn
from a 422 what the fields are called. So the rule stands around all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from api import access, direct
from api.answers import Answer
from api.errors import Problem, handle, invalid, malformed, too_large
from api.proposals import KEY_HEADER, Pending

BODY_SECONDS = 20.0
"""How long a JSON body may take to arrive."""
READ_SECONDS = 20.0
"""A read that takes longer waits for a database that does not answer; who asks is told so."""
_LARGEST_VERSION = 2**53
DISCARD_SECONDS = 10.0
_STRANGERS_BYTES = 16 * 1024 * 1024
"""How much of a body is read and dropped for somebody whom we do not know."""


class JsonRequest(Request):
    """A request whose body, if the endpoint wants one, is strict JSON of bounded size, whatever its label says."""

    @cached_property
    def headers(self) -> Headers:
        # A token, never a cookie, authorises: a wrong Content-Type protects nobody, and many clients send one.
        return Headers(raw=[pair for pair in self.scope["headers"] if pair[0] != b"content-type"])

    async def body(self) -> bytes:
        """All of it. Raises 413 past the limit, on the bytes that really come."""
        if not hasattr(self, "_body"):
            limit: int = self.app.state.services.settings.api.max_body_bytes
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    self._body = await self._bounded(limit)
            except TimeoutError:
                raise Problem(408, "request_timeout", "The body did not arrive in time.") from None
            except ClientDisconnect:
                raise Problem(400, "disconnected", "The client went away.") from None
            if not self._body.strip():
                raise malformed("The body is empty; a JSON object is expected.")
        return self._body

    async def _bounded(self, limit: int) -> bytes:
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > limit:
            raise too_large(f"A JSON body has at most {limit} bytes.")
        parts, size = [], 0
        async for part in self.stream():
            size += len(part)
            if size > limit:
                raise too_large(f"A JSON body has at most {limit} bytes.")
            parts.append(part)
        return b"".join(parts)

    async def json(self) -> Any:
        """The document. Raises 422 `malformed` for what is none; NaN, infinities and lone surrogates are none."""
        body = await self.body()
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise malformed(f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno}).") from None
        if b"\\u0000" in body and _has_nul(document):
            raise malformed("The body has a NUL character in a text.")
        return document


class Incoming:
    """What the client sends, and how much of it is still to come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._whole = False

    async def __call__(self) -> Message:
        """The next part."""
        message = await self._receive()
        self._whole = not message.get("more_body", False)
        return message

    async def discard(self, request: Request) -> None:
        """Read and drop the rest, within bounds, before the answer is sent.

        A connection that is closed with unread bytes is reset, and the reset overtakes the answer: a client that sends all
        before it reads would see a broken connection instead of the problem.
        """
        coming = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
        known = hasattr(request.state, "caller")
        left = 2 * request.app.state.services.settings.datasets.max_bytes if known else _STRANGERS_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while coming and left > 0 and not self._whole:
                    left -= len((await self()).get("body", b""))


def _has_nul(node: Any) -> bool:
    match node:
        case str():
            return "\0" in node
        case dict():
            return any(_has_nul(name) or _has_nul(held) for name, held in node.items())
        case list():
            return any(map(_has_nul, node))
        case _:
            return False


class Route(APIRoute):
    """An endpoint under its access rule."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if direct.call_of(self) is not None:
            self.app = direct.app_of(self.get_route_handler())

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that Starlette calls."""
        rule = access.rule_of(self.endpoint)
        run = direct.call_of(self) or super().get_route_handler()
        reads = bool({"GET", "HEAD"} & set(self.methods or ()))
        needs_database = rule is not access.Rule.PUBLIC or "/auth/" in self.path
        wants_json = self.body_field is not None

        async def guarded(request: Request) -> Response:
            body = Incoming(request.receive)
            try:
                if needs_database:
                    request.app.state.services.listener.check()
                async with asyncio.timeout(READ_SECONDS if reads else None):
                    await access.admit(request, rule)
                    if reads and "after" in request.query_params:
                        await _reach(request, rule)
                    return await run((JsonRequest if wants_json else Request)(request.scope, body))
            except Pending as pending:
                return _pending(pending)
            except Exception as error:
                answer = await handle(request, error)
                await body.discard(request)
                return answer

        return guarded


def _pending(pending: Pending) -> Response:
    """The request is on the log and will be judged: where to ask then."""
    is_dataset = pending.ask.operation.startswith("datasets.")
    where = f"/api/datasets/{pending.subject}" if is_dataset else f"/api/train/status?job_id={pending.subject}"
    said = {
        "verdict": "pending",
        "dataset_id" if is_dataset else "job_id": pending.subject,
        "status_url": where,
        "key": pending.ask.key,
        "detail": "The request is safe on the log. What comes of it is not known yet: ask again at `status_url`, or send"
        f" the request again with the same {KEY_HEADER}.",
    }
    return Answer(said, 202, headers={"Location": where, "Retry-After": "1", KEY_HEADER: pending.ask.key})


async def _reach(request: Request, rule: access.Rule) -> None:
    """Wait until the read model holds the version of `?after=`. Raises 422 or 503 `version_not_reached`."""
    given = request.query_params.getlist("after")
    version = (
        int(given[0]) if len(given) == 1 and given[0].isascii() and given[0].isdecimal() and len(given[0]) < 20 else -1
    )
    if not 0 <= version <= _LARGEST_VERSION:
        raise invalid(("after", "A version of the workspace is expected: a whole number from 0."))
    if rule is not access.Rule.PUBLIC:
        await request.app.state.services.versions.reach(request.state.caller.workspace, version)


def router() -> APIRouter:
    """A router whose endpoints are under `/api` and need an access rule."""
    return APIRouter(
        prefix="/api",
        route_class=Route,
        strict_content_type=False,
        generate_unique_id_function=lambda route: route.name,  # What generated clients call their functions.
    )
