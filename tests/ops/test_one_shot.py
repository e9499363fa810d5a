"""What is run to its end leaves nothing behind, however it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ops.one_shot import run_to_end
from ops.processes import Identity

LEAVES_A_CHILD = "sleep 300 & echo $!; wait"


async def test_a_command_that_is_cancelled_takes_along_what_it_started(tmp_path: Path) -> None:
    child: asyncio.Future[Identity | None] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(
        run_to_end(
            ["sh", "-c", LEAVES_A_CHILD],
            tmp_path,
            {"PATH": "/usr/bin:/bin"},
            on_line=lambda line: child.set_result(Identity.of(int(line))),
        )
    )
    started = await child
    assert started is not None
    assert started.lives
    running.cancel()
    await asyncio.wait({running})
    assert not started.lives
