"""Training children that say what a test tells them to, for tests of what a worker does about rows."""

from __future__ import annotations

import asyncio
import signal

from workers.child_messages import EpochDone, Go, Leave, Left, ModelWritten, ToChild, ToWorker, Train
from workers.child_process import Ended


class ScriptedChild:
    """No process: messages, and an end."""

    pid = 2**22 + 1
    """No process has it."""

    def __init__(self) -> None:
        self.heard: list[ToChild] = []
        self.going = asyncio.Event()
        self.leaving = asyncio.Event()
        self._messages: asyncio.Queue[ToWorker | None] = asyncio.Queue()
        self._ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

    async def send(self, message: ToChild) -> None:
        self.heard.append(message)
        if isinstance(message, Go):
            self.going.set()
        if isinstance(message, Leave):
            self.leaving.set()
            self.leaves()

    async def receive(self) -> ToWorker | None:
        return await self._messages.get()

    def kill(self) -> None:
        self._end(Ended(code=None, signal=signal.SIGKILL))

    async def wait(self) -> Ended:
        return await asyncio.shield(self._ended)

    async def close(self) -> None:
        return

    def says(self, message: ToWorker) -> None:
        """Say something to the worker."""
        self._messages.put_nowait(message)

    def finishes(self, epochs: int) -> None:
        """Train to the end."""
        for epoch in range(1, epochs + 1):
            self.says(EpochDone(epoch=epoch, metrics={"loss": 1.0}, seconds=0.1))
        self.says(ModelWritten(last_epoch=epochs, files=(), metrics={}))
        self._end(Ended(code=0, signal=None))

    def leaves(self) -> None:
        """As it was told, at once."""
        self.says(Left())
        self._end(Ended(code=0, signal=None))

    @property
    def was_killed(self) -> bool:
        return self._ended.done() and self._ended.result().signal is signal.SIGKILL

    @property
    def job_id(self) -> str:
        """What it was told to train."""
        return next(message.job_id for message in self.heard if isinstance(message, Train))

    def _end(self, how: Ended) -> None:
        if not self._ended.done():
            self._ended.set_result(how)
            self._messages.put_nowait(None)


class ScriptedChildren:
    """Always has one."""

    def __init__(self) -> None:
        self.taken: list[ScriptedChild] = []
        self._changed = asyncio.Event()

    async def start(self) -> None:
        return

    async def until_waiting(self) -> None:
        return

    async def close(self) -> None:
        for child in self.taken:
            child.kill()

    async def take(self) -> ScriptedChild:
        self.taken.append(ScriptedChild())
        self._changed.set()
        return self.taken[-1]

    async def until_taken(self, number: int) -> ScriptedChild:
        """The first child, the second, …, once it was taken and told what to do."""
        async with asyncio.timeout(60):
            while len(self.taken) < number:
                self._changed.clear()
                await self._changed.wait()
            while not self.taken[number - 1].heard:  # noqa: ASYNC110 — It is told in the same moment.
                await asyncio.sleep(0)
        return self.taken[number - 1]
