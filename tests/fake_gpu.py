"""A GPU by an NVML that is faked: what the library answers, refuses, or does not have."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fourstage.measure import machine

UUID = "12345678-9abc-def0-1234-56789abcdef0"
Fake = Callable[..., ModuleType]


class FakeNvmlError(Exception):
    pass


@contextmanager
def nvml_forgotten() -> Iterator[None]:
    """What is asked of NVML once a process is asked again inside and after the block."""
    for asked_once in (machine.load_nvml, machine.nvml_handle):
        asked_once.cache_clear()
    yield
    for asked_once in (machine.load_nvml, machine.nvml_handle):
        asked_once.cache_clear()


def make_fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A torch with one GPU and an NVML that knows it; `silent` functions raise, `absent` ones do not exist."""
    import torch

    properties = SimpleNamespace(
        name="Fake GPU", total_memory=80_000, uuid=UUID, major=9, minor=0, multi_processor_count=132
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)

    def make(uuid: str = f"GPU-{UUID}", silent: tuple[str, ...] = (), absent: tuple[str, ...] = ()) -> ModuleType:
        fake: Any = ModuleType("pynvml")
        fake.inits = 0
        fake.NVMLError = FakeNvmlError
        fake.NVML_CLOCK_SM, fake.NVML_CLOCK_MEM, fake.NVML_TEMPERATURE_GPU = 1, 2, 0

        def init() -> None:
            fake.inits += 1

        def by_uuid(name: str) -> str:
            if name != uuid:
                raise FakeNvmlError("Not Found")
            return "handle"

        answers: dict[str, Callable[..., Any]] = {
            "nvmlInit": init,
            "nvmlDeviceGetHandleByUUID": by_uuid,
            "nvmlSystemGetDriverVersion": lambda: "580.1",
            "nvmlDeviceGetClockInfo": lambda handle, clock: {1: 1980, 2: 2619}[clock],
            "nvmlDeviceGetPowerUsage": lambda handle: 412_500,
            "nvmlDeviceGetTemperature": lambda handle, sensor: 61,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x4 | 0x20,
            "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=97, memory=40),
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=80_000, used=1234, free=0),
            "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 700_000,
            "nvmlDeviceGetMaxClockInfo": lambda handle, clock: {1: 1980, 2: 2619}[clock],
            "nvmlDeviceGetPersistenceMode": lambda handle: 1,
            "nvmlDeviceGetEccMode": lambda handle: [1, 1],
            "nvmlDeviceGetMigMode": lambda handle: [0, 0],
        }

        def refuse(*arguments: Any) -> Any:
            raise FakeNvmlError("Not Supported")

        for name, answer in answers.items():
            if name not in absent:
                setattr(fake, name, refuse if name in silent else answer)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return make
