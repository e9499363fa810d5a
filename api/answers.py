"""Answers: msgspec structs, encoded once and straight to the socket, and described in the OpenAPI document from themselves.

pydantic describes what people send; what we send we made ourselves, so checking it again would only cost time (a page of
fifty jobs: 0.4 ms instead of 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from fastapi import Request, Response

_encode = msgspec.json.Encoder().encode
_DESCRIBED: dict[str, Any] = {}
"""Every type that a route says it answers with, by the name of its component."""


class Answer(Response):
    """A JSON response of what msgspec can encode."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes of the body."""
        return content if isinstance(content, bytes) else _encode(content)


def answered(
    request: Request,
    content: Any,
    status: int = 200,
    *,
    version: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """An answer that carries the workspace's version in its header."""
    if version is not None:
        request.state.version = version
    return Answer(content, status, headers=dict(headers or {}))


def moment(milliseconds: int) -> str:
    """A time of the log as RFC 3339 in UTC."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=8192)
def _second(seconds: int) -> str:
    """Kept, since the rows of a page share their seconds and this is most of the cost of answering one."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def maybe_moment(milliseconds: int | None) -> str | None:
    """The same where there may be none."""
    return None if milliseconds is None else moment(milliseconds)


class ProblemField(msgspec.Struct, frozen=True, kw_only=True):
    """One wrong field."""

    field: str
    message: str


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True, rename={"kind": "type"}):
    """What is answered when something is wrong (RFC 9457)."""

    kind: str
    title: str
    status: int
    detail: str
    code: str
    id: str
    errors: list[ProblemField] | msgspec.UnsetType = msgspec.UNSET


_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}


def returns(
    status: int, kind: Any, *, problems: tuple[int, ...] = (), description: str = ""
) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: what it answers on success, and with which statuses it may answer a problem."""
    (schema,), components = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
    _DESCRIBED.update(components)
    described: dict[int | str, dict[str, Any]] = {
        status: {"description": description or "Done.", "content": {"application/json": {"schema": schema}}}
    }
    for code in sorted({*problems, 500, 503}):
        described[code] = {"description": "A problem.", "content": _PROBLEM}
    return described


def components() -> dict[str, Any]:
    """The schemas of all answers, for the OpenAPI document."""
    _, problem = msgspec.json.schema_components([ProblemDocument], ref_template="#/components/schemas/{name}")
    return {**problem, **_DESCRIBED}
