"""Work without root's powers, for tests of what the machine refuses to everybody else."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ops.unprivileged import _CAPABILITY_VERSION_3, _Header, _libc, _Sets

T = TypeVar("T")


def powerless(work: Callable[[], T]) -> T:
    """In a thread that lets go of its capabilities, which end with it; its user stays who it is."""

    def begin() -> T:
        assert _libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), (_Sets * 2)()) == 0
        return work()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(begin).result()
