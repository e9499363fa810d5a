"""A command that does one thing and ends, and never outlives us or the task that waits for it."""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.processes import dies_with_parent, end_session


@dataclass(frozen=True)
class Outcome:
    """How it ended, and the last of what it said."""

    status: int
    said: str


async def run_to_end(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    *,
    before_exec: Callable[[], None] | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Runs it in that folder with exactly that environment; killed, with whatever it started, when this task is cancelled."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        cwd=folder,
        env=dict(environment),
        start_new_session=True,
        preexec_fn=dies_with_parent(signal.SIGKILL, before_exec),
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        async for line in process.stdout:
            text = line.decode(errors="replace").rstrip()
            on_line(text)
            said = [*said[-19:], text]
        return Outcome(await process.wait(), "\n".join(said).strip())
    finally:
        if process.returncode is None:
            await end_session(process.pid)
            await process.communicate()  # Whoever held the other end of its output is gone, so that it can be closed.
