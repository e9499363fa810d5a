"""`ravand up` as a process, with services that stand in for the real ones."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from ops import registry
from ops.ports import free_port
from ops.processes import Identity
from ops.registry import Row
from ops.state_folder import StateFolder

ROOT = Path(__file__).parent.parent.parent
FAKES = Path(__file__).parent / "fake_services"
# Servers that are said to be elsewhere: then `up` starts none, and the stand-ins ask for none.
ELSEWHERE = {
    "RAVAND_KAFKA__BOOTSTRAP_SERVERS": "kafka.example:9092",
    "RAVAND_DATABASE__URL": "postgresql://ravand@postgres.example/ravand",
}
_COMMANDS = """
import pathlib, sys, typer
from ops import commands, installation
installation.SOURCE = pathlib.Path(sys.argv.pop(1))
app = typer.Typer(pretty_exceptions_enable=False)
for command in (commands.up, commands.ps, commands.env):
    app.command()(command)
app()
"""
COMMAND = (sys.executable, "-c", _COMMANDS, str(FAKES))
T = TypeVar("T")


def until(what: str, look: Callable[[], T], seconds: float = 60.0) -> T:
    """What `look` finds, once it finds something; fails after the deadline."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (found := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds:.0f} s still not so: {what}")
        pause.wait(0.02)
    return found


def ravand(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """One command, run to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=_environment(environment or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAVAND_KAFKA")}
    return plain | {"PYTHONPATH": str(ROOT)} | dict(extra)


class Up:
    """A `ravand up` on one folder."""

    def __init__(self, folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        self.state = StateFolder(folder)
        self.port = free_port()
        self.output = folder.with_name(f"{folder.name}.{self.port}.output")
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                [*COMMAND, "up", "--state", str(folder), "--port", str(self.port), *options],
                env=_environment(environment or {}),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def rows(self, service: str | None = None) -> list[Row]:
        """What runs, as `ravand ps` sees it."""
        return [row for row in registry.read(self.state) if service in {None, row.service}]

    def until_ready(self) -> Up:
        """Waits for the line that says so."""
        until("ready", lambda: self.says("ready after") or self.process.poll() is not None)
        assert self.process.poll() is None, self.output.read_text()
        return self

    def says(self, text: str) -> bool:
        """Whether it said that."""
        return text in self.output.read_text()

    def family(self) -> list[psutil.Process]:
        """All processes below it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signals it, waits for its end; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def start_up() -> Iterator[Callable[..., Up]]:
    """Starts them; those that still run after the test are ended, and nothing may be left of any."""
    running: list[Up] = []

    def start(folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> Up:
        running.append(Up(folder, *options, environment=environment))
        return running[-1]

    yield start
    for up in running:
        if up.process.poll() is None:
            family = up.family()
            up.end()
            until_gone(family)


def alive(processes: list[psutil.Process]) -> list[Identity]:
    """Those that still run. One that only waits for init to reap it has ended."""
    found = [Identity.of(process.pid) for process in processes if process.is_running()]
    return [identity for identity in found if identity is not None]


def until_gone(processes: list[psutil.Process]) -> None:
    """Waits until all have ended."""
    until("all have ended", lambda: not alive(processes), 20.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a state folder may be made."""
    return tmp_path / "state"


async def until_async(what: str, look: Callable[[], object], seconds: float = 60.0) -> None:
    """The same for what happens in this loop."""
    async with asyncio.timeout(seconds):
        while not look():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
