"""The machine goes off under one broker: the log loses what was not yet on the disk, and nobody who was answered notices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.settings import Settings
from cli.live import follow
from cli.server import Server
from tests.backup.installation import environment_of, kill_everything, query, records, servers_only, settings_of
from tests.e2e.conftest import Up, free_port
from tests.e2e.test_main_job import train, until

pytestmark = [pytest.mark.timeout(400)]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path / "state", free_port(), 1, {"RAVAND_WORKER__LEASE_SECONDS": "3"})
    running.start()
    yield running
    if running.process is not None and running.process.poll() is None:
        assert running.stop() == 0


def batches(segment: Path) -> list[int]:
    """Where the batches of a segment file begin, and its end."""
    data, place, found = segment.read_bytes(), 0, [0]
    while place + 12 <= len(data) and (size := int.from_bytes(data[place + 8 : place + 12], "big")):
        place += 12 + size
        found.append(place)
    return found


def lose_the_end(up: Up, lost_batches: int, torn_bytes: int) -> int:
    """What was not on the disk is gone: whole batches, and of one more only a part is there; how many were lost.

    And the machine has been started anew since. Only the log: PostgreSQL had flushed what it had committed.
    """
    lost = 0
    for folder in sorted((up.state / "kafka" / "data").glob("ravand.events-*")):
        segment = folder / f"{0:020}.log"
        if (begins := batches(segment))[-1] == 0:
            continue
        keep = max(0, len(begins) - 1 - lost_batches)
        lost += len(begins) - 1 - keep
        with segment.open("r+b") as file:
            file.truncate(min(begins[keep] + torn_bytes, begins[-1]))
        for other in (*folder.glob("*.snapshot"), *folder.glob("*.index"), *folder.glob("*.timeindex")):
            other.unlink()
    (up.state / "kafka" / "boot").write_text("an earlier one")
    return lost


async def test_answers_and_shown_versions_hold_and_the_job_goes_on(up: Up) -> None:
    server = up.user()
    job_id = train(server, epochs=150, checkpoint_every=20)["job_id"]
    seen: list[dict[str, Any]] = []
    until(follow(server, job_id), lambda m: m.get("epoch", 0) > 60, seen)
    answered = train(server, epochs=2)
    kill_everything(up)
    assert lose_the_end(up, lost_batches=7, torn_bytes=40) > 0
    up.start()  # The API, the worker and the projector with it.

    assert "were completed from the journal" in said(up)
    settings = settings_of(environment_of(up))
    await check_log(settings)
    shown = f"SELECT version, type FROM log.journal WHERE subject = $1 AND version <= {seen[-1]['version']} ORDER BY 1"
    assert [(m["version"], f"ravand.{m['event']}") for m in seen] == await query(settings, shown, job_id)
    again = Server(up.url, server.token)
    up.servers.append(again)
    assert again.get("/api/train/status", job_id=answered["job_id"])["job_id"] == answered["job_id"]
    goes_on = follow(again, job_id, since=seen[-1]["version"])
    first = next(message for message in goes_on if message["type"] == "job_update")
    assert first["previous"] <= seen[-1]["version"] < first["version"]
    until(itertools.chain([first], goes_on), lambda m: m["status"] == "completed")
    epochs = again.get(f"/api/train/{job_id}/history")
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, 151))
    joined: Any = environment_of(up)
    verified = up.ravand("audit", "verify", "--processes", "1", **joined)
    assert "Nothing is broken" in verified.stdout

    # All of it, behind and before what was judged; and `kill -9` alone, after which there is nothing to look for.
    kill_everything(up)
    assert lose_the_end(up, lost_batches=10_000, torn_bytes=0) > 100
    with servers_only(up.state, killed=True) as output:
        assert "were completed from the journal" in output.read_text()
        await check_log(settings_of(environment_of(up)))
    with servers_only(up.state) as output:
        assert "compared with the journal" not in output.read_text()


def said(up: Up) -> str:
    """What `ravand up` has said."""
    return (up.state.parent / f"{up.state.name}.log").read_text()


async def check_log(settings: Settings) -> None:
    """The log holds what was judged, where it was."""
    # The journal first: the job goes on meanwhile, and the log is ahead of it.
    judged = await query(settings, 'SELECT partition, "offset", key, value FROM log.journal')
    in_log = {record[:2]: record[3:5] for record in await records(settings)}
    for partition, offset, *record in judged:
        assert in_log[partition, offset] == tuple(record)
