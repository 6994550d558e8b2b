"""The state of a GPU, by a library that is faked here."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fourstage.measure import machine as module
from fourstage.measure.machine import GpuState, gpu_state, nvml_reason
from tests.fake_gpu import UUID, Fake, nvml_forgotten


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    with nvml_forgotten():
        yield


STATE = GpuState(1980, 2619, 412.5, 61, ("sw_power_cap", "sw_thermal_slowdown"), 97, 1234)
READINGS = ("nvmlDeviceGetClockInfo", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTemperature",
            "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetUtilizationRates",
            "nvmlDeviceGetMemoryInfo")  # fmt: skip


def test_the_state_is_what_nvml_says_in_units(fake_gpu: Fake) -> None:
    fake_gpu()
    assert gpu_state("cuda:0") == gpu_state("cuda") == STATE
    assert nvml_reason("cuda:0") is None


def test_nvml_is_initialised_once_and_a_call_is_cheap(fake_gpu: Fake) -> None:
    fake: Any = fake_gpu()
    gpu_state("cuda:0")
    start = time.perf_counter()
    for _ in range(100):
        gpu_state("cuda:0")
    assert (time.perf_counter() - start) / 100 < 1e-3
    assert fake.inits == 1


def test_the_gpu_is_found_by_its_uuid_and_so_is_a_mig_slices_parent(fake_gpu: Fake) -> None:
    fake: Any = fake_gpu(uuid=f"MIG-{UUID}")
    asked: list[str] = []
    fake.nvmlDeviceGetDeviceHandleFromMigDeviceHandle = lambda handle: "parent"
    fake.nvmlDeviceGetPowerUsage = lambda handle: asked.append(handle) or 1000
    state = gpu_state("cuda:0")
    assert (state.power_w if state else None, asked) == (1.0, ["parent"])


def test_a_gpu_that_nvml_does_not_know_is_named(fake_gpu: Fake) -> None:
    fake_gpu(uuid="GPU-another")
    assert gpu_state("cuda:0") is None
    assert nvml_reason("cuda:0") == f"NVML does not know cuda:0 as GPU-{UUID} or MIG-{UUID}: Not Found"
    assert nvml_reason("cuda:1") == "torch sees no cuda:1"


def test_one_answer_that_is_missing_is_null_and_the_others_stay(fake_gpu: Fake) -> None:
    fake_gpu(silent=("nvmlDeviceGetPowerUsage",), absent=("nvmlDeviceGetUtilizationRates",))
    assert gpu_state("cuda:0") == GpuState(1980, 2619, None, 61, STATE.throttle_reasons, None, 1234)


def test_a_gpu_that_answers_nothing_has_no_state(fake_gpu: Fake) -> None:
    fake_gpu(silent=READINGS)
    assert gpu_state("cuda:0") is None
    assert "answers no question about cuda:0" in str(nvml_reason("cuda:0"))


def test_an_older_driver_knows_the_reasons_by_their_older_name(fake_gpu: Fake) -> None:
    fake: Any = fake_gpu(silent=("nvmlDeviceGetCurrentClocksEventReasons",))
    fake.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x8
    state = gpu_state("cuda:0")
    assert state is not None
    assert state.throttle_reasons == ("hw_slowdown",)


def test_every_bit_of_the_reasons_has_a_name() -> None:
    assert module._throttle_reasons(0) == ()
    assert module._throttle_reasons(0x7FF) == tuple(module.THROTTLE_REASONS.values())
    assert module._throttle_reasons(0x1 | 0x1000) == ("gpu_idle", "0x1000")


def test_the_names_are_those_of_the_library() -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    for bit, name in module.THROTTLE_REASONS.items():
        spelled = "".join(part.title() for part in name.split("_"))
        kinds = ("nvmlClocksEventReason", "nvmlClocksThrottleReason")
        found = [getattr(pynvml, kind + spelled) for kind in kinds if hasattr(pynvml, kind + spelled)]
        assert found, spelled
        assert set(found) == {bit}


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_state("cuda:0") is None
    assert nvml_reason() == "nvidia-ml-py is not installed: pip install 'fourstage[gpu]'"


def test_an_nvml_without_a_driver_says_so(fake_gpu: Fake) -> None:
    fake_gpu(silent=("nvmlInit",))
    assert gpu_state("cuda:0") is None
    assert nvml_reason() == "NVML does not answer: Not Supported"


def test_a_cpu_has_no_state(fake_gpu: Fake) -> None:
    fake_gpu()
    assert gpu_state("cpu") is None
    assert nvml_reason("cpu") == "NVML knows CUDA devices only, and 'cpu' is none"


@pytest.mark.gpu
def test_a_real_gpu_tells_its_state_in_less_than_a_millisecond() -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    state = gpu_state("cuda:0")
    assert state is not None, nvml_reason("cuda:0")
    assert state.sm_clock_mhz
    start = time.perf_counter()
    for _ in range(20):
        gpu_state("cuda:0")
    assert (time.perf_counter() - start) / 20 < 1e-3
