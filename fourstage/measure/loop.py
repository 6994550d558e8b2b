"""The loop over samples: what is timed, what is not, what goes on the record.

One monotonic clock is read at the borders of the stages, each time after the device has finished; a pair of
readings of another clock takes the sample end to end, so that time outside the stages is seen. Nothing else happens
between the first and the last reading: no logging, no printing, no counting of memory.

    for record in measure(pipeline, plan, sampling, Timing(device), batch_size=1):
        ...                                             # outside the timed region
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from fourstage.measure.clock import GpuReading, Stopwatch, Timing
from fourstage.measure.plan import Planned, batches
from fourstage.stages import (
    STAGES,
    Fill,
    Generation,
    MeasurementError,
    Media,
    Pipeline,
    SampleRecord,
    Sampling,
)

MOST_ATTRIBUTES = 10_000  # characters of JSON that go on a record


def measure(
    pipeline: Pipeline, planned: Sequence[Planned], sampling: Sampling, timing: Timing, batch_size: int = 1
) -> Iterator[SampleRecord]:
    """A record of each planned measurement, in order. A sample's error is on its record; the others are measured."""
    for batch in batches(planned, batch_size):
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
    except BaseException as error:  # whatever a stage raises belongs to the sample, and goes on its record
        if not _is_fault(error):
            raise
        timing.on_error(error)
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
        notes=(*item.sample.notes, *media.all_notes()),
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
        attributes=_attributes(item.sample.extra.get("attributes")),
        options=item.sample.options,
        answer=item.sample.answer,
        notes=item.sample.notes,
    )


def _attributes(found: object) -> str:
    """An entry's attributes as JSON, those that are short; they are scored after the measurement."""
    text = json.dumps(found) if isinstance(found, dict) else ""
    return text if len(text) <= MOST_ATTRIBUTES else ""


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
    """Whether a stage failed, and was not interrupted; a panic of a library in Rust is no Exception."""
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
