"""What a child process arranges before it becomes another program, on Linux; elsewhere it does nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
# Loaded here and not after a fork: between fork and exec nothing may be imported or looked up.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def dying_with_us() -> Callable[[], None]:
    """For `preexec_fn`: the child is killed when this process ends, however it ends.

    The kernel acts when the *thread* that forked ends, so call it in the main one.
    """
    parent = os.getpid()

    def before_exec() -> None:
        die_with(parent)

    return before_exec


def die_with(parent: int) -> None:
    """Be killed when the process of that number ends, which is the one that made this one."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # It ended before that took effect.
        os._exit(127)
