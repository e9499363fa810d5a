"""Readings of this machine's NVIDIA GPUs. A machine without them, or with a GPU that fell off the bus, has fewer readings."""

from __future__ import annotations

import threading
from collections.abc import Container
from typing import Any, NamedTuple

import structlog

from schemas.heartbeat import Device

READ_SECONDS = 2.0
RETRY_SECONDS = 60.0


class Used(NamedTuple):
    """A process on a GPU."""

    pid: int
    memory: int | None
    """Bytes of the GPU's memory."""
    utilisation: float | None
    """Percent of the whole GPU, whoever uses it."""


class Devices:
    """Reads in a thread of its own; everybody else takes the newest readings from here.

    The thread is a daemon: a call into a failing driver may never return, and must not keep the process from ending.
    """

    def __init__(self) -> None:
        """No readings yet."""
        self.readings: tuple[Device, ...] = ()
        self._used: tuple[Used, ...] = ()
        self._stopped = threading.Event()
        self._log = structlog.get_logger("worker")

    def start(self) -> None:
        """Read from now on."""
        threading.Thread(target=self._run, name="devices", daemon=True).start()

    def stop(self) -> None:
        """Read no more."""
        self._stopped.set()

    def used_by(self, pids: Container[int]) -> tuple[float | None, int | None]:
        """Utilisation (percent) and memory (bytes) of the GPUs that these processes use; None where they use none."""
        used = [one for one in self._used if one.pid in pids]
        memories = [one.memory for one in used if one.memory is not None]
        utilisations = [one.utilisation for one in used if one.utilisation is not None]
        return (max(utilisations) if utilisations else None), (sum(memories) if memories else None)

    def _run(self) -> None:
        import pynvml

        said = False
        while not self._stopped.is_set():
            try:
                pynvml.nvmlInit()
                said = False
                while not self._stopped.wait(READ_SECONDS if self.readings else 0):
                    self.readings, self._used = _read(pynvml)
            except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
                return
            except pynvml.NVMLError as error:  # Among others: the GPU is lost, and a reset is needed.
                if not said:
                    self._log.warning("the GPUs cannot be read", error=str(error))
                said = True
            self.readings, self._used = (), ()
            self._stopped.wait(RETRY_SECONDS)


def _read(nvml: Any) -> tuple[tuple[Device, ...], tuple[Used, ...]]:
    devices: list[Device] = []
    used: list[Used] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            device, processes = _read_one(nvml, index)
        except nvml.NVMLError as error:  # One that is lost must not hide the others.
            device, processes = Device(name=f"GPU {index}: {error}"), []
        devices.append(device)
        used += processes
    if not devices:
        raise nvml.NVMLError_NotFound
    return tuple(devices), tuple(used)


def _read_one(nvml: Any, index: int) -> tuple[Device, list[Used]]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    memory = _or_none(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _or_none(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    temperature = _or_none(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
    processes = _or_none(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    utilisation = float(rates.gpu) if rates else None
    device = Device(
        name=name.decode() if isinstance(name, bytes) else name,
        memory_used=int(memory.used) if memory else None,
        memory_total=int(memory.total) if memory else None,
        utilisation=utilisation,
        temperature=float(temperature) if temperature is not None else None,
    )
    return device, [Used(process.pid, process.usedGpuMemory, utilisation) for process in processes]


def _or_none(nvml: Any, call: Any, *arguments: Any) -> Any:
    """Not every GPU has every reading."""
    try:
        return call(*arguments)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission):
        return None
