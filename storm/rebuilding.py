"""Builds the read models anew during the storm, as an operator would: to the end, killed half-way, taken back."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys

from ops.processes import dies_with_parent
from storm.world import World

_SECONDS = 90.0


class Rebuilding:
    """Runs `ravand admin rebuild-projections`, one at a time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.is_possible = False
        """Whether this installation has the command."""
        self.done = 0
        """How often a rebuild took the place of the live one."""
        self.failures: list[str] = []
        """What a rebuild said that ended otherwise than it should: not because a server was away."""

    async def look(self) -> None:
        """See whether there is such a command."""
        status, _ = await self._command("--help")
        self.is_possible = status == 0

    async def run(self, how: str, rng: random.Random) -> bool:
        """One rebuild; whether it did what was asked for."""
        if how == "killed half-way":
            await self._command(kill_after=rng.uniform(0.3, 4.0))
        if how == "rolled back" and self.done:
            status, _ = await self._command("--rollback")
            return status == 0
        status, said = await self._command()
        self.done += status == 0
        if "Traceback" in said:
            self.failures.append(said[-2000:])
        return status == 0

    async def _command(self, *arguments: str, kill_after: float | None = None) -> tuple[int, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAVAND_")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", "admin", "rebuild-projections", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**inherited, **self._world.environment},
            preexec_fn=dies_with_parent(signal.SIGKILL),
        )
        saying = asyncio.create_task(process.communicate())
        try:
            done, _ = await asyncio.wait({saying}, timeout=kill_after or _SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
        said, _ = await saying
        return (await process.wait() if done else -int(signal.SIGKILL)), said.decode(errors="replace")
