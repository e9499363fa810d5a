"""Keeps one program running: starts it, waits until it answers, starts it again when it dies, stops it."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable
from pathlib import Path

from ops.errors import OperatorError
from ops.log_file import LogFile, pump
from ops.processes import Identity, dies_with_parent
from ops.program import Program

FIRST_PAUSE = 0.5
# Long enough that something broken takes a small part of the processor with its starts; people wait for what is mended.
LONGEST_PAUSE = 5.0
# A program that answered this long was well: its end says nothing about the next start, which is at once.
WELL_SECONDS = 10.0
_LAST_RESORT_SECONDS = 10.0


class State(enum.StrEnum):
    """What `ravand ps` shows."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"


class _NoAnswer(Exception):
    """It ended, or took too long, before it did its work."""


class Keeper:
    """One program and the process that it is at the moment."""

    def __init__(
        self,
        program: Program,
        logs: Path,
        *,
        say: Callable[[str], None] = lambda text: None,
        on_line: Callable[[str], None] = lambda line: None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.program = program
        self.state = State.STARTING
        self.identity: Identity | None = None
        suffix = f"-{program.index}" if program.index else ""
        self.log = LogFile(logs / f"{program.name}{suffix}.log")
        self._say, self._on_line, self._on_change = say, on_line, on_change
        self._process: Process | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._answered = asyncio.Event()
        self._wanted = True

    async def start(self) -> None:
        """The first start: returns when the program answers; an error if it ends instead, or takes too long."""
        await self.launch()
        try:
            await self._until_running()
        except _NoAnswer as error:
            self._enter(State.FAILED)
            said = "\n    ".join(self.log.tail())
            raise OperatorError(
                f"{self.program.name} {error}. It said last:\n    {said}", f"All that it said is in {self.log.path}."
            ) from None
        self.watch()

    async def launch(self) -> None:
        """Starts the process and does not wait for an answer."""
        self._enter(State.STARTING)
        self._answered.clear()
        await self.program.prepare()
        self._process = await asyncio.create_subprocess_exec(
            *self.program.command(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            cwd=self.program.folder,
            env=dict(self.program.environment()),
            # A session of its own: the terminal's Ctrl-C reaches us alone, and we stop the others in order.
            start_new_session=True,
            preexec_fn=dies_with_parent(self.program.death_signal, self.program.before_exec),
        )
        assert self._process.stdout is not None
        self._pumping = asyncio.create_task(pump(self._process.stdout, self.log, self._on_line))
        self.identity = Identity.of(self._process.pid)
        self._on_change()

    async def _until_running(self) -> None:
        assert self._process is not None
        patience = self.program.patience_seconds
        answers = asyncio.create_task(self.program.answers())
        ends = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({answers, ends}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not answers.done():
                if ends.done() and self._pumping is not None:
                    await asyncio.wait({self._pumping}, timeout=1)  # Its last words say why.
                raise _NoAnswer(
                    f"ended with status {self.status}" if ends.done() else f"did not answer in {patience} s"
                )
            await answers
        finally:
            for task in (answers, ends):
                task.cancel()
            await asyncio.gather(answers, ends, return_exceptions=True)
        self._answered.set()
        self._enter(State.RUNNING)

    async def running(self) -> None:
        """Waits until it answers, through restarts if need be; for one that is watched."""
        await self._answered.wait()

    def watch(self) -> None:
        """From now on, a process that ends is started again."""
        self._watching = asyncio.create_task(self._restart_for_ever())

    async def _restart_for_ever(self) -> None:
        failures, clock = 0, asyncio.get_running_loop().time
        while True:
            well_since = clock()
            assert self._process is not None
            try:
                if not self._answered.is_set():
                    await self._until_running()
                    well_since = clock()
                await self._process.wait()
                reason = f"ended with status {self.status}"
                failures = 0 if clock() - well_since >= WELL_SECONDS else failures + 1
            except _NoAnswer as error:
                reason = str(error)
                await self._end(hurry=True)
                failures += 1
            if not self._wanted:
                return
            failures = await self._start_again(reason, failures)

    async def _start_again(self, reason: str, failures: int) -> int:
        """Launch it, after a pause that grows with the failures since it was last well; how many these are now."""
        self._answered.clear()
        while True:
            self._enter(State.FAILED)
            wait = pause_after(failures)
            self._say(f"{reason}; it is started again {_said(wait, failures)}")
            await asyncio.sleep(wait)
            try:
                await self.launch()
            except (OperatorError, OSError) as error:
                reason, failures = str(error), failures + 1
            else:
                return failures

    @property
    def status(self) -> str:
        """How the process ended, in words."""
        code = self._process.returncode if self._process else None
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return signal.Signals(-code).name
        return str(code)

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """Ends it in good order within its grace, at once when told to hurry; returns when it is gone."""
        self._wanted = False
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        self._enter(State.STOPPING)
        await self._end(hurry=False, hurried=hurry)
        self.identity = None
        self._on_change()

    async def forget(self) -> None:
        """Stops watching, and leaves the process to run; for tests of what finds it later."""
        self._wanted = False
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _end(self, *, hurry: bool, hurried: asyncio.Event | None = None) -> None:
        process = self._process
        if process is None:
            return
        gone = asyncio.create_task(process.wait())
        if not hurry and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(self.program.stop_signal)
            told = asyncio.create_task((hurried or asyncio.Event()).wait())
            await asyncio.wait({gone, told}, timeout=self.program.grace_seconds, return_when=asyncio.FIRST_COMPLETED)
            told.cancel()
        for number, seconds in ((self.program.hurry_signal, _LAST_RESORT_SECONDS), (signal.SIGKILL, None)):
            if not gone.done():
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)
                await asyncio.wait({gone}, timeout=seconds)
        if self._pumping is not None:
            # A grandchild may hold the pipe open for a moment longer than the process lived.
            await asyncio.wait({self._pumping}, timeout=1)
            self._pumping.cancel()
        self.log.close()

    def _enter(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self._on_change()


def pause_after(failures: int) -> float:
    """Seconds until the next start, after so many failures in a row; none for a program that had been well."""
    if failures == 0:
        return 0.0
    # Copies that died together must not come back together.
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 16)) * random.uniform(0.75, 1.0)


def _said(wait: float, failures: int) -> str:
    if failures == 0:
        return "at once"
    return f"in {wait:.1f} s" + (f", after {failures} failures in a row" if failures > 1 else "")
