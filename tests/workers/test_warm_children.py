"""A fork server that cannot start is started again and again, and who waits for a child waits."""

from __future__ import annotations

import asyncio

import pytest

from workers.warm_child import WarmChildren


async def test_a_fork_server_that_dies_as_it_starts_is_said_and_another_one_is_started(
    caplog: pytest.LogCaptureFixture,
) -> None:
    children = WarmChildren({"PYTHONHOME": "/nowhere"})  # Python itself ends at once.
    await children.start()
    taking = asyncio.create_task(children.take())
    said = "The fork server has ended, and is started again: ForkServerLost()"
    async with asyncio.timeout(30):
        while caplog.text.count(said) < 2:  # noqa: ASYNC110 — There is nothing to be told by.
            await asyncio.sleep(0.01)
    assert not taking.done()
    taking.cancel()
    await children.close()
