"""Measurements that are made to question the others, after a run, on its first samples.

    audits = run_audits(pipeline, planned, sampling, timing)
    audits.equal_samples == audits.compared_samples       # staged ids are the model's own

Four questions: do the stages compute what the model's own `generate()` computes; does a repeated sample cost
what a fresh one costs (nothing is cached between samples); does reading the clock slow the sample down; does each
stage take as long by another clock. The timed ones repeat pairs until the ratios' signs tell, within a bound; a
machine that is too busy leaves them open. Leaves out the times of the records themselves: the machine was another then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import numpy as np

from fourstage.measure.clock import Timing
from fourstage.measure.loop import measure_batch
from fourstage.measure.plan import Planned
from fourstage.models.base import first_difference
from fourstage.stages import STAGES, MeasurementError, Media, Pipeline, Sample, SampleRecord, Sampling
from fourstage.stats.intervals import Interval, paired_interval
from fourstage.stats.signs import Side, sign_interval, tell
from fourstage.trust.anew import Again
from fourstage.trust.finite import Finite, examine, suspicious
from fourstage.trust.operations import Operations

Found = TypeVar("Found")
TOKENS = 16  # of an audited answer: every kind of step is in it
REPEATED_TOKENS = 8  # enough to see a stage that is not done again
CACHED_BELOW = 0.80  # a repeated sample's time against a perturbed copy's
OBSERVED_ABOVE = 1.05  # a sample's time with the harness's clock against its time without
TIMED_APART = ("preprocess", "encode")  # decode is held against its own steps, load against the sum (stages_close)
APART = 1.12  # a stage's time on the record against its time by another clock, either way
FAULT, HONEST = 0.001, 0.2  # how improbable chance must be: a false alarm costs a run
FEWEST, ENOUGH, MOST = 6, 15, 30  # pairs: at least; as many however long they take; at most
SECONDS = 1.0  # after which no more than ENOUGH are made


@dataclass(frozen=True)
class Ratio:
    """What alternating pairs of times say of one way against the other."""

    interval: Interval  # of the pairs' median ratio; where `side` is the fault's, at the level of FAULT, else 95 %
    side: Side | None  # of the limit; None: so many pairs could not tell


@dataclass(frozen=True)
class Limit:
    """What a ratio is asked: on which side of a limit it is, one of which is the fault's."""

    at: float
    fault: Side

    def side_of(self, ratios: Sequence[float]) -> Side | None:
        """The side that the fault is on needs more certainty than the honest one (FAULT, HONEST)."""
        allowed = (FAULT, HONEST) if self.fault == "above" else (HONEST, FAULT)
        return tell(ratios, self.at, *allowed)


NOT_CACHED = Limit(CACHED_BELOW, "below")
NOT_OBSERVED = Limit(OBSERVED_ABOVE, "above")
NOT_LONGER, NOT_SHORTER = Limit(APART, "above"), Limit(1 / APART, "below")


@dataclass(frozen=True)
class Audits:
    """What was found; None where none could be made."""

    compared_samples: int
    equal_samples: int
    repeat_against_perturbed: Mapping[str, Ratio]  # by stage: the same sample again / copies with other pixels
    instrumented_against_bare: Ratio | None  # end to end with the harness's clock / without
    finite: Finite = field(default_factory=Finite)
    again: Again = field(default_factory=Again)  # measured answers, made again
    operations: Operations = field(default_factory=Operations)
    # by the side of the fault and the stage: its time on a record / by itself, by another clock
    recorded_against_apart: Mapping[Side, Mapping[str, Ratio]] = field(default_factory=dict)
    failed: tuple[str, ...] = ()  # samples that did not go through the stages here, and why
    near_ties: tuple[str, ...] = ()  # of the unequal samples, those whose ids part at a near-tie, with its margin
    apart: tuple[str, ...] = ()  # and the others


def run_audits(
    pipeline: Pipeline,
    planned: Sequence[Planned],
    sampling: Sampling,
    timing: Timing,
    samples: int = 2,
    records: Sequence[SampleRecord] = (),
) -> Audits:
    """Audit the first `samples` that work. One that fails is passed over, and named with its error.

    Of the measured `records`, as many with suspicious answers are examined for values that are not finite.
    """
    greedy = replace(sampling, temperature=0, max_new_tokens=min(TOKENS, sampling.max_new_tokens))
    # one length for all, else an answer that ends early would look like a cache
    fixed = replace(greedy, num_beams=1, stop="fixed")
    short = replace(fixed, max_new_tokens=min(REPEATED_TOKENS, sampling.max_new_tokens))
    working, failed = _working(pipeline, planned, greedy, samples)
    if not working:
        return Audits(0, 0, {}, None, failed=failed)
    parted = [found for item, media in working if (found := _parted(pipeline, item, media, greedy)) is not None]
    strange = suspicious(records)
    asked_again = {item.sample.key: item for item in planned if item.sample.key in strange}
    examined = {item.sample.key: item for item in [*list(asked_again.values())[:samples], working[0][0]]}
    finite = examine(pipeline, list(examined.values()), greedy, [strange[key] for key in asked_again])
    item, media = working[0]
    observed, apart = _watched(cast(Pipeline, _Loaded(pipeline, media)), item, fixed, timing)
    return Audits(
        compared_samples=len(working),
        equal_samples=len(working) - len(parted),
        repeat_against_perturbed=_caching(pipeline, item, media, short, timing),
        instrumented_against_bare=observed,
        finite=finite,
        recorded_against_apart=apart,
        failed=failed,
        near_ties=tuple(text for near, text in parted if near),
        apart=tuple(text for near, text in parted if not near),
    )


def perturbed(media: Media, number: int) -> Media:
    """A copy of the same shape with other pixels: what a cache keyed by content or object would miss."""
    first = np.array(media.images[0], copy=True)
    first[0] ^= 1 + number % 255
    return replace(media, images=(first, *media.images[1:]))


def _working(
    pipeline: Pipeline, planned: Sequence[Planned], sampling: Sampling, samples: int
) -> tuple[list[tuple[Planned, Media]], tuple[str, ...]]:
    """The first different samples that go through all stages, with their media; and those that did not, with why.

    Leaves out repeats and sentinels, whose sample was seen, and samples whose own data or stages raise.
    """
    found: list[tuple[Planned, Media]] = []
    failed: list[str] = []
    seen: set[str] = set()
    for item in planned:
        if len(found) == samples:
            break
        if item.sample.key in seen:  # a repeat, or a sentinel
            continue
        seen.add(item.sample.key)
        try:
            media = pipeline.load(item.sample)
            inputs = pipeline.preprocess([media], [item.question])
            pipeline.decode(inputs, pipeline.encode(inputs), sampling, _nothing)
        except Exception as error:  # most have it on their record too
            failed.append(f"{item.sample.key}: {type(error).__name__}: {error}")
            continue
        found.append((item, media))
    return found, tuple(failed)


def _parted(pipeline: Any, item: Planned, media: Media, sampling: Sampling) -> tuple[bool, str] | None:
    """Where the stages' ids part from the model's own: whether at a near-tie, and the place; None: nowhere.

    Only an engine of its own may round differently: transformers' loop gives the ids of transformers' `generate()`.
    """
    inputs = pipeline.preprocess([media], [item.question])
    (staged,) = pipeline.decode(inputs, pipeline.encode(inputs), sampling, _nothing).token_ids
    (own,) = pipeline.unstaged(inputs, sampling)
    if staged == own:
        return None
    found = pipeline.divergence(inputs, own, staged) if hasattr(pipeline, "divergence") else None
    if found is None:
        at = first_difference(own, staged)
        return False, f"{item.sample.key}: token {at + 1} differs, {len(staged)} and {len(own)} tokens"
    return found.near_tie, f"{item.sample.key}: {found.text}"


def _caching(pipeline: Pipeline, item: Planned, media: Media, sampling: Sampling, timing: Timing) -> dict[str, Ratio]:
    """The repeated sample's seconds against fresh copies', alternating, for each stage after `load`."""

    def stages(of: Media) -> dict[str, float]:
        watch = timing.stopwatch()
        with watch.stage("preprocess"):
            inputs = pipeline.preprocess([of], [item.question])
        with watch.stage("encode"):
            features = pipeline.encode(inputs)
        with watch.stage("decode"):
            pipeline.decode(inputs, features, sampling, _nothing)
        return watch.stage_s

    stages(media)  # the first time fills a cache, where there is one

    def fresh(number: int) -> dict[str, float]:
        return stages(perturbed(media, number))

    return until_told(fresh, lambda _: stages(media), dict.fromkeys(STAGES[1:], (NOT_CACHED,)), timing)["below"]


def instrumented_against_bare(
    pipeline: Pipeline, item: Planned, sampling: Sampling, timing: Timing, pairs: int
) -> Interval:
    """End to end with the stopwatch at every border and token, against a single pair of readings: means of pairs."""
    bare, instrumented = _both_ways(pipeline, item, sampling, timing)
    return paired_interval(*_alternating(bare, lambda i: _end_to_end(instrumented(i)), pairs))[1]


def _watched(
    pipeline: Pipeline, item: Planned, sampling: Sampling, timing: Timing
) -> tuple[Ratio, dict[Side, dict[str, Ratio]]]:
    """End to end with the stopwatch against without, and each stage's time on a record against its time by another
    clock: one set of measurements answers both."""
    bare, instrumented = _both_ways(pipeline, item, sampling, timing)

    def apart(_: int) -> dict[str, float]:
        """Each stage by itself, as whoever trusts no stopwatch would time it."""
        media = pipeline.load(item.sample)
        inputs, of_preprocess = _alone(timing, lambda: pipeline.preprocess([media], [item.question]))
        _features, of_encode = _alone(timing, lambda: pipeline.encode(inputs))
        return dict(zip(TIMED_APART, (of_preprocess, of_encode), strict=True))

    def by_itself(number: int) -> dict[str, float]:
        return {"": bare(number), **apart(number)}

    def on_record(number: int) -> dict[str, float]:
        record = instrumented(number)
        stages = {stage: float(getattr(record, f"{stage}_s")) for stage in TIMED_APART}
        return {"": _end_to_end(record), **stages}

    asked = {"": (NOT_OBSERVED,), **dict.fromkeys(TIMED_APART, (NOT_LONGER, NOT_SHORTER))}
    found = until_told(by_itself, on_record, asked, timing)
    observed = found["above"].pop("")
    return observed, found


class _Loaded:
    """A pipeline whose `load` gives these media: files are noisier than what is asked here, and take longer."""

    def __init__(self, inner: Pipeline, media: Media):
        self._inner, self._media = inner, media

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def load(self, sample: Sample) -> Media:
        return self._media


def _alone(timing: Timing, work: Callable[[], Found]) -> tuple[Found, float]:
    timing.device.synchronise()
    start = timing.audit_clock_ns()
    result = work()
    timing.device.synchronise()
    return result, (timing.audit_clock_ns() - start) / 1e9


def _both_ways(
    pipeline: Pipeline, item: Planned, sampling: Sampling, timing: Timing
) -> tuple[Callable[[int], float], Callable[[int], SampleRecord]]:
    def bare(_: int) -> float:
        timing.prepare_files(item.sample)  # as the harness does: cold files are cold for both
        timing.device.synchronise()
        start = timing.end_to_end_clock()
        inputs = pipeline.preprocess([pipeline.load(item.sample)], [item.question])
        pipeline.decode(inputs, pipeline.encode(inputs), sampling, _nothing)
        timing.device.synchronise()
        return timing.end_to_end_clock() - start

    def instrumented(_: int) -> SampleRecord:
        (record,) = measure_batch(pipeline, [item], sampling, timing)
        return record

    return bare, instrumented


def _end_to_end(record: SampleRecord) -> float:
    if record.end_to_end_s is None:
        raise MeasurementError(f"{record.key} failed when it was measured again: {record.error}")
    return record.end_to_end_s


def until_told(
    one: Callable[[int], Mapping[str, float]],
    other: Callable[[int], Mapping[str, float]],
    limits: Mapping[str, Sequence[Limit]],
    timing: Timing,
) -> dict[Side, dict[str, Ratio]]:
    """Pairs of seconds, until every ratio other / one is known to be above or below its limits, or the bound is
    reached; gives, for each side that is a fault's, the ratios by name."""
    ratios: dict[str, list[float]] = {name: [] for name in limits}
    sides: dict[tuple[str, Limit], Side | None] = {}
    start = timing.clock()
    for number in range(MOST):
        before, after = _pair(one, other, number)
        for name, values in ratios.items():
            # a stage that takes no time either way is not cached, nor slowed
            values.append(after[name] / before[name] if before[name] > 0 else 1.0)
        if number + 1 < FEWEST:
            continue
        sides = {(name, limit): limit.side_of(ratios[name]) for name, each in limits.items() for limit in each}
        if None not in sides.values() or (number + 1 >= ENOUGH and timing.clock() - start > SECONDS):
            break
    found: dict[Side, dict[str, Ratio]] = {"above": {}, "below": {}}
    for (name, limit), side in sides.items():
        level = 1 - 2 * FAULT if side == limit.fault else 0.95
        found[limit.fault][name] = Ratio(sign_interval(ratios[name], level), side)
    return found


def _alternating(
    one: Callable[[int], Found], other: Callable[[int], Found], pairs: int
) -> tuple[list[Found], list[Found]]:
    """`pairs` results of each, in the order A B B A, so that slow drift favours neither."""
    first, second = zip(*(_pair(one, other, number) for number in range(pairs)), strict=True)
    return list(first), list(second)


def _pair(one: Callable[[int], Found], other: Callable[[int], Found], number: int) -> tuple[Found, Found]:
    """A result of each, the second way first where the number is odd."""
    if number % 2:
        second = other(number)
        return one(number), second
    return one(number), other(number)


def _nothing(at: float | None = None, /) -> None:
    pass
