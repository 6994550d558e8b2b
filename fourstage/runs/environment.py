"""The machine and the software that a run took place on, and the state of its GPU at one moment.

    environment(dataset_root)["packages"]["torch"]  # "2.13.0+cpu"
    gpu_state("cuda:0").throttle_reasons            # ("sw_power_cap",)
    nvml_reason("cuda:0")                           # why there is no state; None where there is one

Variables are named one by one, never by a pattern, so that no secret is recorded; nor is the home folder.
What cannot be read is null.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import fourstage

PACKAGES = ("torch", "torchvision", "transformers", "tokenizers", "numpy", "pillow", "av", "mlflow", "mlflow-skinny",
            "hydra-core", "omegaconf", "pyarrow", "safetensors", "triton", "sentencepiece", "huggingface-hub", "pandas",
            "psutil", "nvidia-ml-py", "accelerate", "bitsandbytes", "flash-attn", "xformers",
            "nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")  # fmt: skip
VARIABLES = ("OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY", "OMP_DYNAMIC",
             "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "KMP_BLOCKTIME",
             "MKL_NUM_THREADS", "MKL_DYNAMIC", "OPENBLAS_NUM_THREADS", "TOKENIZERS_PARALLELISM",
             "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING",
             "CUDA_DEVICE_MAX_CONNECTIONS", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE",
             "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF",
             "PYTORCH_NO_CUDA_MEMORY_CACHING", "PYTORCH_NVML_BASED_CUDA_CHECK", "TORCHINDUCTOR_CACHE_DIR",
             "HF_HUB_OFFLINE", "MALLOC_ARENA_MAX", "PYTHONHASHSEED")  # fmt: skip
DIFF_BYTES = 200_000

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
    """A GPU at one moment, all of it and not this process's share; None where this GPU does not tell.

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


def environment(dataset_root: Path | None = None) -> dict[str, Any]:
    """Facts as plain values that JSON can hold; what cannot be read is null. Bytes, MHz and W are in the names."""
    import psutil
    import torch

    memory, swap, cpuinfo, nvml = psutil.virtual_memory(), psutil.swap_memory(), _cpuinfo(), _nvml()[0]
    return {
        "fourstage": fourstage.__version__,
        "git": git_state(),
        "python": platform.python_version(),
        "python_executable": Path(sys.executable).name,  # its folder may be under the home folder
        "python_hash_seed": os.environ.get("PYTHONHASHSEED", "random") if sys.flags.hash_randomization else "0",
        "platform": platform.platform(),
        "host": platform.node(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "cpu": {
            "model": cpuinfo.get("model name") or platform.processor() or None,
            "cores": psutil.cpu_count(logical=False),
            "threads": psutil.cpu_count(),
            "usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "load": list(psutil.getloadavg()),
            "governor": _governor(),
            **_frequency(),
        },
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "swap_bytes": swap.total,
        "swap_used_bytes": swap.used,
        "limits": _limits(),
        "virtualisation": {
            "container": _container(),
            "hypervisor": "hypervisor" in cpuinfo["flags"].split() if "flags" in cpuinfo else None,
            "machine": _machine(),
        },
        "file_systems": {"dataset": _file_system(dataset_root), "working_folder": _file_system(Path())},
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())],
        "nvml": {"driver": _ask(nvml, "nvmlSystemGetDriverVersion"), "reason": nvml_reason()},
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "torch_threads": torch.get_num_threads(),
        "torch_flags": _torch_flags(),
        "variables": {name: value for name in VARIABLES if (value := _variable(name)) is not None},
    }


@dataclass(frozen=True)
class ProcessorTimes:
    """What the processors have done since the machine started, and this process of it."""

    at_s: float
    busy_s: float  # of all processors together
    own_s: float

    @classmethod
    def now(cls) -> ProcessorTimes:
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


def git_state() -> dict[str, Any]:
    """Commit of fourstage's own checkout, and whether it has changes; nulls for an installed wheel."""
    commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    if commit is None or status is None:
        return {"commit": None, "dirty": None}
    return {"commit": commit.decode().strip(), "dirty": bool(status.strip())}


def git_diff() -> str | None:
    """Changes of fourstage's own checkout against its commit, cut at 200 kB with a note.

    Untracked files are left out. None where nothing is changed, or where there is no checkout.
    """
    diff = _git("diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv")
    if not diff:
        return None
    text = diff[:DIFF_BYTES].decode(errors="replace")
    return text if len(diff) <= DIFF_BYTES else f"{text}\n[cut: {DIFF_BYTES} of {len(diff)} bytes]\n"


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
    nvml, reason = _nvml()
    if nvml is None:
        return reason
    index = wanted.index
    if index is None:
        index = torch.cuda.current_device() if torch.cuda.is_initialized() else 0
    handle, reason = _handle(index)
    if handle is None:
        return reason
    power = _ask(nvml, "nvmlDeviceGetPowerUsage", handle)  # mW
    reasons = _ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if reasons is None:  # drivers before 535 know it by its older name
        reasons = _ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    utilisation = _ask(nvml, "nvmlDeviceGetUtilizationRates", handle)
    memory = _ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    state = GpuState(
        sm_clock_mhz=_ask(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM),
        memory_clock_mhz=_ask(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM),
        power_w=None if power is None else power / 1000,
        temperature_c=_ask(nvml, "nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
        throttle_reasons=None if reasons is None else _throttle_reasons(reasons),
        utilisation_percent=None if utilisation is None else utilisation.gpu,
        memory_used_bytes=None if memory is None else memory.used,
    )
    if state == GpuState(None, None, None, None, None, None, None):
        return f"NVML answers no question about cuda:{index}; see whether nvidia-smi still does"
    return state


@cache
def _nvml() -> tuple[Any, str]:
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
def _handle(index: int) -> tuple[Any, str]:
    """NVML's handle of torch's cuda:index; else None and why. Of a MIG slice it is the whole GPU's."""
    import torch

    nvml, reason = _nvml()
    if nvml is None:
        return None, reason
    if index >= torch.cuda.device_count():
        return None, f"torch sees no cuda:{index}"
    names = _uuids(index)
    error: Exception | None = None
    for name in names:
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(name)
            return _ask(nvml, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle) or handle, ""
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


def _ask(nvml: Any, function: str, *arguments: Any) -> Any:
    """The answer of one NVML function; None where this GPU, driver or binding has none."""
    if not hasattr(nvml, function):
        return None
    try:
        return getattr(nvml, function)(*arguments)
    except nvml.NVMLError:
        return None


def _throttle_reasons(bits: int) -> tuple[str, ...]:
    return tuple(
        THROTTLE_REASONS.get(1 << place, hex(1 << place)) for place in range(bits.bit_length()) if bits >> place & 1
    )


def _gpu(index: int) -> dict[str, Any]:
    """Facts of one GPU that do not change during a run."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    nvml, handle = _nvml()[0], _handle(index)[0]

    def ask(function: str, *arguments: Any) -> Any:
        return None if handle is None else _ask(nvml, function, handle, *arguments)

    limit, persistence = ask("nvmlDeviceGetEnforcedPowerLimit"), ask("nvmlDeviceGetPersistenceMode")
    ecc, mig = ask("nvmlDeviceGetEccMode"), ask("nvmlDeviceGetMigMode")  # each [now, after the next reboot]
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "uuid": str(properties.uuid),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "power_limit_w": None if limit is None else limit / 1000,
        "max_sm_clock_mhz": None if handle is None else ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        "max_memory_clock_mhz": None if handle is None else ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM),
        "persistence": None if persistence is None else bool(persistence),
        "ecc": None if ecc is None else bool(ecc[0]),
        "mig": None if mig is None else bool(mig[0]),
    }


def _torch_flags() -> dict[str, Any]:
    """What decides how torch computes, and so both its speed and its last bits."""
    import torch

    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch refuses once fp32_precision of a backend was set; that one is recorded too
        precision = None
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return {
        "float32_matmul_precision": precision,
        "cuda_matmul_fp32_precision": matmul.fp32_precision,
        "cudnn_conv_fp32_precision": cudnn.conv.fp32_precision,
        "cuda_fp16_reduced_precision": matmul.allow_fp16_reduced_precision_reduction,
        "cuda_bf16_reduced_precision": matmul.allow_bf16_reduced_precision_reduction,
        "cudnn_attention": torch.backends.cuda.cudnn_sdp_enabled(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "deterministic_warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn_deterministic": cudnn.deterministic,
        "cudnn_benchmark": cudnn.benchmark,
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _git(*arguments: str) -> bytes | None:
    """What git says of fourstage's own checkout; None for an installed wheel, or where git cannot say."""
    root = Path(fourstage.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        # a look at the checkout must not write to its index, which another git may be using
        command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # no git on this machine, or not our repository
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _variable(name: str) -> str | None:
    """A variable's value, with the home folder as ~; a URL is withheld, since it may carry a password."""
    value = os.environ.get(name)
    if value is None or "://" in value:
        return None if value is None else "(a URL, withheld)"
    home = os.environ.get("HOME", "").rstrip("/")
    return value.replace(home, "~") if home else value


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none, as on macOS."""
    text = _text(Path("/proc/cpuinfo")) or ""
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _frequency() -> dict[str, float | None]:
    import psutil

    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError, RuntimeError):  # what psutil raises where the system does not tell
        frequency = None
    return {
        "current_mhz": frequency.current or None if frequency else None,
        "max_mhz": frequency.max or None if frequency else None,
    }


def _governor() -> str | None:
    """How the CPUs choose their clock, such as "performance"; None in most virtual machines."""
    files = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return ", ".join(sorted({text for file in files if (text := _text(file))})) or None


def _limits(
    mount: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> dict[str, int | float | None]:
    """What control groups allow this process: the tightest of its own group's limits and those above; null: none.

    Kernel documentation: admin-guide/cgroup-v2.rst; scheduler/sched-bwc.rst and cgroup-v1/memory.rst for v1.
    """
    groups: dict[str, str] = {}  # path by controller; "" is version 2
    for line in (_text(membership) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path)
    if (mount / "cgroup.controllers").is_file():
        version = 2
        times = [tuple(text.split()) for text in _upwards(mount, groups.get("", "/"), "cpu.max")]
        sizes = list(_upwards(mount, groups.get("", "/"), "memory.max"))
    else:
        version = 1
        cpu, memory = groups.get("cpu", "/"), groups.get("memory", "/")
        quotas, periods = (_upwards(mount / "cpu", cpu, f"cpu.cfs_{what}_us") for what in ("quota", "period"))
        times = list(zip(quotas, periods, strict=False))
        sizes = list(_upwards(mount / "memory", memory, "memory.limit_in_bytes"))
    cpus = [int(quota) / int(period) for quota, period in times if quota not in ("max", "-1")]
    # version 1 writes "no limit" as the largest number of whole pages
    memories = [int(size) for size in sizes if size != "max" and int(size) < 1 << 60]
    return {
        "cgroup_version": version if groups else None,
        "cpus": min(cpus, default=None),
        "memory_bytes": min(memories, default=None),
    }


def _upwards(mount: Path, group: str, name: str) -> Iterator[str]:
    """The texts of a file in a control group and in every group above it.

    In a container the group may be written as the host sees it; what is mounted there is then its own.
    """
    parts = PurePosixPath(group.lstrip("/")).parts
    for depth in range(0 if ".." in parts else len(parts), -1, -1):
        if text := _text(mount.joinpath(*parts[:depth], name)):
            yield text


def _container() -> str | None:
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    return _text(Path("/run/systemd/container"))


def _machine() -> str | None:
    """Maker and product, such as "Amazon EC2 p5.48xlarge"; no serial numbers."""
    texts = (_text(Path("/sys/class/dmi/id") / name) for name in ("sys_vendor", "product_name"))
    return " ".join(text for text in texts if text) or None


def _file_system(path: Path | None) -> dict[str, str | None] | None:
    """Type and device of the file system that holds `path`, such as ext4 on /dev/nvme0n1p1; None for no such path.

    The device of a network file system is withheld: it may carry a user's name or password.
    """
    import psutil

    if path is None or not path.exists():
        return None
    place = path.resolve()
    mounts = [mount for mount in psutil.disk_partitions(all=True) if place.is_relative_to(mount.mountpoint)]
    if not mounts:
        return None
    longest = max(len(mount.mountpoint) for mount in mounts)
    mount = [mount for mount in mounts if len(mount.mountpoint) == longest][-1]  # the last one hides those before it
    named = mount.device.startswith("/dev/") or mount.device.isalnum()
    return {"type": mount.fstype or None, "device": mount.device if named else None}


def _text(path: Path) -> str | None:
    """What a small file of the system says; None where there is none, or it is not for us to read."""
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
