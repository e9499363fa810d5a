"""Stands in for the services, so that `ravand up` is tested by itself: it lives, listens, logs, ends on SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

STATE = Path(os.environ["RAVAND_STATE"])


class Api(BaseHTTPRequestHandler):
    """Ready on the path that `ravand up` asks, and nowhere else."""

    def do_GET(self) -> None:
        """One answer."""
        self.send_response(200 if self.path == "/api/health/ready" else 404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


def say(event: str, level: str = "info") -> None:
    """A structured line, as the real services write them."""
    print(json.dumps({"event": event, "level": level}), file=sys.stderr, flush=True)


def train() -> None:
    """A child with a note, as a worker has one while it trains. It ends when its standard input closes."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE)
    note = STATE / "run" / f"trainer-{os.getpid()}.json"
    note.write_text(json.dumps({"pid": child.pid, "job_id": "job-1"}))


def main(service: str) -> None:
    """Runs until SIGTERM, and notes that it was asked in good order."""
    if service == "admin":
        print("initialised")
        return
    if service == "telemetry" and (STATE / "telemetry-fails").exists():
        sys.exit("telemetry cannot work")
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    if service == "api":
        server = HTTPServer(("127.0.0.1", int(os.environ["RAVAND_API__PORT"])), Api)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    if service == "worker":
        train()
    say(f"{service} works")
    say(f"{service} whispers", "debug")
    ended.wait()
    if service == "worker" and (STATE / "worker-hangs").exists():
        threading.Event().wait()
    with (STATE / "run" / "ended").open("a") as file:
        file.write(f"{service}\n")


if __name__ == "__main__":
    main(sys.argv[1])
