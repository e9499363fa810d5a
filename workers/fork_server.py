"""The process from which training children are forked: torch is loaded once, and a child starts in milliseconds.

Run as `python -m workers.fork_server <socket> <parent>`. It holds one thread and does no training: a thread pool, or
CUDA, does not survive a fork. Whatever starts threads when imported (polars) is imported in the children, while they wait.

Packets on the socket are JSON. To the server: `{"fork": id}` with three file descriptors (the pipe, standard output
and error), `{"kill": id}`. From it: `{"ready": true}`, `{"forked": id, "pid": pid}`, and `{"exited": id, "status":
wait status, "out_of_memory": whether the kernel killed for memory meanwhile}`. When the socket closes, all is over.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from adapters.processes import die_with
from workers.process import TITLE_ROOM, be_killed_first, out_of_memory_kills, set_title

PACKET = 4096


def main() -> None:
    """Load, then fork when asked, until the worker is gone."""
    control, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    die_with(parent)
    set_title("ravand: fork server")
    for number in (signal.SIGINT, signal.SIGTERM):  # The worker decides when training ends, not who stops the group.
        signal.signal(number, signal.SIG_IGN)
    preload()
    gc.collect()
    gc.freeze()  # The collector would otherwise touch, and so copy, every page of a child.
    ForkServer(control).serve()


def preload() -> None:
    """Import what every child needs and what leaves no thread behind."""
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    torch.use_deterministic_algorithms(True)  # Its first call imports for a second.
    import safetensors.torch  # noqa: F401
    import torch.nn.functional

    # The first step of an optimizer imports for seconds. No backward pass: it would start threads.
    with gpus_out_of_sight():
        for optimizer in (torch.optim.AdamW, torch.optim.SGD):
            weight = torch.nn.Parameter(torch.zeros(4))
            weight.grad = torch.zeros(4)
            optimizer([weight], lr=0.1, fused=True).step()
    import recipes.catalog
    import workers.trainer  # noqa: F401

    recipes.catalog.recipes()


@contextmanager
def gpus_out_of_sight() -> Iterator[None]:
    """PyTorch finds no GPU meanwhile. Where it finds one, an optimizer asks whether it records a CUDA graph, also with
    weights on the CPU. That starts CUDA here, and then no child can use it any more.
    """
    import torch

    found = torch.cuda.is_available
    torch.cuda.is_available = lambda: False
    try:
        yield
    finally:
        torch.cuda.is_available = found


@dataclass(slots=True)
class Forked:
    """A child that has not ended."""

    id: int
    kills: int
    """How often the kernel had killed for memory when it was forked."""


class ForkServer:
    """Forks, kills and reaps."""

    def __init__(self, control: socket.socket) -> None:
        """`control` comes from the worker."""
        self._control = control
        self._children: dict[int, Forked] = {}
        self._wakeup, waker = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker)
        self._private = (self._wakeup, waker)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def serve(self) -> None:
        """Until the worker closes its end."""
        self._tell(ready=True)
        while True:
            readable, _, _ = select.select([self._control.fileno(), self._wakeup], [], [])
            if self._wakeup in readable:
                with suppress(BlockingIOError):
                    os.read(self._wakeup, 4096)
                self._reap()
            if self._control.fileno() in readable:
                packet, descriptors, _, _ = socket.recv_fds(self._control, PACKET, 3)
                if not packet:
                    os._exit(0)  # The children are told by the kernel.
                match json.loads(packet):
                    case {"fork": int(child)}:
                        self._fork(child, descriptors)
                    case {"kill": int(child)}:
                        self._kill(child)

    def _fork(self, child: int, descriptors: list[int]) -> None:
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            for descriptor in self._private:
                os.close(descriptor)
            become_child(server, descriptors, run_trainer)
        for descriptor in descriptors:
            os.close(descriptor)
        self._children[pid] = Forked(child, out_of_memory_kills())
        self._tell(forked=child, pid=pid)

    def _kill(self, child: int) -> None:
        # Here a pid is certainly still the child's: nobody else reaps it.
        for pid, forked in self._children.items():
            if forked.id == child:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self._children:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            # What it started and left behind goes too. Until it is reaped, its number names no other group.
            with suppress(ProcessLookupError):
                os.killpg(ended.si_pid, signal.SIGKILL)
            pid, status = os.waitpid(ended.si_pid, 0)
            forked = self._children.pop(pid, None)
            if forked is not None:
                for_memory = os.WIFSIGNALED(status) and out_of_memory_kills() > forked.kills
                self._tell(exited=forked.id, status=status, out_of_memory=for_memory)

    def _tell(self, **what: int | bool) -> None:
        try:
            self._control.send(json.dumps(what).encode())
        except ConnectionError:
            os._exit(0)


def become_child(server: int, descriptors: list[int], work: Callable[[socket.socket], int]) -> None:
    """Everything a child does from its first moment to its last; never returns."""
    code = 1
    try:
        die_with(server)
        os.setsid()  # Processes that the training starts are killed with it, as one group.
        be_killed_first()
        pipe, out, err = descriptors
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
        faulthandler.enable(sys.stderr)
        code = work(socket.socket(fileno=pipe))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        flush()
        os._exit(code)  # What the server registered to run at exit is not the child's.


def run_trainer(connection: socket.socket) -> int:
    """Wait for a job, train it; the exit code."""
    from workers import trainer
    from workers.child_pipe import ChildEnd

    set_title("ravand: training child, waiting")
    return trainer.main(ChildEnd(connection))


def flush() -> None:
    """Let go of what Python and C have buffered: `os._exit` does not."""
    import ctypes

    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    ctypes.CDLL(None).fflush(None)


if __name__ == "__main__":
    assert TITLE_ROOM in sys.argv
    main()
