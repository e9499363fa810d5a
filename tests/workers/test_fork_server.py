"""What the process may not do from which training children are forked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

AS_IF_THERE_WERE_A_GPU = """
import torch
counted = []
torch.cuda.is_available = lambda: counted.append("asked whether there is a GPU") or True
torch.cuda.is_current_stream_capturing = lambda: counted.append("started CUDA") or False
from workers.fork_server import preload
preload()
print(counted)
"""
"""What a machine with a GPU answers, up to where CUDA would start."""


def test_it_never_starts_cuda_which_would_not_survive_a_fork() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", AS_IF_THERE_WERE_A_GPU],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert ended.stdout == "[]\n"


WORKER_IS_GONE = """
import socket
from workers.fork_server import ForkServer
control, workers_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server = ForkServer(control)
workers_end.close()
server.serve()
"""
FAILING_CHILD = """
import os, socket, sys
from workers.fork_server import become_child
pipe, _ = socket.socketpair()
out, err = os.dup(1), os.dup(2)
def work(connection):
    raise OSError("no such device")
become_child(os.getppid(), [pipe.detach(), out, err], work)
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )


def test_it_ends_quietly_when_its_worker_is_gone_before_it_is_ready() -> None:
    ended = run(WORKER_IS_GONE)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_child_that_fails_outside_of_the_training_says_why_in_the_jobs_log_and_ends_as_failed() -> None:
    ended = run(FAILING_CHILD)
    assert ended.returncode == 1
    assert ended.stderr.endswith("OSError: no such device\n")
