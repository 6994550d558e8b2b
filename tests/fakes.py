"""A pipeline with planted costs on a clock that only they move: timing tests are exact and instant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fourstage.measure.clock import Timing
from fourstage.measure.plan import Planned, plan_round
from fourstage.stages import Features, Generation, Inputs, Media, Sample, SampleError, Sampling


class FakeClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@dataclass
class FakeDevice:
    """Remembers what was asked of it; work that was queued takes its time when the device is waited for."""

    clock: FakeClock
    queued_s: float = 0.0
    seeds: list[int] = field(default_factory=list)

    def synchronise(self) -> None:
        self.clock.sleep(self.queued_s)
        self.queued_s = 0.0

    def seed(self, seed: int) -> None:
        self.seeds.append(seed)

    def reset_peak_memory(self) -> None:
        pass

    def peak_memory_bytes(self) -> int | None:
        return 1024


@dataclass
class FakePipeline:
    """Four stages that cost what they are told to; decode costs `prefill` and then `token` for each one after.

    The rest plants the faults that real benchmarks had.
    """

    clock: FakeClock
    device: FakeDevice
    load_s: float = 0.010
    preprocess_s: float = 0.020
    encode_s: float = 0.040
    prefill_s: float = 0.080
    token_s: float = 0.005
    tokens: int = 11
    faulty: dict[str, str] = field(default_factory=dict)  # key → stage
    encodes_again: bool = False  # inside decode
    caches: bool = False  # features by their pixels
    counts_prompt: bool = False  # in the output tokens
    drift: float = 0.0  # growth of all costs a sample
    own_differs: bool = False  # generate() says something else
    gap_s: float = 0.0  # spent in no stage
    per_token_read_s: float = 0.0  # what being watched costs a token
    tokens_of: dict[str, int] = field(default_factory=dict)  # key → tokens
    vision_calls: int = 0
    seen: list[str] = field(default_factory=list)
    cache: set[bytes] = field(default_factory=set)

    def load(self, sample: Sample) -> Media:
        self.seen.append(sample.key)
        self._cost(self.load_s)
        if self.faulty.get(sample.key) == "load":
            raise SampleError(f"{sample.key} is not there")
        number = int(sample.key.lstrip("s") or 0)
        pixels = np.full((4, 4, 3), number % 256, dtype=np.uint8)
        return Media((pixels,), "png", (number,), 1, 10)

    def preprocess(self, media: Sequence[Media], questions: Sequence[str]) -> Inputs:
        self._cost(self.preprocess_s)
        keys: Any = tuple(f"s{item.indices[0]}" for item in media)
        pixels: Any = b"".join(item.images[0].tobytes() for item in media)
        return Inputs(pixels, (1,) * len(media), keys, tuple(questions))

    def encode(self, inputs: Inputs) -> Features:
        known: Any = inputs.pixel_values
        if not (self.caches and known in self.cache):
            self.vision_calls += 1
            self._queue(self.encode_s)  # as a GPU does: the call returns before the work is done
            self.cache.add(known)
        self._fall("encode", inputs)
        return Features(inputs.input_ids)

    def decode(
        self, inputs: Inputs, features: Features, sampling: Sampling, on_token: Callable[[], None]
    ) -> Generation:
        if self.encodes_again:
            self.vision_calls += 1
            self._queue(self.encode_s)
        key = str(inputs.input_ids[0])
        tokens = min(self.tokens_of.get(key, self.tokens), sampling.max_new_tokens)
        for i in range(tokens):
            self._queue(self.token_s if i else self.prefill_s)
            if on_token.__name__ == "tick":
                self._queue(self.per_token_read_s)
            on_token()
        self._fall("decode", inputs)
        n = len(inputs.prompts)
        ids = tuple(range(100, 100 + tokens))
        if self.counts_prompt:
            ids = (*range(60), *ids)
        return Generation((ids,) * n, ("text",) * n, ("stop",) * n, (3,) * n, (7,) * n)

    def unstaged(self, inputs: Inputs, sampling: Sampling) -> tuple[tuple[int, ...], ...]:
        generation = self.decode(inputs, self.encode(inputs), sampling, lambda: None)
        return ((0,),) if self.own_differs else generation.token_ids

    def _cost(self, seconds: float) -> None:
        self.clock.sleep(seconds * (1 + self.drift * len(self.seen)))

    def _queue(self, seconds: float) -> None:
        self.device.queued_s += seconds * (1 + self.drift * len(self.seen))

    def _fall(self, stage: str, inputs: Inputs) -> None:
        for key in inputs.input_ids:
            if self.faulty.get(str(key)) == stage:
                raise RuntimeError(f"{stage} broke")


def fake(**costs: Any) -> tuple[FakePipeline, Timing]:
    clock = FakeClock()
    device = FakeDevice(clock)
    pipeline = FakePipeline(clock, device, **costs)
    ends: list[None] = []

    def end_to_end() -> float:
        """A clock of its own; every second reading ends a sample, where a planted gap shows."""
        ends.append(None)
        return clock() + (pipeline.gap_s if len(ends) % 2 == 0 else 0.0)

    timing = Timing(device, clock, end_to_end, lambda: 1_700_000_000.0, lambda: round(clock() * 1e9))
    return pipeline, timing


def samples(n: int) -> list[Sample]:
    return [Sample(key=f"s{i}", id=f"id{i}", root=Path()) for i in range(n)]


def plan(
    samples: Sequence[Sample],
    questions: Sequence[str],
    repeats: int,
    seed: int,
    order: str = "as_is",
    sentinel: int = 0,
) -> list[Planned]:
    """Every sample `repeats` times, round by round."""
    planned: list[Planned] = []
    for repeat in range(repeats):
        planned += plan_round(samples, questions, repeat, seed, order, sentinel, start=len(planned))
    return planned
