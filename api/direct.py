"""Endpoints called directly, with what FastAPI has read in their signatures and without its general machinery.

FastAPI opens three exit stacks for each request and solves a tree of dependencies that may hold generators, forms, headers
and background tasks. Ours take a body, parts of the path and the query, the caller and the request, and answer themselves.
Their arguments are checked here by the same fields, with the same errors, in a third of the time. An endpoint that wants
anything else is left to FastAPI.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.params import Body, Form
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from api.access import caller_of

Handler = Callable[[Request], Awaitable[Response]]


def call_of(route: APIRoute) -> Handler | None:
    """What calls the route's endpoint for a request, or None where FastAPI has to. Raises `RequestValidationError`."""
    if not _is_simple(route):
        return None
    wants, body_field, endpoint = route.dependant, route.body_field, route.endpoint
    path, query, request_name = wants.path_params, wants.query_params, wants.request_param_name
    callers = [dependency.name for dependency in wants.dependencies if dependency.name]

    async def call(request: Request) -> Response:
        arguments: dict[str, Any] = {}
        errors: list[Any] = []
        body: Any = await request.json() if body_field is not None else None
        for name in callers:
            arguments[name] = await caller_of(request)
        if path:
            found, wrong = request_params_to_args(path, request.path_params)
            arguments |= found
            errors += wrong
        if query:
            found, wrong = request_params_to_args(query, request.query_params)
            arguments |= found
            errors += wrong
        if body_field is not None:
            arguments[body_field.name], wrong = body_field.validate(body, {}, loc=("body",))
            errors += wrong
        if errors:
            raise RequestValidationError(errors, body=body)
        if request_name:
            arguments[request_name] = request
        answer: Response = await endpoint(**arguments)
        return answer

    return call


def app_of(handler: Handler) -> ASGIApp:
    """The handler, which lets no exception out, as an application."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)

    return app


def _is_simple(route: APIRoute) -> bool:
    wants, body = route.dependant, route.body_field
    is_json = body is None or (
        isinstance(body.field_info, Body) and not isinstance(body.field_info, Form) and not route._embed_body_fields
    )
    return (
        is_json
        and inspect.iscoroutinefunction(route.endpoint)
        and inspect.signature(route.endpoint, eval_str=True).return_annotation is Response
        and all(dependency.call is caller_of for dependency in wants.dependencies)
        and not (wants.header_params or wants.cookie_params)
        and not any(
            (
                wants.http_connection_param_name,
                wants.websocket_param_name,
                wants.background_tasks_param_name,
                wants.response_param_name,
                wants.security_scopes_param_name,
            )
        )
    )
