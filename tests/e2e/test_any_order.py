"""Everything killed at once and started again in any order, by hand and by nobody's plan: it finds together by itself."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from cli import datasets
from cli.live import follow
from cli.server import Server
from ops import registry
from ops.state_folder import StateFolder
from tests.e2e.conftest import PENGUINS, READY_SECONDS, Up, free_port

pytestmark = [pytest.mark.drill, pytest.mark.timeout(300)]
SERVICES = ("api", "worker", "supervisor", "projector", "telemetry")


class ByHand(Up):
    """Servers and services as processes that nobody keeps."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "state", free_port())
        self.settings: dict[str, str] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def launch(self, name: str) -> None:
        """Start the servers or one of the services, and wait for nothing."""
        servers = name == "servers"
        command = ["up", "--state", str(self.state), "--only-servers"] if servers else [name]
        with (self.state.parent / f"{name}.log").open("ab") as output:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "cli", *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                # Servers that the environment names would be elsewhere, and none be started.
                env=dict(os.environ) if servers else {**os.environ, **self.settings},
            )

    def until(self, what: str, url: str = "") -> None:
        """Until the servers run, or that address answers."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            for name, process in self.running.items():
                assert process.poll() is None, (self.state.parent / f"{name}.log").read_text()[-3000:]
            if url:
                try:
                    if httpx2.get(url, timeout=2.0).is_success:
                        return
                except httpx2.TransportError:
                    pass
            elif len(rows := registry.read(StateFolder(self.state))) == 2 and {r.state for r in rows} == {"running"}:
                return
            time.sleep(0.05)
        pytest.fail(f"not so in time: {what}")

    def first_start(self) -> None:
        """Servers, settings, topics and tables."""
        self.launch("servers")
        self.until("servers run")
        given = json.loads(self.ravand("env", "--state", str(self.state), "--json").stdout)
        self.settings = {**given, "RAVAND_API__PORT": str(self.port), "RAVAND_WORKER__LEASE_SECONDS": "3"}
        self.ravand("admin", "init", check=True, **self.settings)

    def kill_all(self) -> None:
        """At once, with all that they have started."""
        family = [psutil.Process(process.pid) for process in self.running.values() if process.poll() is None]
        family += [child for process in family for child in process.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # It ended with its parent.
                process.send_signal(signal.SIGKILL)
        for started in self.running.values():
            started.wait()
        psutil.wait_procs(family, 20)
        self.running.clear()


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByHand]:
    made = ByHand(tmp_path_factory.mktemp("any-order"))
    try:
        made.first_start()
        yield made
    finally:
        made.kill_all()


@pytest.mark.parametrize("first", ["servers", *SERVICES])
def test_whatever_starts_first_a_job_is_trained(by_hand: ByHand, first: str) -> None:
    rest = [name for name in ("servers", *SERVICES) if name != first]
    random.Random(first).shuffle(rest)
    by_hand.kill_all()
    for name in (first, *rest):
        by_hand.launch(name)
    by_hand.until("ready", f"{by_hand.url}/api/health/ready")
    user = by_hand.user()
    dataset = datasets.send(user, PENGUINS)
    body = {"recipe": "tabular", "dataset_id": dataset["id"], "parameters": {"target": "species", "epochs": 2}}
    job = user.post("/api/train", body)["job_id"]
    assert isinstance(user, Server)
    assert [message["status"] for message in follow(user, job) if message["type"] == "job_update"][-1] == "completed"
    while by_hand.servers:
        by_hand.servers.pop().close()
