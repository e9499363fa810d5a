"""What a process arranges with the operating system about itself. On other systems than Linux most of it does nothing."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

_PR_SET_NAME = 15

TITLE_ROOM = "-" * 120
"""An argument that only makes room: a title is written over the arguments and cannot be longer than they were."""


def be_killed_first() -> None:
    """When memory runs out, the kernel should choose this process, not the worker or a database beside it."""
    try:
        Path("/proc/self/oom_score_adj").write_text("700")
    except OSError:
        return


def set_title(title: str) -> None:
    """What `ps` and `top` show for this process."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_NAME, title.encode()[:15], 0, 0, 0)
    try:
        # The 48th and 49th field: where the kernel reads the arguments from. The second may hold blanks and brackets.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        shown = Path("/proc/self/cmdline").read_bytes()
    except (OSError, IndexError, ValueError):
        return
    room = end - start
    if room != len(shown) or room < 2 or ctypes.string_at(start, room) != shown:
        return
    ctypes.memmove(start, title.encode()[: room - 1].ljust(room, b"\0"), room)


def out_of_memory_kills() -> int:
    """How many processes the kernel has killed for memory on this machine; compare two readings."""
    try:
        counters = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in counters.splitlines() if line.startswith("oom_kill ")), 0)
