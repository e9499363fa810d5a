"""What the tests of rebuilding share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from projections.rebuild import run as rebuilding
from projections.rebuild.run import Done, Wanted
from tests.projections.platform import ROOT, Log

WORKSPACES = [f"team-{number}" for number in range(6)]


@pytest.fixture(autouse=True)
def _nobody_waits_for_a_projector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none runs, the records of a rebuild are judged later."""
    monkeypatch.setattr(rebuilding, "NOTED_SECONDS", 0.0)


async def rebuilt(log: Log, **wanted: Any) -> Done:
    """A rebuild in this process, up to its end."""
    return await rebuilding.rebuild(log.settings, Wanted(**{"processes": 2, **wanted}))


async def rolled_back(log: Log, **wanted: Any) -> Done:
    """A rollback in this process."""
    return await rebuilding.roll_back(log.settings, Wanted(**wanted))


@contextlib.asynccontextmanager
async def command(log: Log, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`ravand admin rebuild-projections` in a process of its own, killed at the end if it still lives."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "cli", "admin", "rebuild-projections", *options),
        cwd=ROOT,
        env=log.environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def commanded(log: Log, *options: str) -> tuple[int, Any, str]:
    """The same, up to its end: status, the last JSON line, and what it says on standard error."""
    async with command(log, "--json", *options) as process:
        out, err = await process.communicate()
    assert process.returncode is not None
    lines = out.decode().splitlines()
    return process.returncode, json.loads(lines[-1]) if lines else None, err.decode()
