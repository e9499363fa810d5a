"""The machine goes off under one broker: the log loses what was not yet on the disk, and nobody who was answered notices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.live import follow
from cli.server import Server
from tests.backup.installation import environment_of, kill_everything, query, records, settings_of
from tests.e2e.conftest import Up, free_port
from tests.e2e.test_main_job import train, until

pytestmark = [pytest.mark.xdist_group("e2e"), pytest.mark.timeout(300)]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path / "state", free_port(), 1, {"RAVAND_WORKER__LEASE_SECONDS": "3"})
    running.start()
    yield running
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


@pytest.mark.parametrize(("lost_batches", "torn_bytes"), [(7, 40), (10_000, 0)], ids=["torn", "all"])
async def test_answers_and_shown_versions_hold_and_the_job_goes_on(up: Up, lost_batches: int, torn_bytes: int) -> None:
    server = up.user()
    job_id = train(server, epochs=150, checkpoint_every=20)["job_id"]
    seen: list[dict[str, Any]] = []
    for message in follow(server, job_id):
        if message["type"] == "job_update":
            seen.append(message)
            if message.get("epoch", 0) > 60:
                break
    answered = train(server, epochs=2)
    settings = settings_of(environment_of(up))
    kill_everything(up)
    assert lose_the_end(up, lost_batches, torn_bytes) > 0
    up.start()

    assert "were completed from the journal" in (up.state.parent / "state.log").read_text()
    settings = settings_of(environment_of(up))
    in_log = {record[:2]: record[3:5] for record in await records(settings)}
    for partition, offset, *record in await query(settings, 'SELECT partition, "offset", key, value FROM log.journal'):
        assert in_log[partition, offset] == tuple(record)
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


async def test_what_was_killed_and_not_switched_off_starts_as_always(up: Up) -> None:
    train(up.user(), epochs=2)
    kill_everything(up)
    up.start()
    said = (up.state.parent / "state.log").read_text()
    assert "compared with the journal" not in said
