"""`ravand up` with servers elsewhere: how it keeps services, how it ends, what it refuses."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ops.state_folder import StateFolder
from tests.ops.conftest import ELSEWHERE, Up, alive, ravand, until, until_gone

Start = Callable[..., Up]


@pytest.fixture
def up(start_up: Start, folder: Path) -> Up:
    """One that is ready, with two workers that train."""
    up = start_up(folder, "--workers", "2", environment=ELSEWHERE).until_ready()
    until("both train", lambda: len(up.rows("trainer")) == 2)
    return up


class TestRunning:
    def test_ps_shows_one_row_for_each_process_with_the_training_children(self, up: Up) -> None:
        shown = ravand("ps", "--state", str(up.state.root), "--json")
        rows = json.loads(shown.stdout)
        assert shown.returncode == 0
        assert [(row["service"], row["index"]) for row in rows] == [
            *(("api", 0), ("worker", 0), ("trainer", 0), ("worker", 1), ("trainer", 1)),
            *(("supervisor", 0), ("projector", 0), ("telemetry", 0)),
        ]
        assert {row["state"] for row in rows} == {"running"}
        assert rows[0]["address"] == f"127.0.0.1:{up.port}"
        assert rows[2]["job_id"] == "job-1"
        assert all(psutil.pid_exists(row["pid"]) for row in rows)

    def test_ps_shows_people_a_table(self, up: Up) -> None:
        shown = ravand("ps", "--state", str(up.state.root)).stdout
        assert f"127.0.0.1:{up.port}" in shown
        assert "worker 1" in shown

    def test_env_prints_the_settings_that_the_services_have(self, up: Up) -> None:
        state = ("--state", str(up.state.root))
        lines = dict(line.split("=", 1) for line in ravand("env", *state).stdout.splitlines())
        settings = json.loads(ravand("env", *state, "--json").stdout)
        worker = psutil.Process(up.rows("worker")[0].pid).environ()
        assert settings.items() >= ELSEWHERE.items()
        assert settings["RAVAND_STORE__URL"] == up.state.objects.as_uri()
        assert len(settings["RAVAND_AUTH__SECRET"]) >= 32
        assert worker.items() >= settings.items()
        assert lines.keys() == settings.keys()

    def test_lines_from_info_on_are_shown_and_all_are_kept(self, up: Up) -> None:
        until("the worker spoke", lambda: up.says("worker 1     worker works"))
        assert not up.says("whispers")
        assert "whispers" in (up.state.logs / "worker-1.log").read_text()

    def test_the_folder_and_its_secrets_are_private(self, up: Up) -> None:
        assert up.state.root.stat().st_mode & 0o777 == 0o700
        for file in (up.state.root / "secrets.json", up.state.environment_file):
            assert file.stat().st_mode & 0o777 == 0o600


class TestDeath:
    def test_a_service_that_dies_is_started_again(self, up: Up) -> None:
        before = up.rows("projector")[0]
        psutil.Process(before.pid).kill()
        until("another one runs", lambda: [r for r in up.rows("projector") if r.pid not in {None, before.pid}])
        assert up.says("projector    ended with status SIGKILL; it is started again in")

    def test_one_that_never_works_stops_nothing_else(self, start_up: Start, folder: Path) -> None:
        up = start_up(folder, environment=ELSEWHERE).until_ready()
        (folder / "telemetry-fails").touch()
        psutil.Process(up.rows("telemetry")[0].pid).kill()
        until("it was tried twice", lambda: up.output.read_text().count("telemetry    telemetry cannot work") >= 2)
        assert {row.state for row in up.rows() if row.service != "telemetry"} == {"running"}

    def test_kill_9_of_up_leaves_nothing(self, up: Up) -> None:
        family = up.family()
        assert len(family) >= 8
        up.end(signal.SIGKILL)
        until_gone(family)
        assert ravand("ps", "--state", str(up.state.root), "--json").stdout.strip() == "[]"

    def test_after_a_kill_the_next_one_runs_on_the_same_folder(self, up: Up, start_up: Start) -> None:
        up.end(signal.SIGKILL)
        start_up(up.state.root, environment=ELSEWHERE).until_ready()


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_a_signal_stops_everything_in_order(self, start_up: Start, folder: Path, number: signal.Signals) -> None:
        up = start_up(folder, environment=ELSEWHERE).until_ready()
        until(
            "all spoke", lambda: all(up.says(f"{row.service} works") for row in up.rows() if row.service != "trainer")
        )
        family = up.family()
        assert up.end(number) == 0
        assert not alive(family)
        order = (folder / "run" / "ended").read_text().split()
        assert order == ["api", "worker", "supervisor", "projector", "telemetry"]

    def test_a_second_signal_hurries(self, start_up: Start, folder: Path) -> None:
        up = start_up(folder, environment=ELSEWHERE).until_ready()
        until("the worker works", lambda: up.says("worker works"))
        (folder / "worker-hangs").touch()
        family = up.family()
        up.process.send_signal(signal.SIGTERM)
        until("it waits for the worker", lambda: [row for row in up.rows("worker") if row.state == "stopping"])
        assert up.end() == 0
        assert not alive(family)

    def test_nothing_runs_afterwards(self, up: Up) -> None:
        up.end()
        shown = ravand("ps", "--state", str(up.state.root))
        assert shown.returncode == 1
        assert "Nothing runs" in shown.stdout
        refused = ravand("env", "--state", str(up.state.root))
        assert refused.returncode == 1
        assert "Nothing runs" in refused.stderr


class TestRefusals:
    def test_a_second_one_on_the_same_folder_is_told_which_process_has_it(self, up: Up) -> None:
        refused = ravand("up", "--state", str(up.state.root), environment=ELSEWHERE)
        assert refused.returncode == 1
        assert f"process {up.process.pid}" in refused.stderr
        assert len(refused.stderr.splitlines()) == 2

    def test_a_port_that_is_taken_is_named(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            refused = ravand("up", "--state", str(folder), "--port", port, environment=ELSEWHERE)
            assert refused.returncode == 1
            assert f"Port {port}, wanted for the API, is taken" in refused.stderr
            assert "--port" in refused.stderr
            servers = ravand("up", "--state", str(folder), "--kafka-port", port, "--only-servers")
            assert f"Port {port}, wanted for kafka, is taken" in servers.stderr

    def test_two_brokers_and_another_number_than_the_log_has_are_refused(self, folder: Path) -> None:
        refused = ravand("up", "--state", str(folder), "--only-servers", "--brokers", "2")
        assert refused.returncode == 1
        assert "--brokers 2 is not possible" in refused.stderr
        state = StateFolder.open(folder)
        assert state.brokers(3) == 3
        for index in range(3):
            (state.broker(index) / "data").mkdir(parents=True)
        refused = ravand("up", "--state", str(folder), "--only-servers", "--brokers", "1")
        assert refused.returncode == 1
        assert "kept by 3 brokers; --brokers 1 cannot change that" in refused.stderr
        assert len(refused.stderr.splitlines()) == 2
        assert state.brokers(None) == state.brokers(3) == 3

    def test_options_about_our_own_brokers_are_refused_where_kafka_is_elsewhere(self, folder: Path) -> None:
        refused = ravand("up", "--state", str(folder), "--brokers", "3", environment=ELSEWHERE)
        assert refused.returncode == 1
        assert "names a Kafka that runs elsewhere" in refused.stderr
        refused = ravand("up", "--state", str(folder), "--only-servers", "--kafka-advertised", "one:1,two:2")
        assert refused.returncode == 1
        assert "names 2 addresses, and there are 1 brokers" in refused.stderr

    def test_a_folder_of_a_newer_version_is_left_alone(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "version").write_text("2\n")
        refused = ravand("up", "--state", str(folder), environment=ELSEWHERE)
        assert refused.returncode == 1
        assert "newer version" in refused.stderr
        assert [path.name for path in folder.iterdir()] == ["version"]

    def test_a_folder_of_somebody_else_is_left_alone(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "thesis.tex").touch()
        refused = ravand("up", "--state", str(folder), environment=ELSEWHERE)
        assert refused.returncode == 1
        assert "thesis.tex" in refused.stderr
        assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
