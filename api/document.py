"""The OpenAPI document: open to all, made from the routes, the models of bodies and the structs of answers."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi

from api import access
from api.answers import Answer, components
from api.routing import router as new_router

router = new_router()

_BEARER = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "From register or login."}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "The same request under the same key takes effect once, however often it is sent.",
}
_AFTER = {
    "name": "after",
    "in": "query",
    "required": False,
    "schema": {"type": "integer", "minimum": 0},
    "description": "Answer from this version of the workspace or a later one; waits for it, briefly.",
}
_KEYED = ("/api/train", "/api/datasets")


@cache
def version() -> str:
    """The version of this build."""
    try:
        return installed_version("ravand")
    except PackageNotFoundError:
        return "0"


@router.get("/openapi.json", include_in_schema=False)
@access.public
async def openapi(request: Request) -> Response:
    """The document."""
    return Answer(describe(request.app), headers={"Cache-Control": "public, max-age=60"})


def describe(app: FastAPI) -> dict[str, Any]:
    """The document of the application as it is now."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.router.routes,
            servers=[{"url": "/"}],
        )
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(components())
        made["components"]["securitySchemes"] = {"bearer": _BEARER}
        for route in app.router.routes:
            _complete(made["paths"], route)
        app.openapi_schema = made
    return app.openapi_schema


def _complete(paths: dict[str, Any], route: Any) -> None:
    """What every operation has without its endpoint saying so: who may call it, and the members that all share."""
    for method in getattr(route, "methods", None) or ():
        operation = paths.get(route.path, {}).get(method.lower())
        if operation is None:
            continue
        rule = access.rule_of(route.endpoint)
        operation["security"] = [] if rule is access.Rule.PUBLIC else [{"bearer": []}]
        operation["x-access"] = rule.value
        parameters = operation.setdefault("parameters", [])
        if method in ("GET", "HEAD"):
            parameters.append(_AFTER)
        elif route.path.startswith(_KEYED):
            parameters.append(_KEY)
        unprocessable = operation.get("responses", {}).get("422")
        if unprocessable is not None and "HTTPValidationError" in str(unprocessable):
            operation["responses"]["422"] = {
                "description": "A problem.",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
            }
