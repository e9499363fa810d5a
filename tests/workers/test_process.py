"""What a process arranges about itself is a courtesy: where the system refuses, it works on without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WITHOUT_PROC = """
import resource
from workers import process
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
process.be_killed_first()
process.set_title("ravand: somebody")
print(process.out_of_memory_kills())
"""
"""Nothing can be opened any more, below /proc either."""


def test_a_process_that_can_read_nothing_about_itself_goes_on_without() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_PROC],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "0\n", "")
