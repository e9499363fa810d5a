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
