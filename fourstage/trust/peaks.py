"""What a device reaches at its best: bytes and operations per second, measured once and kept in a cache file.

    peaks = device_peaks("cuda")                   # a few seconds the first time
    peaks.bandwidth_bytes_per_s                    # 3.0e12 on an H100
    peaks.flops_per_s["bf16"]

These are ceilings to hold times against (`roofline.py`), so each is the best of what was tried, and the
machine should be idle: what is measured beside other work is too low, and a run after it seems too fast. Left out:
several devices at once, and what a data sheet promises.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from fourstage.models.building import DTYPES, dtype_of
from fourstage.models.device import TorchDevice
from fourstage.trust.roofline import Peaks

SMALLEST_BYTES = 256 << 10
LARGEST_BYTES = {"cuda": 4 << 30}  # far larger than any cache of the device
LARGEST_BYTES_ELSEWHERE = 1 << 30
SMALLEST_SIDE = 128  # of a square matrix; where a dtype is emulated this is all that the time allows
LARGEST_SIDE = {"cuda": 8192}
LARGEST_SIDE_ELSEWHERE = 4096
FREE_SHARE = 8  # at most one eighth of the memory that is free is used
BLOCK_S = 0.002  # calls are timed together until they last this long: a launch or a clock reading is then small


def device_peaks(device: str, cache: Path | None = None, again: bool = False) -> Peaks:
    """The peaks of a device: from `cache`, or measured and written there.

    With `again` they are measured in any case, and the higher of old and new hold from then on.

    An entry belongs to the device's name, torch's version, its number of threads and its precision of fp32
    products. `cache` is $XDG_CACHE_HOME/fourstage/peaks.json unless given (~/.cache where the variable is not
    set). A file that cannot be read is written anew; one that cannot be written means measuring again next time.
    """
    path = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fourstage" / "peaks.json"
    precision = torch.get_float32_matmul_precision()
    key = f"{device_name(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads, fp32 {precision}"
    known = _read(path).get(key)
    if known and not again:
        return known
    peaks = measure_peaks(device)
    if known:
        peaks = higher(known, peaks)
    with suppress(OSError):
        _write(path, _read(path) | {key: peaks})
    return peaks


def measure_peaks(device: str, seconds_limit: float = 2.0, clock: Callable[[], float] = time.perf_counter) -> Peaks:
    """Peaks of a device, as measured now in about `seconds_limit` seconds. Random numbers of the run are not drawn.

    Bandwidth, bytes per second: the faster of a copy within the device (bytes read plus bytes written) and a sum
    (bytes read, which is what decoding mostly does), on buffers from 256 KiB to far beyond the caches. A small model
    can live in a cache and be read faster than memory, so each size has its own peak; a size's peak is at least
    that of every larger one.

    Throughput, operations per second (2 n³ a product): x @ w.T of square random matrices, as a linear layer
    computes it, sides doubling while time and memory allow. bf16 and fp16 count at least what fp32 reaches: where a
    CPU only emulates them, a model that converts its weights would otherwise seem impossibly fast. A dtype that the
    device refuses is absent. fp32 is measured as torch is set (`torch.get_float32_matmul_precision()`: "highest"
    is IEEE fp32, else TF32 may be used on a GPU), and `fp32_precision` says which.
    """
    kind = torch.device(device).type
    bench = _Bench(device, clock)
    bandwidths = _bandwidths(bench, _free_bytes(device) // FREE_SHARE, seconds_limit / 2)
    flops_per_s: dict[str, float] = {}
    for name in DTYPES:
        budget_s = seconds_limit / 2 * (0.5 if name == "fp32" else 0.25)
        with suppress(RuntimeError, TypeError):  # a device without this dtype
            flops_per_s[name] = _throughput(bench, dtype_of(name), budget_s)
    fp32 = flops_per_s["fp32"]
    if kind == "cuda":
        torch.cuda.empty_cache()  # the run's own peak of memory begins without these buffers
    return Peaks(
        device=device_name(device),
        bandwidths=bandwidths,
        flops_per_s={name: max(rate, fp32) for name, rate in flops_per_s.items()},
        fp32_precision=torch.get_float32_matmul_precision(),
        measured_unix_s=time.time(),
    )


def higher(one: Peaks, other: Peaks) -> Peaks:
    """Of each peak the higher; both are of one device, `other` is the later."""
    sizes = sorted({size for size, _ in (*one.bandwidths, *other.bandwidths)})
    return replace(
        other,
        bandwidths=tuple((size, max(one.bandwidth_at(size), other.bandwidth_at(size))) for size in sizes),
        flops_per_s={
            name: max(one.flops_per_s.get(name, 0.0), other.flops_per_s.get(name, 0.0))
            for name in {**one.flops_per_s, **other.flops_per_s}
        },
    )


def device_name(device: str) -> str:
    """The hardware's name: the GPU's, or the processor's."""
    kind = torch.device(device).type
    if kind == "cuda":
        return str(torch.cuda.get_device_name(device))
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    processor = next(models, None) or platform.processor() or platform.machine()
    return processor if kind == "cpu" else f"{processor} {kind}"


@dataclass(frozen=True)
class _Bench:
    """Times calls on one device."""

    device: str
    clock: Callable[[], float]

    @property
    def kind(self) -> str:
        return str(torch.device(self.device).type)

    def best_s(self, call: Callable[[], Any], budget_s: float) -> float:
        """Seconds of a call, the best of as many as the budget allows, at least one after a first."""
        call()  # chooses kernels and touches pages
        best, end = math.inf, self.clock() + budget_s
        while True:
            calls = max(1, min(1000, int(BLOCK_S / best)))
            best = min(best, max(self._seconds(call, calls), 1e-9) / calls)
            if self.clock() + best > end:
                return best

    def _seconds(self, call: Callable[[], Any], calls: int) -> float:
        device = TorchDevice(self.device)
        device.synchronise()
        start = self.clock()
        for _ in range(calls):
            call()
        device.synchronise()
        return self.clock() - start


def _bandwidths(bench: _Bench, limit_bytes: int, budget_s: float) -> tuple[tuple[int, float], ...]:
    """(bytes, bytes per second), ascending in bytes."""
    largest = min(limit_bytes, LARGEST_BYTES.get(bench.kind, LARGEST_BYTES_ELSEWHERE))
    sizes = [SMALLEST_BYTES]
    while sizes[-1] * 4 <= largest:
        sizes.append(sizes[-1] * 4)
    buffer = torch.ones(sizes[-1] // 4, dtype=torch.float32, device=bench.device)
    found: list[tuple[int, float]] = []
    rate = 0.0
    for size in reversed(sizes):
        part = buffer[: size // 4]
        source, target = part.chunk(2)
        each_s = budget_s / len(sizes) / 2
        seconds = min(bench.best_s(partial(target.copy_, source), each_s), bench.best_s(part.sum, each_s))
        rate = max(rate, size / seconds)
        found.append((size, rate))
    return tuple(reversed(found))


def _throughput(bench: _Bench, dtype: torch.dtype, budget_s: float) -> float:
    """Operations per second of the best square product. Raises RuntimeError where the device has none in `dtype`."""
    generator = torch.Generator(device=bench.device).manual_seed(0)
    bench.best_s(partial(torch.mm, *torch.ones(2, 8, 8, dtype=dtype, device=bench.device)), 0)  # loads the library
    end = bench.clock() + budget_s
    best, side = 0.0, SMALLEST_SIDE
    while True:
        x, w = (torch.randn(side, side, generator=generator, device=bench.device).to(dtype) for _ in range(2))
        seconds = bench.best_s(partial(torch.mm, x, w.T), (end - bench.clock()) / 4)
        best = max(best, 2 * side**3 / seconds)
        side *= 2
        needed = 4 * 4 * side**2  # operands in fp32 and their copies, at most
        if (
            side > LARGEST_SIDE.get(bench.kind, LARGEST_SIDE_ELSEWHERE)
            or needed > _free_bytes(bench.device) // FREE_SHARE
            or bench.clock() + 4 * seconds > end  # eight times the operations in less: small ones wait more for threads
        ):
            return best


def _free_bytes(device: str) -> int:
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _read(path: Path) -> dict[str, Peaks]:
    """What the cache holds; nothing where it is absent, damaged or of another version."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {
            key: Peaks(**entry | {"bandwidths": tuple((int(size), float(rate)) for size, rate in entry["bandwidths"])})
            for key, entry in entries.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _write(path: Path, entries: dict[str, Peaks]) -> None:
    """Replace the file as a whole, so that no other process reads half of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f"{path.name}.{os.getpid()}")
    written.write_text(json.dumps({key: asdict(peaks) for key, peaks in entries.items()}, indent=1), encoding="utf-8")
    written.replace(path)
