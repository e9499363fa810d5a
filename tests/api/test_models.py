"""What comes of a job: its curve, its model and the archive of it, or its error and its last words."""

from __future__ import annotations

import io
import itertools
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest

from tests.api.platform import Member, Platform
from tests.api.test_bad_input import problem
from tests.api.worker_by_hand import WorkerByHand, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


def worker_for(platform: Platform, member: Member) -> WorkerByHand:
    return WorkerByHand(platform.settings, jwt.decode(member.token, options={"verify_signature": False})["ws"])


async def trained(platform: Platform, member: Member, weights: bytes, model: str = "flowers") -> dict[str, Any]:
    worker, job = worker_for(platform, member), await member.job()
    await worker.train(job, 3)
    await worker.register(job, 3, model, weights)
    return await until(member, job, "completed")


async def test_a_finished_job_tells_its_curve_and_its_model(platform: Platform, member: Member) -> None:
    status = await trained(platform, member, b"w" * 1000)
    assert status["progress"] == 100
    assert status["model"] == {"name": "flowers", "number": 1}
    assert status["metrics"] == {"loss": 1 / 3, "accuracy": 0.5}
    assert status["loss"] == 1 / 3
    history = (await member.http.get(f"/api/train/{status['job_id']}/history")).json()
    assert [(row["attempt"], row["epoch"], row["loss"]) for row in history] == [(1, 1, 1.0), (1, 2, 0.5), (1, 3, 1 / 3)]
    assert [row["version"] for row in history] == [4, 5, 6]
    assert all(row["metrics"]["accuracy"] == 0.5 for row in history)
    assert history[0]["time"].endswith("Z")


async def test_models_are_listed_with_their_versions(platform: Platform, member: Member, stranger: Member) -> None:
    await trained(platform, member, b"one", "a b")
    await trained(platform, member, b"two", "گل")
    last = await trained(platform, member, b"three", "a b")
    models = (await member.http.get("/api/models")).json()
    assert [(model["name"], model["versions"], model["latest"]["number"]) for model in models] == [
        ("a b", 2, 2),
        ("گل", 1, 1),
    ]
    one = (await member.http.get("/api/models/a%20b")).json()
    assert [version["number"] for version in one["versions"]] == [2, 1]
    assert one["versions"][0]["job_id"] == last["job_id"]
    assert (await member.http.get("/api/models/گل")).status_code == 200
    page = await member.http.get("/api/models", params={"limit": 1})
    rest = await member.http.get(page.links["next"]["url"])
    assert [model["name"] for model in page.json() + rest.json()] == ["a b", "گل"]
    problem(await stranger.http.get("/api/models/a%20b"), 404, "not_found")
    problem(await stranger.http.get("/api/models/a%20b/versions/1/download"), 404, "not_found")
    problem(await member.http.get("/api/models/a%20b/versions/3/download"), 404, "not_found")
    problem(await member.http.get("/api/models/a%20b/versions/0/download"), 404, "not_found")


async def test_an_archive_is_whole_and_the_same_in_every_part(platform: Platform, member: Member) -> None:
    weights = os.urandom(3_000_000)
    await trained(platform, member, weights)
    url = "/api/models/flowers/versions/1/download"
    answer = await member.http.get(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    assert int(answer.headers["content-length"]) == len(answer.content)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["model.safetensors", "manifest.json"]
        assert archive.read("model.safetensors") == weights
        assert json.loads(archive.read("manifest.json")) == {"recipe": "tabular"}

    size, etag = len(answer.content), answer.headers["etag"]
    edges = [0, 1, 29, 30, 60, 1_000_000, 2_999_999, 3_000_100, size - 22, size]
    parts = []
    for first, last in itertools.pairwise(edges):
        part = await member.http.get(url, headers={"Range": f"bytes={first}-{last - 1}", "If-Range": etag})
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {first}-{last - 1}/{size}"
        parts.append(part.content)
    assert b"".join(parts) == answer.content
    tail = await member.http.get(url, headers={"Range": "bytes=-22"})
    assert tail.content == answer.content[-22:]
    rest = await member.http.get(url, headers={"Range": f"bytes={size - 5}-"})
    assert rest.content == answer.content[-5:]

    assert (await member.http.get(url, headers={"If-None-Match": f'"x", {etag}'})).status_code == 304
    head = await member.http.head(url)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(size), b"")
    for ignored in ("bytes=0-1,3-4", "bytes=-", "bytes=5-2x", "lines=1-2", "bytes=" + "0-," * 5000):
        whole = await member.http.get(url, headers={"Range": ignored})
        assert (whole.status_code, len(whole.content)) == (200, size)
    stale = await member.http.get(url, headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (stale.status_code, len(stale.content)) == (200, size)
    beyond = await member.http.get(url, headers={"Range": f"bytes={size}-"})
    problem(beyond, 416, "range_not_satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{size}"


async def test_a_model_whose_bytes_were_changed_is_not_handed_out(
    platform: Platform, member: Member, objects: Path
) -> None:
    status = await trained(platform, member, b"good weights")
    file = objects / f"models/{status['job_id']}/1/model.safetensors"
    file.write_bytes(b"evil weights")
    problem(await member.http.get("/api/models/flowers/versions/1/download"), 500, "model_corrupt")
    file.unlink()
    problem(await member.http.get("/api/models/flowers/versions/1/download"), 500, "object_missing")
    file.write_bytes(b"good weights")
    assert (await member.http.get("/api/models/flowers/versions/1/download")).status_code == 200


async def test_an_archive_whose_file_vanishes_on_the_way_is_cut_off_and_never_looks_whole(
    platform: Platform, member: Member, objects: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = await trained(platform, member, b"fleeting weights")
    url = "/api/models/flowers/versions/1/download"
    assert (await member.http.get(url)).status_code == 200  # From here on its bytes are known and not looked at first.
    (objects / f"models/{status['job_id']}/1/model.safetensors").unlink()
    with pytest.raises(httpx2.RemoteProtocolError):
        await member.http.get(url)
    said = capsys.readouterr().err.splitlines()
    assert ["answer cut off" in line for line in said if '"level": "error"' in line] == [True]
    assert (await member.http.get("/api/models")).status_code == 200


async def test_a_failed_job_tells_why(platform: Platform, member: Member, objects: Path) -> None:
    worker, job = worker_for(platform, member), await member.job()
    await worker.train(job, 1)
    await worker.fail(job, "epoch 2\nValueError: could not convert 'rose'\n")
    status = await until(member, job, "failed")
    assert status["error"] == {
        "code": "exception",
        "message": "The training function raised an exception (ValueError).",
        "log": "epoch 2\nValueError: could not convert 'rose'\n",
    }
    listed = (await member.http.get("/api/train/jobs", params={"status": "failed"})).json()
    assert listed[0]["error"]["code"] == "exception"
    retried = await member.http.post("/api/train/retry", json={"job_id": job})
    assert retried.json()["status"] == "queued"
    assert "error" not in retried.json()


async def test_last_words_that_are_gone_do_not_hide_the_job(platform: Platform, member: Member, objects: Path) -> None:
    worker, job = worker_for(platform, member), await member.job()
    await worker.train(job, 1)
    await worker.fail(job, f"words of {job}")
    (objects / f"jobs/{job}/1/log.txt").unlink()
    status = await until(member, job, "failed")
    assert status["error"]["log"] is None


async def test_log_lines_and_step_metrics_are_those_that_were_stored(platform: Platform, member: Member) -> None:
    job = await member.job()
    assert (await member.http.get(f"/api/train/{job}/logs")).json() == []
    assert (await member.http.get(f"/api/train/{job}/metrics")).json() == []
    problem(await member.http.get(f"/api/train/{job}/logs", params={"cursor": "x"}), 422, "invalid")
