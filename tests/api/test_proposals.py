"""What people ask for: once under its key, judged by the log, and never answered with more than is known."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.api.platform import CSV, Member, Platform, serving
from tests.api.test_bad_input import problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def steer(member: Member, what: str, job: str, key: str | None = None, **more: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return await member.http.post(f"/api/train/{what}", json={"job_id": job, **more}, headers=headers)


async def events(member: Member, job: str) -> list[dict[str, Any]]:
    answer = await member.http.get(f"/api/train/{job}/events")
    assert answer.status_code == 200
    return list(answer.json())


class TestOneKey:
    async def test_is_one_job_with_one_answer(self, member: Member) -> None:
        dataset = (await member.dataset())["id"]
        first = await member.train(dataset, key="k1")
        again = await member.train(dataset, key="k1")
        assert first.status_code == again.status_code == 202
        assert first.json() == again.json()
        assert first.headers["Ravand-Version"] == again.headers["Ravand-Version"]
        assert len((await member.http.get("/api/train/jobs")).json()) == 1

    async def test_at_once_is_one_job_too(self, member: Member) -> None:
        dataset = (await member.dataset())["id"]
        answers = await asyncio.gather(*(member.train(dataset, key="race") for _ in range(12)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["job_id"] for answer in answers}) == 1
        assert len({answer.json()["version"] for answer in answers}) == 1
        assert len((await member.http.get("/api/train/jobs")).json()) == 1

    async def test_at_once_at_two_processes_is_one_job_too(self, platform: Platform, member: Member) -> None:
        dataset = (await member.dataset())["id"]
        async with serving(platform.settings, projector=False) as other, other.client(member.token) as http:
            elsewhere = Member(member.email, member.token, member.user, http)
            answers = await asyncio.gather(
                *(somebody.train(dataset, key="two doors") for somebody in (member, elsewhere) for _ in range(4))
            )
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["job_id"] for answer in answers}) == 1

    async def test_with_another_body_is_refused(self, member: Member) -> None:
        dataset = (await member.dataset())["id"]
        assert (await member.train(dataset, key="k2")).status_code == 202
        problem(await member.train(dataset, key="k2", name="another"), 422, "key_reused")
        assert len((await member.http.get("/api/train/jobs")).json()) == 1

    async def test_with_other_bodies_at_once_lets_one_through(self, member: Member) -> None:
        dataset = (await member.dataset())["id"]
        answers = await asyncio.gather(*(member.train(dataset, key="k3", name=f"name {i}") for i in range(6)))
        codes = sorted(answer.status_code for answer in answers)
        assert codes == [202, 422, 422, 422, 422, 422]
        assert {answer.json()["code"] for answer in answers if answer.status_code == 422} == {"key_reused"}
        jobs = (await member.http.get("/api/train/jobs")).json()
        assert [job["job_id"] for job in jobs] == [a.json()["job_id"] for a in answers if a.status_code == 202]

    async def test_of_another_operation_is_another_request(self, member: Member) -> None:
        dataset = (await member.dataset())["id"]
        job = (await member.train(dataset, key="k4")).json()["job_id"]
        assert (await steer(member, "pause", job, "k4")).json()["status"] == "paused"
        assert (await steer(member, "resume", job, "k4")).json()["status"] == "queued"

    async def test_answers_a_stop_again_though_it_is_over_by_now(self, member: Member) -> None:
        job = await member.job()
        assert (await steer(member, "stop", job, "k5")).json()["status"] == "stopped"
        again = await steer(member, "stop", job, "k5")
        assert again.status_code == 200
        assert again.json()["status"] == "stopped"
        problem(await steer(member, "stop", job), 409, "already_over")
        assert [event["type"] for event in await events(member, job)] == ["JobRequested", "JobStopRequested"]

    async def test_of_an_upload_is_one_dataset(self, member: Member) -> None:
        member.http.headers["Idempotency-Key"] = "up"
        first, again = await member.upload(CSV), await member.upload(CSV)
        assert first.status_code == again.status_code == 201
        assert first.json() == again.json()
        problem(await member.upload(CSV + b"1,2,rose\n"), 422, "key_reused")
        del member.http.headers["Idempotency-Key"]
        assert len((await member.http.get("/api/datasets")).json()) == 1


class TestSteering:
    async def test_goes_as_the_job_allows(self, member: Member) -> None:
        job = await member.job()
        problem(await steer(member, "resume", job), 409, "not_paused")
        problem(await steer(member, "retry", job), 409, "not_retriable")
        assert (await steer(member, "priority", job, priority=7)).json()["priority"] == 7
        assert (await steer(member, "pause", job)).json()["status"] == "paused"
        problem(await steer(member, "pause", job), 409, "not_pausable")
        assert (await steer(member, "resume", job)).json()["status"] == "queued"
        stopped = await steer(member, "stop", job)
        assert stopped.json()["status"] == "stopped"
        assert stopped.headers["Ravand-Version"] == str(stopped.json()["version"])
        refused = problem(await steer(member, "stop", job), 409, "already_over")
        assert refused["job_status"] == "stopped"
        problem(await steer(member, "priority", job, priority=1), 409, "already_over")
        retried = await steer(member, "retry", job, fresh=True)
        assert retried.json()["status"] == "queued"

    async def test_that_is_impossible_appends_nothing(self, member: Member) -> None:
        job = await member.job()
        for what in ("resume", "retry"):
            assert (await steer(member, what, job)).status_code == 409
        assert [event["type"] for event in await events(member, job)] == ["JobRequested"]

    async def test_twice_at_once_takes_effect_once(self, member: Member) -> None:
        job = await member.job()
        answers = await asyncio.gather(*(steer(member, "stop", job) for _ in range(8)))
        assert sorted({answer.status_code for answer in answers}) in ([200, 409], [200])
        assert sum(answer.status_code == 200 for answer in answers) == 1
        effective = [event for event in await events(member, job) if event["verdict"] == "effective"]
        assert [event["type"] for event in effective] == ["JobRequested", "JobStopRequested"]


class TestReading:
    async def test_events_are_whole(self, member: Member) -> None:
        job = await member.job()
        await asyncio.gather(*(steer(member, "pause", job) for _ in range(5)))
        found = await events(member, job)
        assert found[0] == {
            "type": "JobRequested",
            "version": 2,
            "position": found[0]["position"],
            "verdict": "effective",
            "actor": member.user["id"],
            "time": found[0]["time"],
            "data": found[0]["data"],
            "id": job,
        }
        assert found[0]["time"].endswith("Z")
        assert set(found[0]["position"]) == {"partition", "offset"}
        for event in found:
            assert (event["verdict"] == "effective") == ("version" in event)
            assert (event["verdict"] == "refused") == ("reason" in event)
        page = await member.http.get(f"/api/train/{job}/events", params={"limit": 1})
        assert page.json() == found[:1]
        rest = await member.http.get(page.links["next"]["url"]) if "next" in page.links else None
        assert rest is None or rest.json() == found[1:2]

    async def test_a_read_after_a_version_sees_it(self, member: Member) -> None:
        dataset = (await member.dataset())["id"]
        for _ in range(10):
            answer = (await member.train(dataset)).json()
            listed = await member.http.get("/api/train/jobs", params={"after": answer["version"]})
            assert listed.json()[0]["job_id"] == answer["job_id"]
            assert int(listed.headers["Ravand-Version"]) >= answer["version"]

    async def test_a_version_that_does_not_come_is_said(self, platform: Platform, member: Member) -> None:
        problem_document = problem(await member.http.get("/api/train/jobs?after=1000"), 503, "version_not_reached")
        assert problem_document["version"] == 0

    async def test_a_read_waits_for_its_version(self, member: Member) -> None:
        waiting = asyncio.create_task(member.http.get("/api/datasets", params={"after": 1}))
        await member.dataset()
        assert len((await waiting).json()) == 1

    async def test_pages_hold_every_job_once(self, member: Member) -> None:
        dataset = (await member.dataset())["id"]
        made = [answer.json()["job_id"] for answer in [await member.train(dataset) for _ in range(7)]]
        seen: list[str] = []
        answer = await member.http.get("/api/train/jobs", params={"limit": 3, "status": "queued"})
        while True:
            seen += [job["job_id"] for job in answer.json()]
            if "next" not in answer.links:
                break
            await member.train(dataset)  # Newer ones do not shift what follows.
            answer = await member.http.get(answer.links["next"]["url"])
        assert seen == made[::-1]

    async def test_the_same_address_with_a_version_is_the_same(self, member: Member) -> None:
        job = await member.job()
        plain = await member.http.get("/api/train/status", params={"job_id": job})
        versioned = await member.http.get("/api/v1/train/status", params={"job_id": job})
        assert plain.json() == versioned.json()

    async def test_a_status_has_every_member_it_promises(self, member: Member) -> None:
        status = (await member.http.get("/api/train/status", params={"job_id": await member.job()})).json()
        promised = {
            "job_id",
            "status",
            "progress",
            "epoch",
            "epochs",
            "loss",
            "metrics",
            "message",
            "attempt",
            "version",
        }
        assert promised <= set(status)
        assert (status["status"], status["progress"], status["epoch"], status["epochs"]) == ("queued", 0, 0, 3)
        assert status["loss"] is None
        assert "model" not in status
        assert "error" not in status
        assert (await member.http.get(f"/api/train/{status['job_id']}/history")).json() == []

    async def test_names_have_their_defaults(self, member: Member) -> None:
        dataset = (await member.upload(CSV, "iris flowers.csv")).json()
        assert dataset["name"] == "iris flowers.csv"
        status = (await member.train(dataset["id"])).json()
        assert status["model_name"] == "iris flowers"
        named = (await member.train(dataset["id"], model="roses", name="first try")).json()
        assert (named["model_name"], named["name"]) == ("roses", "first try")

    async def test_the_same_bytes_twice_are_two_datasets(self, member: Member) -> None:
        first, second = await member.dataset(), await member.dataset()
        assert first["id"] != second["id"]
        assert first["sha256"] == second["sha256"]
        assert (first["number"], second["number"]) == (1, 2)
        preview = (await member.http.get(f"/api/datasets/{first['id']}/preview", params={"rows": 2})).json()
        assert preview["columns"] == first["columns"]
        assert len(preview["rows"]) == 2
        assert preview["rows"][0] == [0.0, 0, "rose"]

    async def test_recipes_tell_their_parameters(self, member: Member) -> None:
        recipes = (await member.http.get("/api/recipes")).json()
        tabular = next(recipe for recipe in recipes if recipe["name"] == "tabular")
        assert {"target", "epochs", "batch_size", "learning_rate", "seed"} <= set(tabular["parameters"]["properties"])
        assert tabular["description"]
