"""Profiles uploaded files in child processes, so that a hostile one cannot take this process along.

A child takes half a second to import what it needs, so one may be prepared while the upload is still under way, and a
spare is kept for a while after each file. An idle API holds no child, and this module imports nothing heavy.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir

import msgspec

from adapters.dataset_files.child_protocol import READY, Reply, Request
from adapters.dataset_files.errors import DatasetTooLarge, ReadersUnavailable, UnreadableDataset
from adapters.dataset_files.limits import DEFAULT_LIMITS, MIB, Limits
from schemas.dataset_profile import DatasetProfile

_ROOT = str(Path(__file__).parents[2])
_START = "import sys; sys.path.append(sys.argv[1]); from adapters.dataset_files.child import main; main()"
_LONGEST_REPLY = 64 * MIB
_STARTED_WITHIN = 60.0


class Profiler:
    """Looks at files, a few at a time. `async with` it, or `close` it: children end with it."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS, *, at_once: int = 2, keep_spare: float = 60.0) -> None:
        """`at_once` files are looked at in parallel; a spare child ends after `keep_spare` seconds without a file."""
        self._limits = limits
        self._turn = asyncio.Semaphore(at_once)
        self._keep_spare = keep_spare
        self._spare: asyncio.Task[asyncio.subprocess.Process] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._endings: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Profiler:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def prepare(self) -> None:
        """Start a spare child if there is none. For whoever knows that a file is on its way."""
        if self._spare is None:
            self._spare = asyncio.create_task(_started())
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(self._keep_spare, self._drop_spare)

    async def profile(self, path: Path, filename: str, timeout: float = 120.0) -> DatasetProfile:
        """What the file holds. UnreadableDataset or DatasetTooLarge otherwise; a child that crashes is `unreadable`.

        What is no fault of the file's is ReadersUnavailable, or OSError where there is no space to unpack it.
        """
        async with self._turn:
            child = await self._take()
            if self._keep_spare > 0:
                self.prepare()
            try:
                request = Request(str(path), filename, self._limits, max(1, int(timeout) + 1))
                async with asyncio.timeout(timeout):
                    return _said(await _asked(child, request))
            except TimeoutError as error:
                message = f"Reading the file takes longer than {timeout:g} seconds."
                raise UnreadableDataset("unreadable", message) from error
            finally:
                await asyncio.shield(_ended(child))

    async def close(self) -> None:
        """End the spare child."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._drop_spare()
        await asyncio.gather(*self._endings)

    async def _take(self) -> asyncio.subprocess.Process:
        spare, self._spare = self._spare, None
        if spare is not None:
            try:
                child = await spare
            except ReadersUnavailable:
                pass  # Killed for memory, say; a fresh one tells whether starting is what fails.
            else:
                if child.returncode is None:
                    return child
        return await _started()

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            ending = asyncio.create_task(_dropped(spare))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)


async def profile_in_child(
    path: Path, filename: str, limits: Limits = DEFAULT_LIMITS, timeout: float = 120.0
) -> DatasetProfile:
    """One file in one child; a `Profiler` is faster for more than one."""
    async with Profiler(limits, keep_spare=0.0) as profiler:
        return await profiler.profile(path, filename, timeout)


async def _started() -> asyncio.subprocess.Process:
    """A child that has imported everything and waits for its request."""
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-c", _START, _ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # It may quote the file.
            env={
                "PATH": os.defpath,
                "LANG": "C.UTF-8",
                "TMPDIR": gettempdir(),
                "POLARS_MAX_THREADS": "2",  # Every thread has its own arenas; and other requests want the other cores.
                "OPENBLAS_NUM_THREADS": "1",
            },
        )  # fmt: skip
    except OSError as error:  # No memory, no descriptor or no process number is left.
        raise ReadersUnavailable(str(error)) from error
    assert child.stdout is not None
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_STARTED_WITHIN):
                if await child.stdout.readline() == READY:
                    return child
    except BaseException:
        await _ended(child)
        raise
    await _ended(child)
    raise ReadersUnavailable("the process that reads dataset files does not start")


async def _asked(child: asyncio.subprocess.Process, request: Request) -> bytes:
    assert child.stdin is not None
    assert child.stdout is not None
    answer = bytearray()
    try:
        child.stdin.write(msgspec.json.encode(request) + b"\n")
        await child.stdin.drain()
        while piece := await child.stdout.read(MIB):
            answer += piece
            if len(answer) > _LONGEST_REPLY:
                return b""
    except ConnectionError:
        return b""  # It died; what it said until then, if anything, is not whole.
    return bytes(answer)


def _said(answer: bytes) -> DatasetProfile:
    try:
        reply = msgspec.json.decode(answer, type=Reply)
    except msgspec.DecodeError as error:
        raise UnreadableDataset("unreadable", "The file cannot be read.") from error
    if reply.profile is not None:
        return reply.profile
    if reply.errno is not None:
        raise OSError(reply.errno, os.strerror(reply.errno))
    if reply.code is None:
        raise DatasetTooLarge(reply.message)
    raise UnreadableDataset(reply.code, reply.message, row=reply.row, byte=reply.byte)


async def _ended(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        with suppress(ProcessLookupError):
            child.kill()
    await child.communicate()  # Waits, and closes the pipes.


async def _dropped(spare: asyncio.Task[asyncio.subprocess.Process]) -> None:
    try:
        child = await spare
    except ReadersUnavailable:
        return
    await _ended(child)
