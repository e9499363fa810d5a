"""The drill: a backup of an installation at work, restored on an empty machine, where the work goes on."""

from __future__ import annotations

import csv
import io
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any

import psutil
import pytest

from adapters.settings import Settings
from cli.live import follow
from cli.server import Server
from tests.backup.installation import environment_of, files, query, records, servers_only, settings_of
from tests.e2e.conftest import PENGUINS, Up, free_port
from tests.e2e.test_main_job import train, until

pytestmark = [pytest.mark.timeout(400), pytest.mark.drill]


@pytest.fixture
def ups(tmp_path: Path) -> Iterator[tuple[Up, Up]]:
    """Two state folders on two ports; what runs at the end is stopped."""
    # The old one's worker is held still for a while, and is not to be lost for that.
    leases = ({"RAVAND_WORKER__LEASE_SECONDS": seconds} for seconds in ("300", "3"))
    one, other = (Up(tmp_path / name, free_port(), 1, next(leases)) for name in ("old", "new"))
    both = one, other
    try:
        yield both
    finally:
        for up in both:
            if up.process is not None and up.process.poll() is None:
                up.stop()


class Load:
    """Somebody who goes on uploading and asking while the backup is taken."""

    def __init__(self, server: Server) -> None:
        self._server, self._end, self.sent, self.changed = server, Event(), 0, Condition()
        self._thread = Thread(target=self._work)

    def _work(self) -> None:
        while not self._end.is_set():
            train(self._server, epochs=1)
            with self.changed:
                self.sent += 1
                self.changed.notify_all()

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(60)


async def test_a_backup_under_load_is_restored_and_the_work_goes_on(ups: tuple[Up, Up], tmp_path: Path) -> None:
    old, new = ups
    old.start()
    ada = {"email": "ada@example.org", "password": secrets.token_urlsafe(16)}
    server = _server(old, "/api/auth/register", {**ada, "name": "Ada"})
    until(follow(server, train(server, epochs=2)["job_id"]), lambda m: m["status"] == "completed")
    stopped = train(server, epochs=100_000)["job_id"]
    until(follow(server, stopped), lambda m: m.get("epoch", 0) >= 2)
    server.post("/api/train/stop", {"job_id": stopped})
    until(follow(server, stopped), lambda m: m["status"] == "stopped")
    [pid] = [row["pid"] for row in old.ps() if row["service"] == "worker"]
    worker = psutil.Process(pid)
    running = train(server, epochs=200, checkpoint_every=10)["job_id"]
    seen = until(follow(server, running), lambda m: m["event"] == "CheckpointSaved")
    worker.suspend()
    environment: Any = environment_of(old)
    old.ravand("audit", "anchor", str(tmp_path / "anchor"), **environment)
    with Load(old.user()) as load:
        until_sent(load, load.sent + 1)
        taken = json.loads(old.ravand("admin", "backup", str(tmp_path / "backup"), "--json", **environment).stdout)
        until_sent(load, load.sent + 1)
    kept = await held(settings_of(environment), taken)
    assert sum(end for _, end in await query(settings_of(environment), CURSORS)) > len(kept["log"]), "writes went on"
    worker.resume()
    assert old.stop() == 0

    with servers_only(new.state):
        joined: Any = environment_of(new)
        said = json.loads(new.ravand("admin", "restore", str(tmp_path / "backup"), "--json", **joined).stdout)
        assert await held(settings_of(joined), taken) == kept
        assert await query(settings_of(joined), "SELECT log_id FROM log.history") == [(said["restored_as"],)]
        assert said["restored_as"] != taken["log_id"]
        assert files(new.state / "objects") == files(tmp_path / "backup" / "objects")
        verified = new.ravand(
            "audit", "verify", "--anchor", str(tmp_path / "anchor"), "--processes", "1", **joined
        ).stdout
        assert "Nothing is broken" in verified
        assert "which this one was restored from" in verified
        refused = new.ravand("admin", "restore", str(tmp_path / "backup"), check=False, **joined)
        assert refused.returncode == 1
        assert "a backup is restored into an empty installation" in refused.stderr

    new.start()
    server = _server(new, "/api/auth/login", ada)
    listed = {job["job_id"]: job["status"] for job in server.get("/api/train/jobs", limit=100)}
    assert listed[stopped] == "stopped"
    # Its worker went with the old machine: it is lost, and the next one goes on from the newest checkpoint.
    heard: list[dict[str, Any]] = []
    until(follow(server, running, since=seen["version"]), lambda m: m["status"] == "completed", heard)
    [started] = [message for message in heard if message["event"] == "AttemptStarted" and message["attempt"] == 2]
    assert started["epoch"] >= 10
    assert [epoch["epoch"] for epoch in server.get(f"/api/train/{running}/history")] == list(range(1, 201))
    model, rows = tmp_path / "model.zip", tmp_path / "rows.csv"
    token: Any = {"RAVAND_TOKEN": server.token}
    new.ravand("model", "download", "penguins", "-o", str(model), **token)
    rows.write_text("".join(PENGUINS.read_text().splitlines(keepends=True)[:20]))
    assert len(list(csv.DictReader(io.StringIO(new.ravand("predict", str(model), str(rows)).stdout)))) == 19


CURSORS = "SELECT partition, next_offset FROM log.cursors"
JOURNAL = 'SELECT partition, "offset", at, workspace, version, refusal, key, value, hash FROM log.journal ORDER BY 1, 2'


async def held(settings: Settings, taken: dict[str, Any]) -> dict[str, Any]:
    """The log and the journal up to the cut, and the accounts: what must be the same in both."""
    ends = {cut["partition"]: cut["next_offset"] for cut in taken["partitions"]}
    return {
        "log": [record for record in await records(settings) if record[1] < ends.get(record[0], 0)],
        "journal": [row for row in await query(settings, JOURNAL) if row[1] < ends.get(row[0], 0)],
        "accounts": await query(settings, "SELECT * FROM accounts.users ORDER BY id"),
    }


def until_sent(load: Load, count: int) -> None:
    """Wait until so many more requests were answered."""
    with load.changed:
        assert load.changed.wait_for(lambda: load.sent >= count, 60)


def _server(up: Up, path: str, body: dict[str, str]) -> Server:
    nobody = Server(up.url, None)
    made = Server(up.url, nobody.post(path, body)["token"])
    up.servers += [nobody, made]
    return made
