"""The machine and the software that a run used.

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
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from fourstage import version as ours
from fourstage.measure.machine import ask_nvml, load_nvml, nvml_handle, nvml_reason

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


def environment(dataset_root: Path | None = None) -> dict[str, Any]:
    """Facts as plain values that JSON can hold; what cannot be read is null. Bytes, MHz and W are in the names."""
    import psutil
    import torch

    memory, swap, cpuinfo, nvml = psutil.virtual_memory(), psutil.swap_memory(), _cpuinfo(), load_nvml()[0]
    return {
        "fourstage": ours.__version__,
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
        "nvml": {"driver": ask_nvml(nvml, "nvmlSystemGetDriverVersion"), "reason": nvml_reason()},
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "torch_threads": torch.get_num_threads(),
        "torch_flags": _torch_flags(),
        "variables": {name: value for name in VARIABLES if (value := _variable(name)) is not None},
    }


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


def _gpu(index: int) -> dict[str, Any]:
    """Facts of one GPU that do not change during a run."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    nvml, handle = load_nvml()[0], nvml_handle(index)[0]

    def ask(function: str, *arguments: Any) -> Any:
        return None if handle is None else ask_nvml(nvml, function, handle, *arguments)

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
    cudnn: Any = torch.backends.cudnn  # its parts are attributes that torch sets as it is imported
    matmul = torch.backends.cuda.matmul
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
    root = ours.PACKAGE.parent
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
    resolved = path.resolve()
    mounts = [mount for mount in psutil.disk_partitions(all=True) if resolved.is_relative_to(mount.mountpoint)]
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
