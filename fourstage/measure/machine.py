"""The state of the machine while it measures: the GPU's clocks and what throttles them, the load of the processors.

gpu_state("cuda:0").throttle_reasons            # ("sw_power_cap",)
nvml_reason("cuda:0")                           # why there is no state; None where there is one
processors_busy(seconds=1.0)                    # 0.02: other processes took 2 %
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

THROTTLE_REASONS = {  # bits of nvmlDeviceGetCurrentClocksEventReasons, nvml.h "nvmlClocksEventReasons"
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}


@dataclass(frozen=True)
class GpuState:
    """A GPU at one moment, all of it and not this process's share; None where this GPU does not say.

    Power and utilisation are the driver's averages over up to the last second, so that a short sample's
    are partly those of what came before it.
    """

    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    power_w: float | None
    temperature_c: int | None
    throttle_reasons: tuple[str, ...] | None  # names of THROTTLE_REASONS; (): nothing holds the clocks down
    utilisation_percent: int | None  # share of the time in which some kernel ran
    memory_used_bytes: int | None


@dataclass(frozen=True)
class ProcessorTimes:
    """What the processors have done since the machine started, and this process of it."""

    at_s: float
    busy_s: float  # of all processors together
    own_s: float

    @classmethod
    def now(cls) -> ProcessorTimes:
        """The processors' times as they are now."""
        import psutil

        times, own = psutil.cpu_times(), psutil.Process().cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # guests are counted in user already
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return cls(time.monotonic(), total - idle, own.user + own.system)


def processors_busy(since: ProcessorTimes | None = None, seconds: float = 0.3) -> float:
    """Share of all processors that others' work took, since a moment at least `seconds` ago, else while this sleeps."""
    import psutil

    before = since or ProcessorTimes.now()
    if (passed := time.monotonic() - before.at_s) < seconds:
        time.sleep(seconds - passed)
    after = ProcessorTimes.now()
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    whole_s = (after.at_s - before.at_s) * (psutil.cpu_count() or 1)
    return min(1.0, max(0.0, others_s / whole_s))


def gpu_state(device: str) -> GpuState | None:
    """Clocks, power, temperature, load of a torch device such as "cuda:0"; None where NVML does not answer."""
    state = _read_state(device)
    return state if isinstance(state, GpuState) else None


def nvml_reason(device: str = "cuda") -> str | None:
    """Why `gpu_state(device)` is None, in one line; None where there is a state."""
    state = _read_state(device)
    return state if isinstance(state, str) else None


def _read_state(device: str) -> GpuState | str:
    """The state, or why there is none."""
    import torch

    wanted = torch.device(device)
    if wanted.type != "cuda":
        return f"NVML knows CUDA devices only, and {device!r} is none"
    nvml, reason = load_nvml()
    if nvml is None:
        return reason
    index: int | None = wanted.index  # torch's types leave out that it is None where none was given
    if index is None:
        index = torch.cuda.current_device() if torch.cuda.is_initialized() else 0
    handle, reason = nvml_handle(index)
    if handle is None:
        return reason
    power = ask_nvml(nvml, "nvmlDeviceGetPowerUsage", handle)  # mW
    reasons = ask_nvml(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if reasons is None:  # drivers before 535 know it by its older name
        reasons = ask_nvml(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    utilisation = ask_nvml(nvml, "nvmlDeviceGetUtilizationRates", handle)
    memory = ask_nvml(nvml, "nvmlDeviceGetMemoryInfo", handle)
    state = GpuState(
        sm_clock_mhz=ask_nvml(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM),
        memory_clock_mhz=ask_nvml(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM),
        power_w=None if power is None else power / 1000,
        temperature_c=ask_nvml(nvml, "nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
        throttle_reasons=None if reasons is None else _throttle_reasons(reasons),
        utilisation_percent=None if utilisation is None else utilisation.gpu,
        memory_used_bytes=None if memory is None else memory.used,
    )
    if state == GpuState(None, None, None, None, None, None, None):
        return f"NVML answers no question about cuda:{index}; see whether nvidia-smi still does"
    return state


@cache
def load_nvml() -> tuple[Any, str]:
    """The library, initialised once; else None and why."""
    try:
        import pynvml
    except ImportError:
        return None, "nvidia-ml-py is not installed: pip install 'fourstage[gpu]'"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, f"NVML does not answer: {error}"
    return pynvml, ""


@cache
def nvml_handle(index: int) -> tuple[Any, str]:
    """NVML's handle of torch's cuda:index; else None and why. Of a MIG slice it is its GPU's."""
    import torch

    nvml, reason = load_nvml()
    if nvml is None:
        return None, reason
    if index >= torch.cuda.device_count():
        return None, f"torch sees no cuda:{index}"
    names = _uuids(index)
    error: Exception | None = None
    for name in names:
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(name)
            return ask_nvml(nvml, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle) or handle, ""
        except nvml.NVMLError as raised:
            error = raised
    return None, f"NVML does not know cuda:{index} as {' or '.join(names)}: {error}"


def _uuids(index: int) -> tuple[str, ...]:
    """Names by which NVML may know torch's cuda:index.

    A UUID is the one name that CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER leave as it is: NVML counts all
    GPUs in the order of their bus, CUDA the visible ones, fastest first.
    """
    import torch

    uuid = str(torch.cuda.get_device_properties(index).uuid).removeprefix("GPU-").removeprefix("MIG-")
    return f"GPU-{uuid}", f"MIG-{uuid}"


def ask_nvml(nvml: Any, function: str, *arguments: Any) -> Any:
    """The answer of one NVML function; None where this GPU, driver or binding has none."""
    if not hasattr(nvml, function):
        return None
    try:
        return getattr(nvml, function)(*arguments)
    except nvml.NVMLError:
        return None


def _throttle_reasons(bits: int) -> tuple[str, ...]:
    return tuple(THROTTLE_REASONS.get(1 << bit, hex(1 << bit)) for bit in range(bits.bit_length()) if bits >> bit & 1)
