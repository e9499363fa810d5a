"""Processes on Linux: who they are beyond a number, how they die with us, how they are ended."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
# Loaded here and not after a fork: between fork and exec nothing may be imported or looked up.
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Identity:
    """One process for ever: numbers are used again, a number with its start time on one boot is not."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process that has this number now; none if it is gone or only waits to be reaped."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # The name, in brackets, may hold anything; the fields after the last bracket are safe to split.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else cls(pid, f"{fields[19]}@{_boot()}")

    @property
    def lives(self) -> bool:
        """Whether this very process still runs."""
        return Identity.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Signals it if it lives. A pidfd pins the process, so that a successor of its number is never hit."""
        try:
            handle = os.pidfd_open(self.pid)
        except OSError:
            return
        try:
            if self.lives:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]


async def until_gone(processes: list[Identity], seconds: float) -> list[Identity]:
    """Waits until they are gone, at most so long; those that are left."""
    deadline = asyncio.get_running_loop().time() + seconds
    # They are not our children, so there is nothing to wait on but the look itself.
    while asyncio.get_running_loop().time() < deadline and any(process.lives for process in processes):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return [process for process in processes if process.lives]


async def end_session(leader: int, seconds: float = 5.0) -> None:
    """Kills every process of a session and waits until they are gone, at most so long: a program's own children outlive it."""
    deadline = asyncio.get_running_loop().time() + seconds
    while (left := _session(leader)) and asyncio.get_running_loop().time() < deadline:
        for process in left:
            process.send(signal.SIGKILL)
        await asyncio.sleep(0.01)


def _session(leader: int) -> list[Identity]:
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 — pathlib takes ten times as long here.
        with contextlib.suppress(OSError):
            if name.isdigit() and os.getsid(int(name)) == leader and (process := Identity.of(int(name))):
                found.append(process)
    return found


def dies_with_parent(number: signal.Signals, then: Callable[[], None] | None = None) -> Callable[[], None]:
    """What a child runs before exec so that it gets this signal when the parent is gone, however that happened.

    The kernel acts when the *thread* that forked ends, so spawn from the main thread. `then` runs first: a change of
    the user clears the setting. If the parent died in between, the signal never comes; the look at `getppid` covers that.
    """
    parent = os.getpid()

    def before_exec() -> None:
        if then is not None:
            then()
        if _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(127)

    return before_exec
