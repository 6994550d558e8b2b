"""A pipeline with planted costs on a clock that only they move: timing tests are exact and instant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourstage.measure import Timing
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
    """Four stages that cost what they are told to; decode costs `prefill` and then `token` for each one after."""

    clock: FakeClock
    device: FakeDevice
    load_s: float = 0.010
    preprocess_s: float = 0.020
    encode_s: float = 0.040
    prefill_s: float = 0.080
    token_s: float = 0.005
    tokens: int = 11
    faulty: dict[str, str] = field(default_factory=dict)  # key → stage
    vision_calls: int = 0
    seen: list[str] = field(default_factory=list)

    def load(self, sample: Sample) -> Media:
        self.seen.append(sample.key)
        self.clock.sleep(self.load_s)
        if self.faulty.get(sample.key) == "load":
            raise SampleError(f"{sample.key} is not there")
        return Media((sample.key,), "png", (0,), 1, 10)  # type: ignore[arg-type]

    def preprocess(self, media: Sequence[Media], questions: Sequence[str]) -> Inputs:
        self.clock.sleep(self.preprocess_s)
        keys: Any = tuple(item.images[0] for item in media)
        return Inputs(None, (1,) * len(media), keys, tuple(questions))  # type: ignore[arg-type]

    def encode(self, inputs: Inputs) -> Features:
        self.vision_calls += 1
        self.device.queued_s += self.encode_s  # as a GPU does: the call returns before the work is done
        self._fall("encode", inputs)
        return Features(inputs.input_ids)

    def decode(
        self, inputs: Inputs, features: Features, sampling: Sampling, on_token: Callable[[], None]
    ) -> Generation:
        tokens = min(self.tokens, sampling.max_new_tokens)
        for i in range(tokens):
            self.device.queued_s += self.token_s if i else self.prefill_s
            on_token()
        self._fall("decode", inputs)
        n = len(inputs.prompts)
        ids = tuple(range(tokens))
        return Generation((ids,) * n, ("text",) * n, ("stop",) * n, (3,) * n, (7,) * n)

    def _fall(self, stage: str, inputs: Inputs) -> None:
        for key in inputs.input_ids:
            if self.faulty.get(str(key)) == stage:
                raise RuntimeError(f"{stage} broke")


def fake(**costs: Any) -> tuple[FakePipeline, Timing]:
    clock = FakeClock()
    device = FakeDevice(clock)
    return FakePipeline(clock, device, **costs), Timing(device, clock, clock, lambda: 1_700_000_000.0)


def samples(n: int) -> list[Sample]:
    return [Sample(key=f"s{i}", id=f"id{i}", root=Path()) for i in range(n)]
