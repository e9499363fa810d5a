"""What a training child uses: processor and memory of it and of what it started, and its GPU."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import psutil

from workers.devices import Devices


@dataclass(frozen=True, slots=True)
class Usage:
    """One sample. `cpu_percent` is of one core, so it may pass 100."""

    cpu_percent: float
    memory_bytes: int
    gpu_percent: float | None = None
    gpu_memory_bytes: int | None = None


class ProcessUsage:
    """Samples one process and its descendants. The processor's share is that since the sample before."""

    def __init__(self, pid: int, devices: Devices) -> None:
        """The process may end at any time."""
        self._pid = pid
        self._devices = devices
        self._known: dict[int, psutil.Process] = {}

    def sample(self) -> Usage | None:
        """What it uses now; None once it is gone."""
        with contextlib.suppress(psutil.Error):
            main = self._known.get(self._pid) or psutil.Process(self._pid)
            family = [main, *main.children(recursive=True)]
            # psutil measures from one call to the next on the same object, so objects are kept.
            self._known = {process.pid: self._known.get(process.pid, process) for process in family}
            cpu, memory = 0.0, 0
            for process in self._known.values():
                with contextlib.suppress(psutil.Error), process.oneshot():
                    cpu += process.cpu_percent()
                    # Shared pages count for each process that maps them: for one child, what it would need alone.
                    memory += process.memory_info().rss
            gpu_percent, gpu_memory = self._devices.used_by(self._known)
            return Usage(round(cpu, 1), memory, gpu_percent, gpu_memory)
        return None
