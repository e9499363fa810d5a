"""A member of one workspace never sees another's things, on any route: not found, in the same words as what never was."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request

from api import access
from api.access import Caller, Rule, UnguardedRoute
from api.app import create_app
from api.errors import Problem
from tests.api.platform import Member, Platform
from tests.api.test_accounts import routes_of
from tests.api.test_bad_input import problem

pytestmark = pytest.mark.asyncio(loop_scope="module")
NEVER_WAS = "01900000-0000-7000-8000-000000000000"

PUBLIC = {
    ("GET", "/api/health/live"),
    ("GET", "/api/health/ready"),
    ("POST", "/api/auth/register"),
    ("POST", "/api/auth/login"),
}
"""All that is open, beside the OpenAPI document itself."""

OWN = {
    ("POST", "/api/auth/logout"),
    ("GET", "/api/auth/me"),
    ("GET", "/api/recipes"),
    ("POST", "/api/datasets"),
    ("GET", "/api/datasets"),
    ("GET", "/api/train/jobs"),
    ("GET", "/api/models"),
    ("POST", "/api/ws/ticket"),
}
"""Routes that name no object: what they show and make is the caller's own by the token."""

ADMINS = {
    ("GET", "/api/admin/projections/rebuild"),
    ("POST", "/api/admin/projections/rebuild"),
    ("POST", "/api/admin/projections/rebuild/cancel"),
    ("POST", "/api/admin/projections/rollback"),
}
"""Routes about the whole installation, for its administrators alone."""


def with_id(method: str, path: str, id: str) -> dict[str, Any] | None:
    """The request that names an object by its id; None for a route that names none."""
    if (method, path) in PUBLIC | OWN | ADMINS:
        return None
    if "{" in path:
        return {"url": re.sub(r"\{\w+\}", lambda found: "1" if found[0] == "{number}" else id, path)}
    if path == "/api/train/status":
        return {"url": path, "params": {"job_id": id}}
    if path == "/api/train":
        return {"url": path, "json": {"recipe": "tabular", "dataset_id": id, "parameters": {"target": "kind"}}}
    more: dict[str, Any] = {"priority": 1} if path == "/api/train/priority" else {}
    return {"url": path, "json": {"job_id": id, **more}}


def kinds_of_id(things: dict[str, str]) -> Iterator[str]:
    yield from things.values()


async def test_every_route_of_the_document_is_in_the_matrix(platform: Platform) -> None:
    routes = {(method, path) for method, path, _ in await routes_of(platform)}
    assert routes >= PUBLIC | OWN | ADMINS
    assert all(with_id(method, path, NEVER_WAS) for method, path in routes - PUBLIC - OWN - ADMINS)
    assert {(method, path) for method, path, rule in await routes_of(platform) if rule == "public"} == PUBLIC
    assert {(method, path) for method, path, rule in await routes_of(platform) if rule == "admin"} == ADMINS


@pytest.mark.parametrize(("method", "path"), sorted(ADMINS))
async def test_routes_for_administrators_are_closed_to_members(member: Member, method: str, path: str) -> None:
    problem(await member.http.request(method, path, json={}), 403, "forbidden")


async def test_other_peoples_ids_are_as_if_they_never_were(
    platform: Platform, member: Member, stranger: Member
) -> None:
    dataset = await member.dataset()
    job = (await member.train(dataset["id"])).json()["job_id"]
    things = {"dataset": dataset["id"], "job": job, "workspace": member.user["id"], "name": dataset["name"]}
    checked = 0
    for method, path, _ in await routes_of(platform):
        never = with_id(method, path, NEVER_WAS)
        if never is None:
            continue
        expected = problem(await stranger.http.request(method, **never), 404, "not_found")
        for id in kinds_of_id(things):
            asked = with_id(method, path, id)
            assert asked is not None
            answer = problem(await stranger.http.request(method, **asked), 404, "not_found")
            assert {**answer, "id": ""} == {**expected, "id": ""}, (method, path)
            checked += 1
    assert checked >= 50


async def test_lists_hold_only_ones_own(member: Member, stranger: Member) -> None:
    dataset = await member.dataset()
    assert (await member.train(dataset["id"])).status_code == 202
    for path in ("/api/datasets", "/api/train/jobs"):
        assert len((await member.http.get(path)).json()) == 1
        assert (await stranger.http.get(path)).json() == []


async def test_one_key_of_two_members_is_two_requests(member: Member, stranger: Member) -> None:
    mine = await member.train((await member.dataset())["id"], key="the same")
    theirs = await stranger.train((await stranger.dataset())["id"], key="the same")
    assert mine.status_code == theirs.status_code == 202
    assert mine.json()["job_id"] != theirs.json()["job_id"]


async def test_every_route_has_a_rule_sockets_included(platform: Platform) -> None:
    app = create_app(platform.settings)
    rules = access.check_routes(app.router.routes)
    assert len(rules) > 20
    assert {rule for route, rule in rules.items() if "/health/" in route or "/auth/" in route} == {
        Rule.PUBLIC,
        Rule.USER,
    }

    async def forgotten() -> None:
        """A route without a rule."""

    app.router.add_websocket_route("/api/forgotten", forgotten)  # type: ignore[arg-type]
    with pytest.raises(UnguardedRoute, match="forgotten"):
        access.check_routes(app.router.routes)


@pytest.mark.parametrize(("role", "status"), [("user", 403), ("admin", None)])
async def test_a_route_for_administrators_is_closed_to_others(role: str, status: int | None) -> None:
    class Sessions:
        async def caller(self, token: str) -> Caller:
            return Caller(user="u", workspace="w", role=role, session="s", expires_at=1e10)

    app = SimpleNamespace(state=SimpleNamespace(services=SimpleNamespace(sessions=Sessions())))
    headers = [(b"authorization", b"Bearer x")]
    request = Request({"type": "http", "method": "GET", "path": "/x", "headers": headers, "app": app, "state": {}})
    if status is None:
        await access.admit(request, Rule.ADMIN)
        assert request.state.caller.role == "admin"
    else:
        with pytest.raises(Problem) as refused:
            await access.admit(request, Rule.ADMIN)
        assert (refused.value.status_code, refused.value.code) == (status, "forbidden")


async def test_the_document_is_whole(platform: Platform) -> None:
    async with platform.client() as http:
        text = (await http.get("/api/openapi.json")).text
    document = json.loads(text)
    schemas = document["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', text)) <= set(schemas)
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names) > 20
    for operation in operations:
        assert operation["responses"]
        assert operation.get("summary")
        assert bool(operation["security"]) is (operation["x-access"] != "public")
    assert "JobAnswer" in schemas
    assert {"job_id", "status", "progress", "loss", "metrics"} <= set(schemas["JobAnswer"]["required"])


async def test_hosts_and_forwarded_addresses_change_nothing(member: Member) -> None:
    forged = {
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Prefix": "/evil",
        "X-Original-URL": "/api/health/live",
        "X-HTTP-Method-Override": "DELETE",
    }
    await member.dataset()
    await member.dataset()
    answer = await member.http.get("/api/datasets", params={"limit": 1}, headers=forged)
    assert answer.status_code == 200
    assert answer.headers["link"].startswith("</api/datasets?limit=1&cursor=")
    assert "evil" not in str(answer.headers) + answer.text


async def test_answers_carry_headers_that_protect(member: Member) -> None:
    answer = await member.http.get("/api/auth/me")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "server" not in answer.headers


async def test_pages_of_other_origins_may_not_read_answers(member: Member) -> None:
    answer = await member.http.get("/api/auth/me", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    problem(await member.http.request("OPTIONS", "/api/auth/me", headers=asked), 403, "foreign_origin")
