"""The worker's hold on a fork server process: starts it, has it fork and kill, learns how children ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress

from workers.child_process import Child, Ended, ForkServerLost
from workers.process import TITLE_ROOM

PACKET = 4096


class ForkServerHandle:
    """One fork server; when it is lost, its children are, and another one is launched in its place."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        """Use `launch`."""
        self._process = process
        self._control = control
        self._children: dict[int, Child] = {}
        self._last = 0
        self.ready = asyncio.Event()
        self.lost = asyncio.Event()
        asyncio.get_running_loop().add_reader(control, self._on_packet)

    @classmethod
    async def launch(cls, environment: Mapping[str, str]) -> ForkServerHandle:
        """Start the process; it is ready seconds later."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "workers.fork_server", str(theirs.fileno()), str(os.getpid()), TITLE_ROOM),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C at a terminal is for the worker alone.
                env=environment,
            )
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    async def fork(self) -> Child:
        """A new child, which prepares itself and waits for a job. ForkServerLost when there is nobody to fork it."""
        await self.ready.wait()
        if self.lost.is_set():
            raise ForkServerLost
        self._last += 1
        number = self._last
        child = self._children[number] = Child(kill=lambda: self._kill(number))
        connection, theirs = socket.socketpair()
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        try:
            packet = json.dumps({"fork": number}).encode()
            socket.send_fds(self._control, [packet], [theirs.fileno(), out_end, err_end])
        except OSError:
            self._on_lost()
        finally:
            theirs.close()
            os.close(out_end)
            os.close(err_end)
        await child.open(connection, out, err)
        return child

    async def close(self) -> None:
        """End the process and every child."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._on_lost()
        await self._process.wait()

    def _kill(self, number: int) -> None:
        if number in self._children:
            with suppress(OSError):  # It is lost, and the child with it.
                self._control.send(json.dumps({"kill": number}).encode())

    def _on_packet(self) -> None:
        try:
            packet = self._control.recv(PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._on_lost()
            return
        match json.loads(packet):
            case {"ready": True}:
                self.ready.set()
            case {"forked": int(number), "pid": int(pid)}:
                self._children[number].started(pid)
            case {"exited": int(number), "status": int(status), "out_of_memory": bool(kernel_killed)}:
                self._children.pop(number).ended(Ended.of(status, kernel_killed))

    def _on_lost(self) -> None:
        if self.lost.is_set():
            return
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        for child in self._children.values():
            child.ended(Ended(code=None, signal=signal.SIGKILL))
        self._children.clear()
        self.lost.set()
        self.ready.set()  # Whoever waits for it finds it lost.
