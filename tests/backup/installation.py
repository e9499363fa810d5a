"""A `ravand up` of a test's own, its user, and what can be read of it from outside."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from adapters.settings import Settings
from schemas.topics import EVENTS
from tests.e2e.conftest import Up
from tests.ops.conftest import until
from tests.projections.platform import Log


def environment_of(up: Up) -> dict[str, str]:
    """What `ravand env` prints."""
    found: dict[str, str] = json.loads(up.ravand("env", "--state", str(up.state), "--json").stdout)
    return found


def settings_of(environment: dict[str, str]) -> Settings:
    """The settings with which a program joins."""
    kafka = {
        name.removeprefix("RAVAND_KAFKA__").lower(): value
        for name, value in environment.items()
        if name.startswith("RAVAND_KAFKA__")
    }
    return Settings(
        _env_file=None,
        kafka=kafka,
        database={"url": environment["RAVAND_DATABASE__URL"]},
        store={"url": environment["RAVAND_STORE__URL"]},
        state=environment["RAVAND_STATE"],
    )


async def records(settings: Settings) -> list[tuple[Any, ...]]:
    """The whole log: position, time, key, value, headers."""
    async with Log.of(settings) as log:
        return [(r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in await log.read(EVENTS)]


async def query(settings: Settings, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """Rows of the database."""
    connection = await asyncpg.connect(settings.database.url.get_secret_value())
    try:
        return [tuple(row) for row in await connection.fetch(statement, *arguments)]
    finally:
        await connection.close()


def files(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    }


def kill_everything(up: Up) -> None:
    """`kill -9` of `ravand up` and of all below it, as far as they are not gone with it."""
    assert up.process is not None
    while up.servers:
        up.servers.pop().close()
    _kill(up.process)


def _kill(process: subprocess.Popen[Any]) -> None:
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait(30)
    for child in family:
        if child.is_running():
            child.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=30)


@contextmanager
def servers_only(state: Path, *, killed: bool = False) -> Iterator[Path]:
    """`ravand up --only-servers`, ready, and until the end of the block; what it says is in the file."""
    output = state.with_name(f"{state.name}.servers.log")
    with output.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "up", "--state", str(state), "--only-servers"],
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        until("the servers are ready", lambda: process.poll() is not None or "only the servers" in output.read_text())
        assert process.poll() is None, output.read_text()
        yield output
    finally:
        if killed:
            _kill(process)
        else:
            process.terminate()
            assert process.wait(60) == 0
