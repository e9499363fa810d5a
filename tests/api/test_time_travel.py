"""`?as_of=`: reads answer what they would have answered then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from domain.events import AttemptStarted, EpochCompleted
from tests.api.platform import Member, Platform
from tests.api.test_models import trained, worker_for
from tests.api.worker_by_hand import WORKER, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATHS = ("/api/train/jobs", "/api/models", "/api/datasets")


async def shown(member: Member, path: str, **params: Any) -> Any:
    answer = await member.http.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_every_version_shows_what_there_was(platform: Platform, member: Member) -> None:
    """A dataset (1), a request (2), an attempt (3), three epochs (4-6), the model (7); then a second job."""
    job = (await trained(platform, member, b"w"))["job_id"]
    second = await member.job()
    await until(member, second, "queued")
    seen = []
    for version in range(10):
        board = await shown(member, "/api/train/jobs", as_of=version)
        models = await shown(member, "/api/models", as_of=version)
        datasets = await shown(member, "/api/datasets", as_of=version)
        seen.append(([j["status"] for j in board], [j["epoch"] for j in board], len(models), len(datasets)))
        if version >= 2:
            answer = await member.http.get("/api/train/status", params={"job_id": job, "as_of": version})
            assert answer.headers["ravand-version"] == str(version)
            assert answer.json() == next(j for j in board if j["job_id"] == job)
            history = await shown(member, f"/api/train/{job}/history", as_of=version)
            assert [row["epoch"] for row in history] == list(range(1, min(3, max(0, version - 3)) + 1))
    assert seen == [
        ([], [], 0, 0),
        ([], [], 0, 1),
        (["queued"], [0], 0, 1),
        (["running"], [0], 0, 1),
        (["running"], [1], 0, 1),
        (["running"], [2], 0, 1),
        (["running"], [3], 0, 1),
        (["completed"], [3], 1, 1),
        (["completed"], [3], 1, 2),
        (["queued", "completed"], [0, 3], 1, 2),
    ]
    running = await shown(member, "/api/train/jobs", as_of=5, status="running")
    assert [j["job_id"] for j in running] == [job]
    assert await shown(member, "/api/train/jobs", as_of=5, status="completed") == []
    assert (await shown(member, "/api/models/flowers", as_of=7))["versions"][0]["number"] == 1
    for path, params in (
        ("/api/train/status", {"job_id": job, "as_of": 1}),
        (f"/api/train/{job}/history", {"as_of": 1}),
        ("/api/models/flowers", {"as_of": 6}),
    ):
        assert (await member.http.get(path, params=params)).status_code == 404


async def test_what_was_shown_under_load_is_what_then_shows(platform: Platform, member: Member) -> None:
    """A hundred live reads while three jobs are trained at once: each is what the past says of its version."""
    dataset = (await member.dataset())["id"]
    parameters = {"target": "kind", "epochs": 40}
    jobs = [(await member.train(dataset, parameters=parameters)).json()["job_id"] for _ in range(3)]
    hand = worker_for(platform, member)
    training = [
        asyncio.create_task(
            hand.say(
                job,
                AttemptStarted(attempt=1, worker=WORKER),
                *(
                    EpochCompleted(attempt=1, worker=WORKER, epoch=e, metrics={"loss": 1 / e}, seconds=0.1)
                    for e in range(1, 41)
                ),
            )
        )
        for job in jobs
    ]
    live: list[tuple[int, Any]] = []
    while len(live) < 100 or not all(task.done() for task in training):
        answer = await member.http.get("/api/train/jobs")
        # Nothing but jobs changes, so the board is as it was at the newest version of one.
        version = max(job["version"] for job in answer.json())
        assert int(answer.headers["ravand-version"]) <= version
        live.append((version, answer.json()))
    await asyncio.gather(*training)
    for version, board in live:
        assert await shown(member, "/api/train/jobs", as_of=version) == board
    assert len({version for version, _ in live}) > 10, "nothing happened between the reads"


async def test_a_moment_is_as_good_as_a_version(platform: Platform, member: Member) -> None:
    job = (await trained(platform, member, b"w"))["job_id"]
    history = await shown(member, f"/api/train/{job}/history")
    then = await shown(member, "/api/train/status", job_id=job, as_of=history[1]["time"])
    assert then["version"] >= history[1]["version"]
    for path in PATHS:
        assert await shown(member, path, as_of="2020-01-01T00:00:00Z") == []
        assert await shown(member, path, as_of="2100-01-01T00:00:00Z") == await shown(member, path)


async def test_pages_of_then_lead_to_pages_of_then(member: Member) -> None:
    jobs = [await member.job() for _ in range(3)]
    last = int((await member.http.get("/api/train/jobs")).headers["ravand-version"])
    await member.job()
    answer = await member.http.get("/api/train/jobs", params={"as_of": last, "limit": 2})
    found = answer.json()
    found += (await member.http.get(answer.links["next"]["url"])).json()
    assert [job["job_id"] for job in found] == jobs[::-1]


async def test_strangers_see_nothing_of_then(platform: Platform, member: Member, stranger: Member) -> None:
    job = await member.job()
    await stranger.job()
    for path in (f"/api/train/status?job_id={job}&as_of=2", f"/api/train/{job}/history?as_of=2"):
        assert (await stranger.http.get(path)).status_code == 404


@pytest.mark.parametrize("as_of", ["", "-1", "1.5", "tomorrow", "2026-01-01T00:00:00", "99999999", "9" * 40, "x" * 100])
async def test_what_is_no_version_of_the_past_is_refused(member: Member, as_of: str) -> None:
    for path in PATHS:
        answer = await member.http.get(path, params={"as_of": as_of})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "as_of"
