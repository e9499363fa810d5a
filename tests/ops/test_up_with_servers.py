"""`ravand up` with its own Kafka and PostgreSQL: two folders at once, and a start after everything was killed."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import asyncpg
import psutil

from ops.state_folder import StateFolder
from tests.ops.conftest import Up, alive, ravand, until, until_gone

Start = Callable[..., Up]


def settings(state: StateFolder) -> dict[str, str]:
    """Those of the one that runs."""
    return dict(json.loads(ravand("env", "--state", str(state.root), "--json").stdout))


async def execute(state: StateFolder, statement: str) -> object:
    """Runs it in the services' database."""
    connection = await asyncpg.connect(settings(state)["RAVAND_DATABASE__URL"])
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_two_folders_run_at_once_and_each_keeps_its_own_through_a_kill(start_up: Start, tmp_path: Path) -> None:
    one = start_up(tmp_path / "one", "--only-servers")
    two = start_up(tmp_path / "two", "--only-servers")
    one.until_ready(), two.until_ready()
    assert {row.service for row in one.rows()} == {"kafka", "postgres"}
    before = settings(one.state)
    others = settings(two.state)
    assert before["RAVAND_KAFKA__SASL_PASSWORD"] != others["RAVAND_KAFKA__SASL_PASSWORD"]
    await execute(one.state, "CREATE TABLE kept AS SELECT 42 AS number")

    family = one.family()
    one.end(signal.SIGKILL)
    for process in family:
        if process.is_running():
            process.kill()
    until_gone(family)
    again = start_up(tmp_path / "one", "--only-servers").until_ready()
    assert settings(again.state) == before | {"RAVAND_API__PORT": str(again.port)}
    assert await execute(again.state, "SELECT number FROM kept") == 42

    family = two.family()
    assert two.end() == 0
    assert not [process for process in family if process.is_running()]


def test_everything_starts_and_a_server_that_dies_is_started_again(start_up: Start, folder: Path) -> None:
    up = start_up(folder).until_ready()
    shown = json.loads(ravand("ps", "--state", str(folder), "--json").stdout)
    assert [row["service"] for row in shown][:3] == ["kafka", "postgres", "api"]
    assert {row["state"] for row in shown} == {"running"}
    assert up.says("init         initialised")
    (before,) = up.rows("postgres")
    psutil.Process(before.pid).kill()
    until("another one answers", lambda: [r for r in up.rows("postgres") if r.state == "running" and r != before])
    family = up.family()
    up.end(signal.SIGKILL)
    until_gone(family)


def test_jars_that_cannot_be_fetched_end_it_with_what_to_do_and_nothing_left(folder: Path, tmp_path: Path) -> None:
    cut_off = {"RAVAND_CACHE_DIR": str(tmp_path / "cache"), "RAVAND_MAVEN_URL": "http://127.0.0.1:1"}
    refused = ravand("up", "--state", str(folder), "--only-servers", environment=cut_off)
    assert refused.returncode == 1
    assert "could not be fetched" in refused.stderr
    assert str(tmp_path / "cache") in refused.stderr
    assert len(refused.stderr.splitlines()) == 2


def test_a_signal_during_the_first_fetch_ends_it_at_once(start_up: Start, folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # It accepts, and never answers.
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        slow = {"RAVAND_CACHE_DIR": str(tmp_path / "cache"), "RAVAND_MAVEN_URL": url}
        up = start_up(folder, "--only-servers", environment=slow)
        until("it fetches", lambda: up.says("fetching"))
        family = up.family()
        assert up.end() == 0
        assert not alive(family)
