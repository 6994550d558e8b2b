"""The device that torch computes on: which one, in which precision, its borders, its seed, its memory.

timing = Timing(TorchDevice(choose_device("auto")))
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import torch

from fourstage.models.building import dtype_of
from fourstage.stages import UserError


class TorchDevice:
    """A CPU, a CUDA GPU or Apple's MPS."""

    def __init__(self, name: str):
        self.device = torch.device(name)
        self._cuda = self.device.type == "cuda"
        self._peak_known = False
        self._status, self._clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def synchronise(self) -> None:
        """Wait until everything that was asked of the device is done."""
        if self._cuda:
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def seed(self, seed: int) -> None:
        """Seed torch's generators, the GPU's too."""
        torch.manual_seed(seed)

    def reset_peak_memory(self) -> None:
        """Begin a new peak: torch's allocator on a GPU, the process's resident set on a Linux CPU."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            try:
                self._clear.write_text("5")  # proc(5): resets the peak of the resident set, and nothing else
                self._peak_known = True
            except OSError:  # not Linux, or a container that forbids it: then no peak is recorded
                self._peak_known = False

    def peak_memory_bytes(self) -> int | None:
        """Bytes at the highest since the reset; None where the system cannot tell."""
        if self._cuda:
            return int(torch.cuda.max_memory_allocated(self.device))
        if not self._peak_known:
            return None
        lines = self._status.read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def choose_device(device: str) -> str:
    """`auto`: the first GPU where there is one, else the CPU. Raises UserError for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        found = torch.cuda.device_count()
        index = int(device.partition(":")[2] or 0)
        if index >= found:
            raise UserError(f"device={device}: {found} CUDA devices found; set device=cpu, or device=auto to choose")
    return device


def use_threads(threads: int | None, device: str) -> None:
    """Let torch compute with so many threads. None: OMP_NUM_THREADS where it is set, else on a CPU one less than the
    usable cores, at least one.

    A stage waits for the slowest of its threads. With a thread on each core, whatever else runs delays one of them,
    and so all; one free core takes that work (docs/performance.md).
    """
    own = _own_threads()
    if threads is None and choose_device(device) == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, min(own, _usable_cores() - 1))
    torch.set_num_threads(threads or own)


@cache
def _own_threads() -> int:
    """As torch chose at its start."""
    return torch.get_num_threads()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_precision(precision: str, device: str) -> None:
    """Raise UserError where `device` cannot compute in `precision`, before anything is loaded."""
    if (
        precision == "bf16"
        and device.startswith("cuda")
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise UserError(f"precision=bf16: {torch.cuda.get_device_name(device)} has no bfloat16; use precision=fp16")
    dtype = dtype_of(precision)
    try:
        probe = torch.ones(8, 8, dtype=dtype, device=device)
        torch.nn.functional.layer_norm(probe @ probe, (8,))
        torch.nn.functional.scaled_dot_product_attention(probe[None], probe[None], probe[None])
    except RuntimeError as error:
        raise UserError(
            f"precision={precision}: {device} cannot compute in it ({error}); use precision=fp32"
        ) from error
