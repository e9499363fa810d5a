"""A whole installation for measuring: `ravand up` in a folder of its own, with a logged-in user."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import httpx2

from adapters.settings import Settings
from cli.server import Server

READY_SECONDS = 300.0


class Installation:
    """`with Installation() as it:` starts everything and stops it again."""

    def __init__(
        self, *, workers: int = 1, state: Path | None = None, environment: dict[str, str] | None = None
    ) -> None:
        self.workers = workers
        self.state = state or Path(tempfile.mkdtemp(prefix="ravand-bench-"))
        self._own_folder = state is None
        self._environment = environment or {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.ready_after = 0.0
        self.up: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until the API is ready; `ready_after` tells how long it took, in seconds."""
        began = time.monotonic()
        options = ["--state", str(self.state), "--port", str(self.port), "--workers", str(self.workers)]
        with (self.state / "up.log").open("ab") as output:
            self.up = subprocess.Popen(
                [sys.executable, "-m", "cli", "up", *options],
                stdout=subprocess.DEVNULL,
                stderr=output,
                env={**os.environ, **self._environment},
            )
        client = httpx2.Client()
        while True:
            if self.up.poll() is not None or time.monotonic() - began > READY_SECONDS:
                raise RuntimeError(f"not ready: see {self.state / 'up.log'}")
            try:
                if client.get(f"http://127.0.0.1:{self.port}/api/health/ready", timeout=1.0).is_success:
                    break
            except httpx2.TransportError:
                pass
            time.sleep(0.02)
        self.ready_after = time.monotonic() - began

    def stop(self) -> None:
        """Stop it as an operator would."""
        assert self.up is not None
        self.up.send_signal(signal.SIGTERM)
        self.up.wait(60)

    def __enter__(self) -> Installation:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._own_folder:
            shutil.rmtree(self.state, ignore_errors=True)

    def user(self) -> Server:
        """A new user, logged in."""
        server = Server(f"http://127.0.0.1:{self.port}", None)
        body = {
            "email": f"bench-{secrets.token_hex(4)}@example.org",
            "password": secrets.token_urlsafe(16),
            "name": "Bench",
        }
        return Server(server.url, server.post("/api/auth/register", body)["token"])

    def processes(self) -> list[dict[str, Any]]:
        """What `ravand ps` shows."""
        shown = subprocess.run(
            [sys.executable, "-m", "cli", "ps", "--state", str(self.state), "--json"], capture_output=True, check=True
        )
        return cast(list[dict[str, Any]], json.loads(shown.stdout))

    def settings(self) -> Settings:
        """The settings with which another program joins, as `ravand env` prints them."""
        shown = subprocess.run(
            [sys.executable, "-m", "cli", "env", "--state", str(self.state), "--json"], capture_output=True, check=True
        )
        values = json.loads(shown.stdout)
        kept = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            return Settings()
        finally:
            for name, value in kept.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
