"""The whole way once: register, upload, train, look."""

from __future__ import annotations

import pytest

from tests.api.platform import Member

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_new_member_uploads_a_table_and_asks_for_a_job(member: Member) -> None:
    dataset = await member.dataset()
    assert dataset["number"] == 1
    assert dataset["version"] == 1
    assert [column["name"] for column in dataset["columns"]] == ["width", "height", "kind"]

    answer = await member.train(dataset["id"])
    assert answer.status_code == 202
    assert answer.json()["status"] == "queued"
    assert answer.headers["Ravand-Version"] == str(answer.json()["version"]) == "2"

    status = await member.http.get("/api/train/status", params={"job_id": answer.json()["job_id"], "after": 2})
    assert status.status_code == 200
    assert status.json()["status"] == "queued"
    assert status.json()["parameters"]["epochs"] == 3
