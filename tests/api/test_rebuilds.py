"""Administrators rebuild the read model over HTTP, while members read and write as ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx2
import pytest
import pytest_asyncio

from api import rebuilds
from api.accounts.admin import create_admin
from projections.rebuild import runs
from tests.api.platform import PASSWORD, Member, Platform, eventually
from tests.api.test_bad_input import problem

pytestmark = pytest.mark.asyncio(loop_scope="module")
URL = "/api/admin/projections/rebuild"


@pytest_asyncio.fixture(loop_scope="module")
async def admin(platform: Platform) -> AsyncIterator[httpx2.AsyncClient]:
    """An administrator's client; whatever they have left unfinished is cancelled at the end."""
    await create_admin(platform.settings, "admin@example.org", PASSWORD, "Admin")
    async with platform.client() as http:
        answer = await http.post("/api/auth/login", json={"email": "admin@example.org", "password": PASSWORD})
        http.headers["Authorization"] = f"Bearer {answer.json()['token']}"
        yield http
        if (await http.get(URL)).json()["state"] in ("running", "interrupted", "refused"):
            assert (await http.post(f"{URL}/cancel")).status_code == 200


@pytest_asyncio.fixture(loop_scope="module")
async def database(platform: Platform) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(platform.settings.database.url.get_secret_value())
    yield connection
    await connection.close()


async def ended(http: httpx2.AsyncClient, state: str = "swapped") -> dict[str, Any]:
    """Watch until it is over."""
    found: dict[str, Any] = {}

    async def over() -> bool:
        found.update((await http.get(URL)).json())
        return bool(found["state"] != "running")

    await eventually(over, 60)
    assert found["state"] == state, found
    return found


@contextlib.asynccontextmanager
async def somebody_who_reads(database: asyncpg.Connection) -> AsyncIterator[None]:
    """For so long that nothing can be swapped."""
    async with database.transaction():
        await database.fetch("SELECT 1 FROM read.jobs LIMIT 1")
        yield


async def test_it_is_started_watched_and_rolled_back_while_members_go_on(
    platform: Platform, member: Member, admin: httpx2.AsyncClient
) -> None:
    job = await member.job()
    stop = asyncio.Event()
    versions = [0]

    async def go_on() -> None:
        while not stop.is_set():
            answer = await member.http.get("/api/train/status", params={"job_id": job, "after": versions[-1]})
            assert answer.status_code == 200, answer.text
            versions.append(int(answer.headers["Ravand-Version"]))
            asked = {"job_id": job, "priority": len(versions) % 100}
            assert (await member.http.post("/api/train/priority", json=asked)).status_code == 200

    going_on = asyncio.create_task(go_on())
    try:
        begun = await admin.post(URL, json={})
        assert begun.status_code == 202, begun.text
        assert begun.json()["kind"] == "rebuild"
        done = await ended(admin)
        assert (done["id"], done["differing_rows"], done["differing_verdicts"]) == (begun.json()["id"], 0, 0)
        assert set(done["parity"]) == set(runs.NAMES)
        assert done["started_by"] == (await admin.get("/api/auth/me")).json()["id"]
        back = await admin.post("/api/admin/projections/rollback")
        assert (back.status_code, back.json()["kind"]) == (202, "rollback")
        await ended(admin)
    finally:
        stop.set()
        await going_on
    assert versions == sorted(versions)
    assert len(versions) > 5


async def test_a_second_one_is_refused_and_the_first_can_be_cancelled(
    member: Member, admin: httpx2.AsyncClient, database: asyncpg.Connection
) -> None:
    await member.job()
    async with somebody_who_reads(database):
        assert (await admin.post(URL, json={})).status_code == 202
        problem(await admin.post(URL, json={}), 409, "rebuild_running")
        problem(await admin.post("/api/admin/projections/rollback"), 409, "rebuild_running")
        cancelled = await admin.post(f"{URL}/cancel")
        assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    problem(await admin.post(f"{URL}/cancel"), 409, "nothing_to_cancel")
    assert not await database.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = 'next'::regnamespace")


async def _begun_and_interrupted(admin: httpx2.AsyncClient, database: asyncpg.Connection) -> dict[str, Any]:
    begun = await admin.post(URL, json={})
    assert begun.status_code == 202
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'ravand-rebuild'"
    )

    async def interrupted() -> bool:
        return bool((await admin.get(URL)).json()["state"] == "interrupted")

    await eventually(interrupted, 30)
    return dict(begun.json())


async def test_one_that_was_killed_is_interrupted_and_goes_on(
    member: Member, admin: httpx2.AsyncClient, database: asyncpg.Connection
) -> None:
    await member.job()
    async with somebody_who_reads(database):
        begun = await _begun_and_interrupted(admin, database)
        problem(await admin.post(URL, json={"projection": "jobs"}), 409, "rebuild_unfinished")
    again = await admin.post(URL, json={})
    assert (again.status_code, again.json()["id"]) == (202, begun["id"])
    await ended(admin)


async def test_one_that_does_not_begin_in_time_does_not_begin_later(
    admin: httpx2.AsyncClient, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilds, "_START_SECONDS", 0)
    before = await runs.newest_run(database)
    problem(await admin.post(URL, json={}), 503, "rebuild_not_begun")

    async def no_process_is_left() -> bool:
        return not rebuilds._processes  # Whoever waited for it first hears of its end a moment after its killer does.

    await eventually(no_process_is_left)
    assert await runs.newest_run(database) == before


async def test_one_that_cannot_be_cancelled_in_time_is_still_there(
    member: Member, admin: httpx2.AsyncClient, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await member.job()
    async with somebody_who_reads(database):
        await _begun_and_interrupted(admin, database)
    with monkeypatch.context() as hurried:
        hurried.setattr(rebuilds, "_START_SECONDS", 0)
        problem(await admin.post(f"{URL}/cancel"), 503, "rebuild_not_cancelled")
    assert (await admin.get(URL)).json()["state"] == "interrupted"
    assert (await admin.post(f"{URL}/cancel")).json()["state"] == "cancelled"


async def test_damage_is_named_and_mended(
    member: Member, admin: httpx2.AsyncClient, database: asyncpg.Connection
) -> None:
    job = await member.job()
    await database.execute("UPDATE read.jobs SET priority = 77 WHERE job_id = $1", job)
    assert (await admin.post(URL, json={"projection": "jobs", "dry_run": True, "processes": 1})).status_code == 202
    dry = await ended(admin, "compared")
    [named] = dry["differences"]
    assert (named["projection"], named["what"], named["columns"]) == ("jobs", "altered", "priority")
    assert named["key"].endswith(f" {job}")
    assert await database.fetchval("SELECT priority FROM read.jobs WHERE job_id = $1", job) == 77
    assert (await admin.post(URL, json={"projection": "jobs"})).status_code == 202
    assert (await ended(admin))["parity"]["jobs"]["columns"] == {"priority": 1}
    assert await database.fetchval("SELECT priority FROM read.jobs WHERE job_id = $1", job) == 0


@pytest.mark.parametrize("body", [{"projection": "accounts"}, {"processes": 0}, {"more": 1}, {"dry_run": "yes"}])
async def test_what_makes_no_sense_is_refused(admin: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    problem(await admin.post(URL, json=body), 422, "invalid")
