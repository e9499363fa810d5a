"""What people are told while the log or the database is away, and that it is true. On servers of its own, which it freezes."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import httpx2
import psutil
import pytest
import pytest_asyncio

from adapters.settings import Settings
from api import jobs
from tests.api.platform import CSV, Member, Platform, eventually, initialise, serving, settings_for
from tests.api.test_bad_input import problem
from tests.servers import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")
FROZEN_SECONDS = 20.0


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Servers, psutil.Process]]:
    """A broker and a database that nobody else uses."""
    folder = tmp_path_factory.mktemp("servers") / "state"
    process = subprocess.Popen(
        [sys.executable, "-m", "ops.dev_servers", str(folder), "--volatile"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        if line == "ready\n":
            break
        lines.append(line.strip())
    else:
        pytest.fail("the servers did not start")
    yield Servers(dict(line.split("=", 1) for line in lines), folder), psutil.Process(process.pid)
    process.terminate()
    process.communicate(timeout=60)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(
    own_servers: tuple[Servers, psutil.Process], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Platform]:
    """A platform on them that loses patience soon."""
    servers, _ = own_servers
    settings: Settings = settings_for(
        servers.kafka,
        "outages.",
        servers.settings["RAVAND_DATABASE__URL"],
        tmp_path_factory.mktemp("store"),
        kafka={"append_deadline_seconds": 1.0},
        database={"statement_timeout_seconds": 2.0},
        api={"port": 0, "verdict_deadline_seconds": 1.0, "version_deadline_seconds": 1.0},
    )
    await initialise(settings)
    async with serving(settings) as running:
        yield running


def processes(root: psutil.Process, name: str) -> list[psutil.Process]:
    """The server of that name and its children."""
    return [child for child in root.children(recursive=True) if name in child.name()]


@contextmanager
def frozen(root: psutil.Process, name: str) -> Iterator[None]:
    """Stop a server in the middle of whatever it does; it keeps its connections and answers nothing."""
    found = processes(root, name)
    assert found
    for process in found:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in found:
            process.send_signal(signal.SIGCONT)


async def until_ready(platform: Platform, status: int) -> dict[str, str]:
    checks: dict[str, str] = {}

    async def is_so() -> bool:
        async with platform.client() as http:
            answer = await http.get("/api/health/ready")
        checks.update(answer.json()["checks"])
        return answer.status_code == status

    await eventually(is_so, 30)
    return checks


async def settled(member: Member) -> None:
    """Wait until verdicts come in time again: after an outage the projector may be back a little later than the rest."""

    async def is_so() -> bool:
        return (await member.upload(CSV)).status_code == 201

    await eventually(is_so, 60)


async def test_an_append_that_nobody_acknowledged_is_answered_as_unknown_and_its_key_finds_out(
    platform: Platform, member: Member, own_servers: tuple[Servers, psutil.Process]
) -> None:
    await settled(member)
    dataset = (await member.dataset())["id"]
    with frozen(own_servers[1], "java"):
        unkeyed = await member.train(dataset)
        document = problem(unkeyed, 503, "outcome_unknown")
        assert unkeyed.headers["Idempotency-Key"] == document["key"]
        assert unkeyed.headers["Retry-After"]
        # The next one is refused at once, and surely not appended.
        problem(await member.train(dataset, key="surely not"), 503, "log_unavailable")
        assert (await until_ready(platform, 503))["log"] != "ok"
        assert (await member.http.get("/api/train/jobs")).status_code == 200
    await until_ready(platform, 200)

    async def is_answered() -> bool:
        answer = await member.train(dataset, key=document["key"])
        assert answer.status_code in (202, 503)
        return answer.status_code == 202 and "verdict" not in answer.json()

    await eventually(is_answered, 30)
    first = await member.train(dataset, key=document["key"])
    again = await member.train(dataset, key=document["key"])
    assert first.json() == again.json()
    jobs = (await member.http.get("/api/train/jobs")).json()
    assert [job["job_id"] for job in jobs] == [first.json()["job_id"]]


async def test_without_a_verdict_in_time_the_answer_says_where_to_ask(
    own_servers: tuple[Servers, psutil.Process], platform: Platform
) -> None:
    settings = platform.settings.model_copy(
        update={"kafka": platform.settings.kafka.model_copy(update={"prefix": "unjudged."})}
    )
    await initialise(settings)
    async with serving(settings, projector=False) as unjudged, platform.member() as member:
        await settled(member)
        dataset = await member.dataset()
        async with unjudged.client(member.token) as http:
            answer = await http.post(
                "/api/train",
                json={"recipe": "tabular", "dataset_id": dataset["id"], "parameters": {"target": "kind"}},
                headers={"Idempotency-Key": "pending"},
            )
        assert answer.status_code == 202
        body = answer.json()
        assert body["verdict"] == "pending"
        assert body["status_url"] == answer.headers["Location"] == f"/api/train/status?job_id={body['job_id']}"
        assert body["key"] == "pending"


async def test_a_frozen_database_is_said_in_time_and_comes_back(
    platform: Platform, member: Member, own_servers: tuple[Servers, psutil.Process]
) -> None:
    await settled(member)
    job = await member.job()
    with frozen(own_servers[1], "postgres"):
        began = time.monotonic()
        answers = await asyncio.gather(
            *(member.http.get("/api/train/status", params={"job_id": job}) for _ in range(20))
        )
        for answer in answers:
            problem(answer, 503, "read_model_unavailable")
        problem(await member.http.get("/api/auth/me"), 503, "read_model_unavailable")
        assert time.monotonic() - began < 25
        assert (await until_ready(platform, 503))["database"] != "ok"
        async with platform.client() as http:
            assert (await http.get("/api/health/live")).status_code == 200
    await until_ready(platform, 200)
    assert (await member.http.get("/api/train/status", params={"job_id": job})).status_code == 200


async def test_a_database_that_was_killed_is_said_and_comes_back(
    platform: Platform, member: Member, own_servers: tuple[Servers, psutil.Process]
) -> None:
    await settled(member)
    job = await member.job()
    for process in processes(own_servers[1], "postgres"):
        process.kill()
    seen: set[int] = set()

    async def is_back() -> bool:
        answer = await member.http.get("/api/train/status", params={"job_id": job})
        seen.add(answer.status_code)
        if answer.status_code != 200:
            problem(answer, 503, "read_model_unavailable")
        return answer.status_code == 200 and len(seen) == 2

    await eventually(is_back, 60)
    await until_ready(platform, 200)

    async def is_stopped() -> bool:
        key = {"Idempotency-Key": "stop"}
        # The projector may need a moment longer: until then the answer is 202, pending.
        answer = await member.http.post("/api/train/stop", json={"job_id": job}, headers=key)
        return bool(answer.json().get("status") == "stopped")

    await eventually(is_stopped, 30)
    assert (await member.http.post("/api/auth/logout")).status_code == 204
    problem(await member.http.get("/api/auth/me"), 401, "unauthenticated")


async def stop(member: Member, job_id: str) -> httpx2.Response:
    headers = {"Idempotency-Key": "stop it"}
    return await member.http.post("/api/train/stop", json={"job_id": job_id}, headers=headers)


async def test_what_took_effect_is_never_answered_as_if_nothing_had_been_done(
    platform: Platform, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    await settled(member)
    job_id = await member.job()
    seen, looks = jobs.seen, 0

    async def database_is_away_after_the_append(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise asyncpg.ConnectionDoesNotExistError("gone")
        return await seen(*arguments)

    monkeypatch.setattr(jobs, "seen", database_is_away_after_the_append)
    answer = await stop(member, job_id)
    assert (answer.status_code, answer.json()["verdict"], answer.json()["job_id"]) == (202, "pending", job_id)
    again = await stop(member, job_id)
    assert (again.status_code, again.json()["status"]) == (200, "stopped")


async def test_a_request_that_is_judged_while_it_is_sent_again_is_not_refused_for_its_own_effect(
    platform: Platform, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    await settled(member)
    job_id = await member.job()
    seen, looks = jobs.seen, 0

    async def the_first_sending_is_judged_now(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 1:
            assert (await stop(member, job_id)).json()["status"] == "stopped"
        return await seen(*arguments)

    monkeypatch.setattr(jobs, "seen", the_first_sending_is_judged_now)
    answer = await stop(member, job_id)
    assert (answer.status_code, answer.json().get("status")) == (200, "stopped")


async def test_locked_tables_are_said_in_time_and_nothing_hangs(
    platform: Platform, member: Member, own_servers: tuple[Servers, psutil.Process]
) -> None:
    await settled(member)
    job_id = await member.job()
    connection = await asyncpg.connect(platform.settings.database.url.get_secret_value())
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE read.jobs, log.cursors, log.requests IN ACCESS EXCLUSIVE MODE")
            answers = await asyncio.gather(
                *(member.http.get("/api/train/status", params={"job_id": job_id}) for _ in range(12)),
                stop(member, job_id),
            )
            for answer in answers:
                problem(answer, 503, "read_model_unavailable")
            assert (await until_ready(platform, 503))["database"] != "ok"
    finally:
        await connection.close()
    await until_ready(platform, 200)
    await settled(member)
    assert (await stop(member, job_id)).json()["status"] == "stopped"


async def test_a_broker_that_is_frozen_for_long_costs_no_answer_its_time_and_everything_comes_back(
    platform: Platform, member: Member, own_servers: tuple[Servers, psutil.Process]
) -> None:
    """For longer than its session, than every deadline, and than a consumer's request may take."""
    await settled(member)
    dataset = (await member.dataset())["id"]
    codes: set[str] = set()
    until = time.monotonic() + FROZEN_SECONDS
    with frozen(own_servers[1], "java"):
        while time.monotonic() < until:
            refused = await member.train(dataset, key="while frozen")
            assert refused.status_code == 503, refused.text
            codes.add(refused.json()["code"])
            assert (await member.http.get("/api/train/jobs")).status_code == 200
            await asyncio.sleep(0.5)  # A client that tries again, as it is told.
    assert codes == {"outcome_unknown", "log_unavailable"}
    await until_ready(platform, 200)
    await settled(member)
    first = await member.train(dataset, key="while frozen")
    assert first.status_code == 202
    assert [job["job_id"] for job in (await member.http.get("/api/train/jobs")).json()] == [first.json()["job_id"]]
