"""The main job, from the upload to a prediction, through `ravand up` and the command line."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from cli import datasets
from cli.live import follow
from cli.server import Server
from projections.as_of import EVERY
from tests.e2e.conftest import PENGUINS, Up

pytestmark = [pytest.mark.timeout(240)]


def train(server: Server, **parameters: Any) -> dict[str, Any]:
    """Upload the penguins and ask for a job on them, with few steps an epoch."""
    dataset = datasets.send(server, PENGUINS)
    asked = {"target": "species", "batch_size": 64, **parameters}
    body = {"recipe": "tabular", "dataset_id": dataset["id"], "parameters": asked}
    job: dict[str, Any] = server.post("/api/train", body)
    return job


def test_a_user_trains_downloads_and_predicts_by_command_line(up: Up, tmp_path: Path) -> None:
    config: Any = {"RAVAND_CONFIG_DIR": str(tmp_path)}
    up.ravand(
        "register", "--email", "ada@example.org", "--name", "Ada", RAVAND_PASSWORD="a long enough secret", **config
    )
    uploaded = json.loads(up.ravand("dataset", "upload", str(PENGUINS), "--json", **config).stdout)
    assert (uploaded["rows"], uploaded["number"]) == (344, 1)

    shown = up.ravand("train", "penguins.csv", "--target", "species", "--epochs", "5", **config).stdout
    assert all(f"epoch    {number} of 5" in shown for number in range(1, 6))
    assert "Completed: model penguins, version 1." in shown

    [job] = json.loads(up.ravand("jobs", "--json", **config).stdout)
    assert (job["status"], job["epoch"], job["progress"]) == ("completed", 5, 100)
    history = json.loads(up.ravand("job", job["job_id"], "--history", "--json", **config).stdout)
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3, 4, 5]
    events = json.loads(up.ravand("job", job["job_id"], "--events", "--json", **config).stdout)
    assert (events[0]["type"], events[-1]["type"]) == ("JobRequested", "ModelRegistered")

    running = json.loads(up.ravand("ps", "--state", str(up.state), "--json").stdout)
    assert {"kafka", "postgres", "api", "worker"} < {row["service"] for row in running}

    model = tmp_path / "model.zip"
    up.ravand("model", "download", "penguins", "-o", str(model), **config)
    without_target = tmp_path / "new.csv"
    with PENGUINS.open(newline="") as source, without_target.open("w", newline="") as out:
        rows = list(csv.DictReader(source))
        writer = csv.DictWriter(out, [name for name in rows[0] if name != "species"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    predicted = list(csv.DictReader(io.StringIO(up.ravand("predict", str(model), str(without_target)).stdout)))
    assert len(predicted) == 344
    assert {row["prediction"] for row in predicted} <= {"Adelie", "Gentoo", "Chinstrap"}


def test_every_epoch_arrives_over_the_socket_in_order(up: Up) -> None:
    server = up.user()
    job = train(server, epochs=20)
    updates = [message for message in follow(server, job["job_id"]) if message["type"] == "job_update"]
    assert [u["epoch"] for u in updates if u["event"] == "EpochCompleted"] == list(range(1, 21))
    assert [u["previous"] for u in updates] == [0, *(u["version"] for u in updates[:-1])]
    assert (updates[0]["event"], updates[-1]["event"]) == ("JobRequested", "ModelRegistered")
    assert updates[-1]["progress"] == 100


def test_a_long_job_is_stopped_retried_paused_and_resumed(up: Up) -> None:
    server = up.user()
    job_id = train(server, epochs=100_000)["job_id"]
    stream = follow(server, job_id)
    until(stream, lambda m: m.get("epoch", 0) >= 3)
    assert server.post("/api/train/stop", {"job_id": job_id})["status"] == "stopping"
    stopped = until(stream, lambda m: m["status"] == "stopped")
    assert server.post("/api/train/retry", {"job_id": job_id})["status"] == "queued"
    stream = follow(server, job_id, since=stopped["version"])
    resumed = until(stream, lambda m: m["event"] == "EpochCompleted")
    assert resumed["epoch"] > 3, "a retry goes on from the checkpoint that the stop saved"
    assert server.post("/api/train/pause", {"job_id": job_id})["status"] == "pausing"
    paused = until(stream, lambda m: m["status"] == "paused")
    assert server.post("/api/train/resume", {"job_id": job_id})["status"] == "queued"
    stream = follow(server, job_id, since=paused["version"])
    assert until(stream, lambda m: m["event"] == "EpochCompleted")["epoch"] > resumed["epoch"]
    server.post("/api/train/stop", {"job_id": job_id})
    until(stream, lambda m: m["status"] == "stopped")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_the_job_of_a_lost_worker_finishes_elsewhere_and_the_old_attempt_is_refused(
    up: Up, number: signal.Signals
) -> None:
    server = up.user()
    job_id = train(server, epochs=150, checkpoint_every=10)["job_id"]
    stream = follow(server, job_id)
    until(stream, lambda m: m["event"] == "CheckpointSaved")
    rows = up.ps()
    [trainer] = [row for row in rows if row["service"] == "trainer"]
    [worker] = [row["pid"] for row in rows if row["service"] == "worker" and row["index"] == trainer["index"]]
    # The child is frozen with its worker, as a machine that stops answering would be.
    family = [psutil.Process(worker), *psutil.Process(worker).children(recursive=True)]
    for member in family:
        member.send_signal(number)
    try:
        lost = until(stream, lambda m: m["event"] == "AttemptLost")
        assert lost["status"] == "queued"
        started = until(stream, lambda m: m["event"] == "AttemptStarted")
        assert started["status"] == "running"
    finally:
        if number is signal.SIGSTOP:
            for member in family:
                if member.is_running():
                    member.send_signal(signal.SIGCONT)
    completed = until(stream, lambda m: m["status"] == "completed")
    assert completed["progress"] == 100
    history = server.get(f"/api/train/{job_id}/history")
    assert [epoch["epoch"] for epoch in history] == list(range(1, 151))


def test_a_killed_training_child_is_lost_and_its_worker_lives_on(up: Up) -> None:
    server = up.user()
    job_id = train(server, epochs=150, checkpoint_every=10)["job_id"]
    stream = follow(server, job_id)
    until(stream, lambda m: m["event"] == "CheckpointSaved")
    rows = up.ps()
    [trainer] = [row for row in rows if row["service"] == "trainer"]
    workers = {row["pid"] for row in rows if row["service"] == "worker"}
    os.kill(trainer["pid"], signal.SIGKILL)
    until(stream, lambda m: m["event"] == "AttemptLost")
    until(stream, lambda m: m["status"] == "completed")
    assert {row["pid"] for row in up.ps() if row["service"] == "worker"} == workers


def test_every_service_may_be_killed_while_a_job_runs(up: Up) -> None:
    server = up.user()
    job_id = train(server, epochs=100_000, checkpoint_every=20)["job_id"]
    stream = follow(server, job_id)
    seen: list[dict[str, Any]] = []
    for service in ("api", "projector", "supervisor", "kafka", "postgres"):
        seen.append(until(stream, lambda m: m["event"] == "EpochCompleted", seen))
        [pid] = [row["pid"] for row in up.ps() if row["service"] == service]
        os.kill(pid, signal.SIGKILL)
    up.until_ready()  # The epochs that were heard may be older than the kills.
    seen.append(until(stream, lambda m: m["event"] == "EpochCompleted", seen))
    server.post("/api/train/stop", {"job_id": job_id})
    seen.append(until(stream, lambda m: m["status"] == "stopped", seen))
    versions = [m["version"] for m in seen]
    assert versions == sorted(set(versions)), "nothing twice, nothing out of order"
    history = [epoch["epoch"] for epoch in server.get(f"/api/train/{job_id}/history")]
    assert history == list(range(1, seen[-1]["epoch"] + 1))


def test_going_back_in_time_folds_little_without_anybody_asking_for_snapshots(up: Up) -> None:
    server = up.user()
    job_id = train(server, epochs=300)["job_id"]
    seen: list[dict[str, Any]] = []
    last = until(follow(server, job_id), lambda m: m["event"] == "ModelRegistered", seen)
    url = up.ravand("env", "--state", str(up.state), "--json").stdout
    versions = asyncio.run(kept_snapshots(json.loads(url)["RAVAND_DATABASE__URL"], job_id, last["version"]))
    for version in (seen[10]["version"], seen[150]["version"], seen[-1]["version"]):
        then = server.get("/api/train/status", job_id=job_id, as_of=version)
        assert then["version"] == version
        assert then["epoch"] == next(m["epoch"] for m in seen if m["version"] == version)
    # Whoever had to fold further than to the next snapshot would have left one.
    again = asyncio.run(kept_snapshots(json.loads(url)["RAVAND_DATABASE__URL"], job_id, last["version"]))
    assert again == versions


async def kept_snapshots(url: str, job_id: str, version: int) -> list[int]:
    """The versions of the job's snapshots, once those up to `version` were looked through."""
    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(90):
            while await connection.fetchval(  # noqa: ASYNC110 — another process makes them.
                "SELECT count(*) = 0 FROM audit.snapshots s JOIN read.jobs j USING (workspace)"
                " WHERE j.job_id = $1 AND s.version + $3 > $2",
                job_id,
                version,
                EVERY,
            ):
                await asyncio.sleep(0.1)
        rows = await connection.fetch("SELECT version FROM audit.job_states WHERE job_id = $1 ORDER BY 1", job_id)
        assert len(rows) >= version // EVERY - 1
        return [row[0] for row in rows]
    finally:
        await connection.close()


def until(stream: Any, wanted: Any, seen: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The first update that is as wanted; `seen` collects the ones before it."""
    for message in stream:
        if message["type"] != "job_update":
            continue
        if wanted(message):
            found: dict[str, Any] = message
            return found
        if seen is not None:
            seen.append(message)
    raise AssertionError("the stream ended before that")
