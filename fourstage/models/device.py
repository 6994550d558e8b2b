"""The device that torch computes on, as `loop.py` needs it: its borders, its seed, its memory.

timing = Timing(TorchDevice("cuda"))
"""

from __future__ import annotations

from pathlib import Path

import torch


class TorchDevice:
    """A CPU, a CUDA GPU or Apple's MPS; `beside_bytes` of a GPU's memory belong to other models."""

    def __init__(self, name: str, beside_bytes: int = 0):
        self.device = torch.device(name)
        self.beside_bytes = beside_bytes
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
        torch.manual_seed(seed)

    def reset_peak_memory(self) -> None:
        """Begin a new peak: torch's allocator on a GPU, the process's resident set on a Linux CPU."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            try:
                self._clear.write_text("5")  # proc(5): resets the peak of the resident set, and nothing else
                self._peak_known = True
            except OSError:  # not Linux, or a container that forbids it: then no peak is told
                self._peak_known = False

    def peak_memory_bytes(self) -> int | None:
        """Bytes at the highest since the reset; None where the system cannot tell."""
        if self._cuda:
            return int(torch.cuda.max_memory_allocated(self.device)) - self.beside_bytes
        if not self._peak_known:
            return None
        lines = self._status.read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
