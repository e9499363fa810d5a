"""Who may call what: nobody, unless the route says so.

Every endpoint carries one rule, put on it by a decorator. A route without one is refused when the application is made, so
it never ships. The rule is applied before anything of the request's body is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import structlog
from fastapi import Request
from starlette.routing import BaseRoute

from api.errors import Problem, unauthenticated

log = structlog.get_logger("api")
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
_RULE = "__ravand_access__"


class Rule(StrEnum):
    """The rules there are."""

    PUBLIC = "public"
    """Anybody."""
    USER = "user"
    """Who holds a token that is alive."""
    ADMIN = "admin"
    """The same, with the role `admin`."""
    TICKET = "ticket"
    """A socket: the endpoint itself redeems a single-use ticket, before it accepts."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking, from a token that was verified."""

    user: str
    workspace: str
    role: str
    session: str
    expires_at: float
    """Seconds since 1970; the token is dead from then on."""


class UnguardedRoute(Exception):
    """A route has no access rule: the application must not start."""


def public(endpoint: Endpoint) -> Endpoint:
    """Open to anybody."""
    return _ruled(endpoint, Rule.PUBLIC)


def user(endpoint: Endpoint) -> Endpoint:
    """For every member."""
    return _ruled(endpoint, Rule.USER)


def admin(endpoint: Endpoint) -> Endpoint:
    """For administrators of the installation."""
    return _ruled(endpoint, Rule.ADMIN)


def ticket(endpoint: Endpoint) -> Endpoint:
    """For sockets, whose endpoint redeems a ticket before it accepts."""
    return _ruled(endpoint, Rule.TICKET)


def _ruled(endpoint: Endpoint, rule: Rule) -> Endpoint:
    setattr(endpoint, _RULE, rule)
    return endpoint


def rule_of(endpoint: Callable[..., Any]) -> Rule:
    """The endpoint's rule. Raises `UnguardedRoute` if it has none."""
    rule = getattr(endpoint, _RULE, None)
    if not isinstance(rule, Rule):
        raise UnguardedRoute(f"{getattr(endpoint, '__qualname__', endpoint)} has no access rule (api/access.py)")
    return rule


def check_routes(routes: Iterable[BaseRoute]) -> dict[str, Rule]:
    """Every route with its rule, sockets included. Raises `UnguardedRoute` for one without, and for what hides routes."""
    found: dict[str, Rule] = {}
    for route in routes:
        endpoint = getattr(route, "endpoint", None)
        path = getattr(route, "path", None)
        if endpoint is None or path is None:
            raise UnguardedRoute(f"{route!r} is a mount or an included router: its routes would escape this check")
        methods = ",".join(sorted(getattr(route, "methods", None) or ("WEBSOCKET",)))
        found[f"{methods} {path}"] = rule_of(endpoint)
    return found


async def admit(request: Request, rule: Rule) -> None:
    """Let the request pass under its route's rule, with the caller in its state. Raises 401 or 403."""
    if rule is Rule.PUBLIC:
        return
    caller: Caller = await request.app.state.services.sessions.caller(_bearer(request))
    if rule is Rule.ADMIN and caller.role != "admin":
        log.warning("forbidden", user=caller.user, method=request.method, path=request.scope["path"])
        raise Problem(403, "forbidden", "This needs the role of an administrator.")
    request.state.caller = caller


def _bearer(request: Request) -> str:
    given = request.headers.getlist("authorization")
    if not given:
        raise unauthenticated("This needs a token: send `Authorization: Bearer …`.")
    scheme, _, token = given[0].partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise unauthenticated("The Authorization header holds no bearer token.", error="invalid_request")
    return token.strip()


async def caller_of(request: Request) -> Caller:
    """The caller, for endpoints: `caller: CurrentCaller`."""
    caller: Caller = request.state.caller
    return caller
