"""The clock of a measurement: what is read at the borders of the stages, each time after the device has finished.

watch = Timing(device).stopwatch()
with watch.stage("encode"):
    ...
watch.stage_s["encode"]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from fourstage.stages import (
    STAGES,
    Sample,
)


class Device(Protocol):
    """What a measurement needs of the device."""

    def synchronise(self) -> None:
        """Wait until all queued work is done."""

    def seed(self, seed: int) -> None:
        """Seed the random numbers of sampling."""

    def reset_peak_memory(self) -> None:
        """Begin a new peak."""

    def peak_memory_bytes(self) -> int | None:
        """The largest allocation since `reset_peak_memory`; None where the device does not count."""


class GpuReading(Protocol):
    """What is put on the record of a GPU after a sample (`machine.GpuState`)."""

    @property
    def sm_clock_mhz(self) -> int | None:
        """Clock of the multiprocessors, MHz."""

    @property
    def power_w(self) -> float | None:
        """Watts."""

    @property
    def temperature_c(self) -> int | None:
        """Degrees Celsius."""

    @property
    def throttle_reasons(self) -> tuple[str, ...] | None:
        """What holds the clocks down; None where the driver does not answer."""


@dataclass
class Stopwatch:
    """Seconds of each stage and of each token, for one batch."""

    device: Device
    clock: Callable[[], float]
    stage_s: dict[str, float] = field(default_factory=dict)
    token_at: list[float] = field(default_factory=list)
    stage_at: dict[str, float] = field(default_factory=dict)
    current: str = STAGES[0]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as this stage; a block that raises leaves no time."""
        self.current = name
        start = self.stage_at[name] = self.now()
        yield
        self.stage_s[name] = self.now() - start

    def tick(self, at: float | None = None, /) -> None:
        """Note the time of a token: now, or `at`, which a pipeline that does not wait for the device knows."""
        self.token_at.append(self.now() if at is None else at)

    def share(self, stage: str, samples: int) -> float | None:
        """Seconds of a stage for each of the batch's samples; None where it was not reached."""
        return self.stage_s[stage] / samples if stage in self.stage_s else None

    def now(self) -> float:
        """Seconds of the clock, after the device has finished."""
        self.device.synchronise()
        return self.clock()


@dataclass(frozen=True)
class Timing:
    """The device and the clocks that a measurement reads; tests give their own."""

    device: Device
    clock: Callable[[], float] = time.perf_counter
    end_to_end_clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    audit_clock_ns: Callable[[], int] = time.monotonic_ns  # with which an audit times the stages by themselves
    prepare_files: Callable[[Sample], float | None] = lambda _: None  # before a sample; share in the page cache
    read_gpu: Callable[[], GpuReading | None] = lambda: None  # after a sample
    on_error: Callable[[Exception], None] = lambda _: None  # called with what a stage raised, outside the timed region

    def stopwatch(self) -> Stopwatch:
        """A new stopwatch for one batch."""
        return Stopwatch(self.device, self.clock)
