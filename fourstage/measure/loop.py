"""The clock, and the loop over samples: what is timed, what is not, what goes on the record.

One monotonic clock is read at the borders of the stages, each time after the device has finished; a pair of
readings of another clock takes the sample end to end, so that the books can be closed. Nothing else happens
between the first and the last reading: no logging, no printing, no counting of memory.

    for record in measure(pipeline, plan, sampling, Timing(device), batch_size=1):
        ...                                             # outside the timed region
"""

from __future__ import annotations

import hashlib
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Protocol, TypeGuard

from fourstage.stages import (
    STAGES,
    Fill,
    Generation,
    MeasurementError,
    Media,
    Pipeline,
    Sample,
    SampleRecord,
    Sampling,
)

WARMUP_TOKENS = 16  # enough to pass through every kind of step; the rest would only take longer
STABLE_ROUNDS = 3


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
    role: str = "sample"
    round: int = 0  # of the sweep


class GpuReading(Protocol):
    """What is put on the record of a GPU after a sample (`environment.GpuState`)."""

    @property
    def sm_clock_mhz(self) -> int | None: ...

    @property
    def power_w(self) -> float | None: ...

    @property
    def temperature_c(self) -> int | None: ...

    @property
    def throttle_reasons(self) -> tuple[str, ...] | None: ...


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
    prepare_files: Callable[[Sample], float | None] = lambda _: None  # before a sample; share in the page cache
    read_gpu: Callable[[], GpuReading | None] = lambda: None  # after a sample
    tell: Callable[[Exception], None] = lambda _: None  # what a stage raised, outside of what is timed

    def stopwatch(self) -> Stopwatch:
        return Stopwatch(self.device, self.clock)


def plan(
    samples: Sequence[Sample],
    questions: Sequence[str],
    repeats: int,
    seed: int,
    order: str = "as_is",
    sentinel: int = 0,
) -> list[Planned]:
    """Every sample `repeats` times, round by round (see `plan_round`)."""
    planned: list[Planned] = []
    for repeat in range(repeats):
        planned += plan_round(samples, questions, repeat, seed, order, sentinel, start=len(planned))
    return planned


def plan_round(
    samples: Sequence[Sample],
    questions: Sequence[str],
    repeat: int,
    seed: int,
    order: str = "as_is",
    sentinel: int = 0,
    start: int = 0,
    of_sweep: int = 0,
) -> list[Planned]:
    """One round over all samples, from position `start`; after each `sentinel` of them the first one again.

    A sample's seed depends on nothing but seed, key and repeat, so that order and subset change no answer (a batch
    has one seed, its first sample's, which is on the record of each).
    `order="shuffled"` draws a new order each round from `seed`.
    """
    pairs = list(zip(samples, questions, strict=True))
    watched = pairs[0]
    if order == "shuffled":
        random.Random(f"{seed}:{repeat}").shuffle(pairs)
    planned: list[Planned] = []

    def add(pair: tuple[Sample, str], role: str) -> None:
        sample, question = pair
        seed_of_sample = sample_seed(seed, sample.key, repeat)
        planned.append(Planned(sample, question, start + len(planned), repeat, seed_of_sample, role, of_sweep))

    for number, pair in enumerate(pairs, start=1):
        add(pair, "sample")
        if sentinel and number % sentinel == 0:
            add(watched, "sentinel")
    return planned


def sample_seed(seed: int, key: str, repeat: int) -> int:
    """A seed of 63 bits: the same for the same sample in any order and in any subset of a dataset."""
    digest = hashlib.sha256(f"{seed}:{key}:{repeat}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class WarmUp:
    """What became of one shape's warm-up."""

    rounds: int
    stable: bool


def whole_batches(planned: Sequence[Planned], done: int, batch_size: int) -> int:
    """How many of the first `done` planned measurements are whole batches: a batch shares its time and its seed."""
    counted = 0
    for batch in _batches(planned, batch_size):
        if counted + len(batch) > done:
            break
        counted += len(batch)
    return counted


def warm_up(
    pipeline: Pipeline,
    planned: Sequence[Planned],
    sampling: Sampling,
    timing: Timing,
    batch_size: int,
    limit: int,
    tolerance: float = 0.1,
) -> dict[str, WarmUp]:
    """Run the first batch of each shape of input until its time is stable, `limit` rounds at most, off the record.

    Stable: the last three rounds lie within `tolerance` of their median. A faulty
    batch is passed over for the next of its shape: its fault goes on the record when it is measured.
    """
    short = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, WARMUP_TOKENS))
    done: dict[str, WarmUp] = {}
    for batch in _batches(planned, batch_size):
        shape = _shape(batch)
        if shape in done and done[shape].rounds:
            continue
        totals: list[float] = []
        while len(totals) < limit and not _stable(totals, tolerance):
            records = measure_batch(pipeline, batch, short, timing)
            if not all(record.ok for record in records):
                break
            totals.append(sum(record.end_to_end_s or 0.0 for record in records))
        done[shape] = WarmUp(len(totals), _stable(totals, tolerance))
    return done


def _shape(batch: Sequence[Planned]) -> str:
    """What a batch's tensors have in common with another's, as far as the dataset tells without reading files."""
    images = sorted(len(item.sample.event_image) for item in batch)
    return f"{len(batch)} samples, listed images {images}"


def _stable(totals: Sequence[float], tolerance: float) -> bool:
    if len(totals) < STABLE_ROUNDS:
        return False
    last = totals[-STABLE_ROUNDS:]
    return max(last) - min(last) <= tolerance * statistics.median(last)


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
    cached = [timing.prepare_files(item.sample) for item in batch]
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
    except BaseException as error:  # whatever a stage raises belongs to the sample, and is told on its record
        if not _is_fault(error):
            raise
        timing.tell(error)
        failed = [
            _failure(item, watch, started, error, len(batch), share, read)
            for item, share, read in zip(batch, cached, [*media, *[None] * (len(batch) - len(media))], strict=True)
        ]
        return failed if len(batch) == 1 else _apart(pipeline, batch, sampling, timing, failed)
    shared = _Batch(
        watch,
        end_to_end,
        started,
        pipeline.vision_calls - vision_calls,
        device.peak_memory_bytes(),
        timing.read_gpu(),
        batch[0].seed,
    )
    return [
        _record(item, i, len(batch), media[i], inputs.prompts[i], generation, shared, cached[i])
        for i, item in enumerate(batch)
    ]


@dataclass(frozen=True)
class _Batch:
    """What the samples of a batch have in common."""

    watch: Stopwatch
    end_to_end_s: float
    started_unix_s: float
    vision_calls: int
    peak_memory_bytes: int | None
    gpu: GpuReading | None
    seed: int  # of the whole batch: its first sample's


def _record(
    item: Planned,
    i: int,
    size: int,
    media: Media,
    prompt: str,
    generation: Generation,
    batch: _Batch,
    cached_share: float | None,
) -> SampleRecord:
    """The record of sample `i` of a batch of `size`: a share of each stage, and what this sample waited."""
    watch = batch.watch
    steps = [later - earlier for earlier, later in zip(watch.token_at, watch.token_at[1:], strict=False)]
    tokens = len(generation.token_ids[i])
    return replace(
        _begun(item, watch, batch.started_unix_s, size, batch.seed, cached_share, media.fill),
        source=media.source,
        images=len(media.images),
        image_indices=media.indices,
        clip_length=media.clip_length,
        bytes_read=media.bytes_read,
        notes=(*item.sample.notes, *media.notes),
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
        gpu_clock_mhz=batch.gpu.sm_clock_mhz if batch.gpu else None,
        gpu_power_w=batch.gpu.power_w if batch.gpu else None,
        gpu_temperature_c=batch.gpu.temperature_c if batch.gpu else None,
        gpu_throttle=_held_down(batch.gpu),
        prompt=prompt,
        output=generation.texts[i],
        output_ids=generation.token_ids[i],
    )


def _begun(
    item: Planned,
    watch: Stopwatch,
    started: float,
    size: int,
    seed: int,
    cached_share: float | None,
    fill: Fill | None,
) -> SampleRecord:
    """What every record has, whatever became of the sample: who it is, and a share of each stage that was passed."""
    return SampleRecord(
        key=item.sample.key,
        sample_id=item.sample.id,
        position=item.position,
        repeat=item.repeat,
        round=item.round,
        role=item.role,
        batch_size=size,
        seed=seed,
        started_unix_s=started,
        cached_share=fill.cached_share if fill else cached_share,
        cached_stages=fill.stages if fill else (),
        cache_fill_s=fill.seconds if fill else None,
        load_s=watch.share("load", size),
        preprocess_s=watch.share("preprocess", size),
        encode_s=watch.share("encode", size),
        decode_s=watch.share("decode", size),
        question=item.question,
        reference=item.sample.reference,
        notes=item.sample.notes,
    )


def _held_down(gpu: GpuReading | None) -> tuple[str, ...]:
    """Why the GPU's clocks are below what they could be; having nothing to do is no such reason."""
    reasons = gpu.throttle_reasons if gpu else None
    return tuple(reason for reason in reasons or () if reason != "gpu_idle")


def _failure(
    item: Planned,
    watch: Stopwatch,
    started: float,
    error: Exception,
    size: int,
    cached_share: float | None,
    media: Media | None,
) -> SampleRecord:
    """The record of a sample that failed: the stages it passed, where it fell and why."""
    message = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return replace(
        _begun(item, watch, started, size, item.seed, cached_share, media.fill if media else None),
        error=message,
        error_stage=watch.current,
    )


def _is_fault(error: BaseException) -> TypeGuard[Exception]:
    """Whether a stage failed, and nobody stopped it; a panic of a library in Rust is no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _apart(
    pipeline: Pipeline, batch: Sequence[Planned], sampling: Sampling, timing: Timing, failed: list[SampleRecord]
) -> list[SampleRecord]:
    """Find which samples of a failed batch cannot be read or prepared alone; measure the others together."""
    faulty: dict[int, SampleRecord] = {}
    for item in batch:
        watch = timing.stopwatch()
        media: Media | None = None
        try:
            with watch.stage("load"):
                media = pipeline.load(item.sample)
            with watch.stage("preprocess"):
                pipeline.preprocess([media], [item.question])
        except BaseException as error:
            if not _is_fault(error):
                raise
            faulty[item.position] = _failure(item, watch, timing.wall_clock(), error, 1, None, media)
    healthy = [item for item in batch if item.position not in faulty]
    if not faulty:  # the fault is the batch's own, such as its size
        return failed
    measured = measure_batch(pipeline, healthy, sampling, timing) if healthy else []
    return sorted([*faulty.values(), *measured], key=lambda record: record.position)


def _batches(planned: Sequence[Planned], size: int) -> Iterator[Sequence[Planned]]:
    """Consecutive items, `size` at a time, never over the border of a round, and a sentinel always alone."""
    start = 0
    while start < len(planned):
        kind = (planned[start].repeat, planned[start].role)
        batch = list(takewhile(lambda item: (item.repeat, item.role) == kind, planned[start : start + size]))  # noqa: B023
        yield batch
        start += len(batch)
