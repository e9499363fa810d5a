"""Readings of this machine's NVIDIA GPUs. A machine without them, or with a GPU that fell off the bus, has fewer readings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Container
from typing import Any

import structlog

from schemas.heartbeat import Device

READ_SECONDS = 2.0
RETRY_SECONDS = 60.0


class Devices:
    """Reads in a thread, since a failing driver can hang; everybody else takes the newest readings from here."""

    def __init__(self) -> None:
        """No readings yet."""
        self.readings: tuple[Device, ...] = ()
        self._processes: list[tuple[int, int | None, float | None]] = []
        """(process, its GPU memory in bytes, the utilisation of that GPU in percent)"""
        self._log = structlog.get_logger("worker")

    async def run(self) -> None:
        """Read for ever; cancel it to end. Ends by itself where there is no driver."""
        try:
            import pynvml
        except ImportError:
            return
        said = False
        while True:
            try:
                await asyncio.to_thread(pynvml.nvmlInit)
                said = False
                while True:
                    self.readings, self._processes = await asyncio.to_thread(_read, pynvml)
                    await asyncio.sleep(READ_SECONDS)
            except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
                return
            except pynvml.NVMLError as error:  # Among others: the GPU is lost, and a reset is needed.
                self.readings, self._processes = (), []
                if not said:
                    self._log.warning("the GPU cannot be read", error=str(error))
                said = True
                with contextlib.suppress(pynvml.NVMLError):
                    await asyncio.to_thread(pynvml.nvmlShutdown)
            await asyncio.sleep(RETRY_SECONDS)

    def used_by(self, pids: Container[int]) -> tuple[float | None, int | None]:
        """Utilisation (percent) and memory (bytes) of the GPUs that these processes use; None where they use none."""
        used = [(memory, utilisation) for pid, memory, utilisation in self._processes if pid in pids]
        if not used:
            return None, None
        memories = [memory for memory, _ in used if memory is not None]
        utilisations = [utilisation for _, utilisation in used if utilisation is not None]
        return (max(utilisations) if utilisations else None), (sum(memories) if memories else None)


def _read(nvml: Any) -> tuple[tuple[Device, ...], list[tuple[int, int | None, float | None]]]:
    devices: list[Device] = []
    processes: list[tuple[int, int | None, float | None]] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        # One that is lost must not hide the others; only when none answers is the driver started anew.
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(handle)
            memory = _or_none(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
            rates = _or_none(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
            temperature = _or_none(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
            running = _or_none(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
        except nvml.NVMLError as error:
            devices.append(Device(name=f"GPU {index}: {error}"))
            continue
        utilisation = float(rates.gpu) if rates else None
        devices.append(
            Device(
                name=name.decode() if isinstance(name, bytes) else name,
                memory_used=int(memory.used) if memory else None,
                memory_total=int(memory.total) if memory else None,
                utilisation=utilisation,
                temperature=float(temperature) if temperature is not None else None,
            )
        )
        processes += [(process.pid, process.usedGpuMemory, utilisation) for process in running]
    return tuple(devices), processes


def _or_none(nvml: Any, call: Any, *arguments: Any) -> Any:
    """Not every GPU has every reading."""
    try:
        return call(*arguments)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission, nvml.NVMLError_Unknown):
        return None
