"""The clock, and the loop over samples: what is timed, what is not, what goes on the record.

One monotonic clock is read at the borders of the stages, each time after the device has finished; a pair of
readings of another clock takes the sample end to end, so that the books can be closed. Nothing else happens
between the first and the last reading: no logging, no printing, no counting of memory.

    for record in measure(pipeline, plan, sampling, Timing(device), batch_size=1):
        ...                                             # outside the timed region
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from fourstage.stages import (
    STAGES,
    Generation,
    MeasurementError,
    Media,
    Pipeline,
    Sample,
    SampleRecord,
    Sampling,
)

WARMUP_TOKENS = 16  # enough to pass through every kind of step; the rest would only take longer


class Device(Protocol):
    """What a measurement needs of the device."""

    def synchronise(self) -> None: ...

    def seed(self, seed: int) -> None: ...

    def reset_peak_memory(self) -> None: ...

    def peak_memory_bytes(self) -> int | None: ...


@dataclass(frozen=True)
class Planned:
    """One measurement to be made: a sample, the question asked of it, its place and its seed."""

    sample: Sample
    question: str
    position: int  # in the run, from 0
    repeat: int
    seed: int


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
        self.current = name
        start = self.stage_at[name] = self.now()
        yield
        self.stage_s[name] = self.now() - start

    def tick(self) -> None:
        self.token_at.append(self.now())

    def share(self, stage: str, samples: int) -> float | None:
        """Seconds of a stage for each of the batch's samples; None where it was not reached."""
        return self.stage_s[stage] / samples if stage in self.stage_s else None

    def now(self) -> float:
        self.device.synchronise()
        return self.clock()


@dataclass(frozen=True)
class Timing:
    """The device and the clocks that a measurement reads; tests give their own."""

    device: Device
    clock: Callable[[], float] = time.perf_counter
    end_to_end_clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time

    def stopwatch(self) -> Stopwatch:
        return Stopwatch(self.device, self.clock)


def plan(samples: Sequence[Sample], questions: Sequence[str], repeats: int, seed: int) -> list[Planned]:
    """Every sample `repeats` times, round by round. A sample's seed depends on nothing but seed, key and repeat."""
    return [
        Planned(
            sample,
            question,
            position=i + repeat * len(samples),
            repeat=repeat,
            seed=sample_seed(seed, sample.key, repeat),
        )
        for repeat in range(repeats)
        for i, (sample, question) in enumerate(zip(samples, questions, strict=True))
    ]


def sample_seed(seed: int, key: str, repeat: int) -> int:
    """A seed of 63 bits: the same for the same sample in any order and in any subset of a dataset."""
    digest = hashlib.sha256(f"{seed}:{key}:{repeat}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def warm_up(
    pipeline: Pipeline, planned: Sequence[Planned], sampling: Sampling, timing: Timing, batch_size: int, rounds: int
) -> int:
    """Run the first batches without recording them, `rounds` times; gives how many ran through.

    A faulty sample is passed over here: its fault goes on the record when it is measured.
    """
    short = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, WARMUP_TOKENS))
    done = 0
    for batch in _batches(planned, batch_size):
        while done < rounds:
            if not all(record.ok for record in measure_batch(pipeline, batch, short, timing)):
                break
            done += 1
    return done


def measure(
    pipeline: Pipeline, planned: Sequence[Planned], sampling: Sampling, timing: Timing, batch_size: int = 1
) -> Iterator[SampleRecord]:
    """A record of each planned measurement, in order. A sample's fault is on its record, and the rest goes on."""
    for batch in _batches(planned, batch_size):
        yield from measure_batch(pipeline, batch, sampling, timing)


def measure_batch(
    pipeline: Pipeline, batch: Sequence[Planned], sampling: Sampling, timing: Timing
) -> list[SampleRecord]:
    """The records of samples that go through the stages together.

    Where a batch fails, the samples that fail by themselves are put on record and the others are measured
    as a smaller batch.
    """
    device, watch = timing.device, timing.stopwatch()
    started = timing.wall_clock()
    vision_calls = pipeline.vision_calls
    device.seed(batch[0].seed)
    device.reset_peak_memory()
    media: list[Media] = []
    try:
        device.synchronise()
        begin = timing.end_to_end_clock()
        with watch.stage("load"):
            for item in batch:
                media.append(pipeline.load(item.sample))
        with watch.stage("preprocess"):
            inputs = pipeline.preprocess(media, [item.question for item in batch])
        with watch.stage("encode"):
            features = pipeline.encode(inputs)
        with watch.stage("decode"):
            generation = pipeline.decode(inputs, features, sampling, watch.tick)
        device.synchronise()
        end_to_end = timing.end_to_end_clock() - begin
    except MeasurementError:
        raise
    except Exception as error:  # whatever a stage raises belongs to the sample, and is told on its record
        failed = [_failure(item, watch, started, error, len(batch)) for item in batch]
        return failed if len(batch) == 1 else _apart(pipeline, batch, sampling, timing, failed)
    shared = _Batch(watch, end_to_end, started, pipeline.vision_calls - vision_calls, device.peak_memory_bytes())
    return [
        _record(item, i, len(batch), media[i], inputs.prompts[i], generation, shared) for i, item in enumerate(batch)
    ]


@dataclass(frozen=True)
class _Batch:
    """What the samples of a batch have in common."""

    watch: Stopwatch
    end_to_end_s: float
    started_unix_s: float
    vision_calls: int
    peak_memory_bytes: int | None


def _record(
    item: Planned, i: int, size: int, media: Media, prompt: str, generation: Generation, batch: _Batch
) -> SampleRecord:
    """The record of sample `i` of a batch of `size`: a share of each stage, and what this sample waited."""
    watch = batch.watch
    steps = [later - earlier for earlier, later in zip(watch.token_at, watch.token_at[1:], strict=False)]
    tokens = len(generation.token_ids[i])
    return SampleRecord(
        key=item.sample.key,
        sample_id=item.sample.id,
        position=item.position,
        repeat=item.repeat,
        batch_size=size,
        seed=item.seed,
        started_unix_s=batch.started_unix_s,
        source=media.source,
        images=len(media.images),
        clip_length=media.clip_length,
        bytes_read=media.bytes_read,
        notes=media.notes,
        load_s=watch.share("load", size),
        preprocess_s=watch.share("preprocess", size),
        encode_s=watch.share("encode", size),
        decode_s=watch.share("decode", size),
        total_s=sum(watch.stage_s[stage] for stage in STAGES) / size,
        end_to_end_s=batch.end_to_end_s / size,
        prefill_s=watch.token_at[0] - watch.stage_at["decode"],
        ttft_s=watch.token_at[0] - watch.stage_at["load"],
        token_s=tuple(steps if size == 1 else steps[: max(0, tokens - 1)]),
        text_tokens=generation.text_tokens[i],
        visual_tokens=generation.visual_tokens[i],
        output_tokens=tokens,
        finish_reason=generation.finish_reasons[i],
        vision_calls=batch.vision_calls,
        peak_memory_bytes=batch.peak_memory_bytes,
        prompt=prompt,
        output=generation.texts[i],
        output_ids=generation.token_ids[i],
        reference=item.sample.reference,
    )


def _failure(item: Planned, watch: Stopwatch, started: float, error: Exception, size: int) -> SampleRecord:
    """The record of a sample that failed: the stages it passed, where it fell and why."""
    message = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return SampleRecord(
        key=item.sample.key,
        sample_id=item.sample.id,
        position=item.position,
        repeat=item.repeat,
        batch_size=size,
        seed=item.seed,
        started_unix_s=started,
        load_s=watch.share("load", size),
        preprocess_s=watch.share("preprocess", size),
        encode_s=watch.share("encode", size),
        decode_s=watch.share("decode", size),
        reference=item.sample.reference,
        error=message,
        error_stage=watch.current,
    )


def _apart(
    pipeline: Pipeline, batch: Sequence[Planned], sampling: Sampling, timing: Timing, failed: list[SampleRecord]
) -> list[SampleRecord]:
    """Find which samples of a failed batch cannot be read or prepared alone; measure the others together."""
    faulty: dict[int, SampleRecord] = {}
    for item in batch:
        watch = timing.stopwatch()
        try:
            with watch.stage("load"):
                media = pipeline.load(item.sample)
            with watch.stage("preprocess"):
                pipeline.preprocess([media], [item.question])
        except Exception as error:
            faulty[item.position] = _failure(item, watch, timing.wall_clock(), error, 1)
    healthy = [item for item in batch if item.position not in faulty]
    if not faulty:  # the fault is the batch's own, such as its size
        return failed
    measured = measure_batch(pipeline, healthy, sampling, timing) if healthy else []
    return sorted([*faulty.values(), *measured], key=lambda record: record.position)


def _batches(planned: Sequence[Planned], size: int) -> Iterator[Sequence[Planned]]:
    """Consecutive items, `size` at a time, never over the border of a repeat."""
    start = 0
    while start < len(planned):
        batch = [item for item in planned[start : start + size] if item.repeat == planned[start].repeat]
        yield batch
        start += len(batch)
