"""One `ravand up` for the whole-system tests: every process real, reached as users reach it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cli.server import Server
from ops import registry
from ops.ps import document
from ops.state_folder import StateFolder

READY_SECONDS = 120.0
PENGUINS = Path("examples/penguins.csv")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Up:
    """A running `ravand up`."""

    state: Path
    port: int
    workers: int = 2
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    servers: list[Server] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until the API says that it is ready."""
        command = ["up", "--state", str(self.state), "--port", str(self.port), "--workers", str(self.workers)]
        with (self.state.parent / f"{self.state.name}.log").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
            )
        self.until_ready()

    def until_ready(self) -> None:
        """Wait until the API says that it is ready."""
        assert self.process is not None
        until = time.monotonic() + READY_SECONDS
        while True:
            assert self.process.poll() is None, (self.state.parent / f"{self.state.name}.log").read_text()[-4000:]
            assert time.monotonic() < until, "not ready in time"
            try:
                if httpx2.get(f"{self.url}/api/health/ready", timeout=2.0).is_success:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.05)

    def stop(self) -> int:
        """End it as an operator would; answer its exit status."""
        assert self.process is not None
        while self.servers:
            self.servers.pop().close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def ravand(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command line as a user would."""
        done = subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env={**os.environ, "RAVAND_SERVER": self.url, **environment},
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done

    def ps(self) -> list[dict[str, Any]]:
        """What `ravand ps --json` shows, without a process of its own, which would take half a second."""
        return [document(row) for row in registry.read(StateFolder(self.state))]

    def user(self) -> Server:
        """A new user, logged in."""
        body = {"email": f"{secrets.token_hex(6)}@example.org", "password": secrets.token_urlsafe(16), "name": "Test"}
        nobody = Server(self.url, None)
        user = Server(self.url, nobody.post("/api/auth/register", body)["token"])
        self.servers += [nobody, user]
        return user


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Everything, with two workers and a short lease."""
    running = Up(
        tmp_path_factory.mktemp("up") / "state", free_port(), environment={"RAVAND_WORKER__LEASE_SECONDS": "3"}
    )
    running.start()
    try:
        yield running
    finally:
        assert running.stop() == 0
