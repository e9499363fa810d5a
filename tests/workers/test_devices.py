"""GPU readings come and go with the driver; nothing else does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from schemas.heartbeat import Device
from workers import devices
from workers.devices import Devices, Used
from workers.process_usage import ProcessUsage


class NVMLError(Exception):
    """As in nvidia-ml-py."""


class Lost(NVMLError):
    """The GPU is lost."""


class Driver(SimpleNamespace):
    """As much of the module as is used; `trouble` may raise for a call on a GPU."""

    NVMLError = NVMLError
    NVMLError_LibraryNotFound = type("LibraryNotFound", (NVMLError,), {})
    NVMLError_DriverNotLoaded = type("DriverNotLoaded", (NVMLError,), {})
    NVMLError_NotSupported = type("NotSupported", (NVMLError,), {})
    NVMLError_NoPermission = type("NoPermission", (NVMLError,), {})
    NVMLError_NotFound = type("NotFound", (NVMLError,), {})
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, trouble: Callable[[str, int], None] = lambda call, gpu: None, count: int = 1) -> None:
        super().__init__(trouble=trouble, count=count, inits=0)

    def nvmlInit(self) -> None:
        self.inits += 1
        self.trouble("init", -1)

    def nvmlDeviceGetCount(self) -> int:
        return int(self.count)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self.trouble("handle", index)
        return index

    def nvmlDeviceGetName(self, gpu: int) -> str:
        return f"card {gpu}"

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> Any:
        return SimpleNamespace(used=5, total=10)

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> Any:
        return SimpleNamespace(gpu=40)

    def nvmlDeviceGetTemperature(self, gpu: int, kind: int) -> int:
        self.trouble("temperature", gpu)
        return 50

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: int) -> list[Any]:
        return [SimpleNamespace(pid=1, usedGpuMemory=3)]


def reading(driver: Driver) -> tuple[tuple[Device, ...], tuple[Used, ...]]:
    return devices._read(driver)


class TestReadings:
    def test_a_gpu_says_what_it_does(self) -> None:
        (card,), used = reading(Driver())
        assert card == Device(name="card 0", memory_used=5, memory_total=10, utilisation=40.0, temperature=50.0)
        assert used == (Used(1, 3, 40.0),)

    def test_a_missing_sensor_is_left_out(self) -> None:
        def trouble(call: str, gpu: int) -> None:
            if call == "temperature":
                raise Driver.NVMLError_NotSupported

        (card,), _ = reading(Driver(trouble))
        assert card.temperature is None
        assert card.utilisation == 40.0

    def test_a_lost_gpu_does_not_hide_the_others(self) -> None:
        def trouble(call: str, gpu: int) -> None:
            if gpu == 0:
                raise Lost("GPU is lost")

        (lost, well), _ = reading(Driver(trouble, count=2))
        assert "GPU is lost" in lost.name
        assert well.name == "card 1"


class TestDriver:
    def test_without_one_there_are_no_readings_and_no_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def trouble(call: str, gpu: int) -> None:
            raise Driver.NVMLError_LibraryNotFound

        monkeypatch.setitem(sys.modules, "pynvml", Driver(trouble))
        found = Devices()
        found._run()
        assert found.readings == ()
        assert found.used_by({1}) == (None, None)

    def test_one_that_fails_is_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "RETRY_SECONDS", 0.001)
        monkeypatch.setattr(devices, "READ_SECONDS", 0.001)
        failures = iter([True, False])
        found = Devices()

        def trouble(call: str, gpu: int) -> None:
            if call == "init" and next(failures, False):
                raise Lost("GPU is lost")

        driver = Driver(trouble)
        monkeypatch.setitem(sys.modules, "pynvml", driver)
        thread = threading.Thread(target=found._run)
        thread.start()
        while not found.readings:
            assert thread.is_alive()
        assert found.used_by({1}) == (40.0, 3)
        found.stop()
        thread.join(10)
        assert driver.inits == 2


class TestUsage:
    def test_a_process_that_is_gone_uses_nothing(self) -> None:
        assert ProcessUsage(2**22 + 1, Devices()).sample() is None
