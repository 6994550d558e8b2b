"""Findings: the question that a study asks, answered from its runs with a measured yes, no or cannot tell.

An answer is yes or no only where an interval excludes the other one; everything else is "cannot tell". The criteria
are this module's constants and the docstrings of its functions. Runs are compared that differ in what the study asks
about and in nothing else that it sweeps; where more settings were swept, each is answered apart. Left out: how a
finding is shown.

    for finding in find("event_vs_video", runs):
        finding.question, finding.answer, finding.measured
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fourstage.comparison.effects import Pairwise, Row, RunData, cache_fill_s, cached_stages, compare, stage_facts
from fourstage.comparison.grouping import group_by
from fourstage.comparison.pairing import Pairs, pair_keys, per_key
from fourstage.config.schema import SettingError
from fourstage.records.wording import plain, seconds, with_limits
from fourstage.stats.intervals import Interval, bootstrap_interval, paired_interval

YES, NO, CANNOT_TELL = "yes", "no", "cannot tell"
DOMINATES = 0.5  # of the gap: more than this, and a factor outweighs all others together
COUNTS = 0.05  # of the gap: less than this, and a factor is no cause worth telling
CHEAP = 0.10  # of the total
MARGIN = 0.02  # within which two times are the same, as in the comparison's verdicts

Floats = NDArray[np.float64]
Study = Callable[[Sequence[RunData]], Iterator["Finding"]]


@dataclass(frozen=True)
class Finding:
    """A question, its answer, and what was measured for it."""

    question: str
    answer: str  # "yes", "no" or "cannot tell"
    measured: str  # one or two sentences with numbers, intervals and n


def find(study: str, runs: Sequence[RunData]) -> tuple[Finding, ...]:
    """The findings of a study's runs; none for a study that is not known. Runs that are invalid answer nothing."""
    if (ask := STUDIES.get(study)) is None:
        return ()
    nothing = Finding(
        f"What the study {study} asks", CANNOT_TELL, "No two valid runs are here that differ in what it sweeps."
    )
    return tuple(ask([run for run in runs if run.valid])) or (nothing,)


def event_vs_video(runs: Sequence[RunData]) -> Iterator[Finding]:
    """Five conclusions that were once drawn of these two models, asked again.

    Of runs in which both answer as they like: does loading dominate, are fewer tokens a cause, is encoding cheap, is
    the time per token a cause. Of runs at one length: what remains of the difference without loading.
    """
    for stop, ask, questions, how in (
        ("natural", _as_they_like, (LOADING, FEWER, ENCODING, PER_TOKEN), "as they like (generation=greedy)"),
        ("fixed", _at_one_length, (ARCHITECTURE,), "at one length (generation=fixed)"),
    ):
        found = _models([run for run in runs if run.params.get("stop") == stop])
        for label, baseline, target in found:
            yield from ask(baseline, target, label)
        if not found:
            for question in questions:
                yield Finding(f"{question}?", CANNOT_TELL, f"No valid runs of both models are here that answer {how}.")


def cache(runs: Sequence[RunData]) -> Iterator[Finding]:
    """For each model and kind of cache against none: is a sample quicker by more than chance and the margin?

    Filling is in no stage: it is told with the number of passes over the data after which it has paid, by what the
    cached stages themselves save: what else differs between the runs is not the cache's.
    """
    for label, by_cache in _groups(runs, ("cache",)):
        none = by_cache.pop(("none",), None)
        for (kind,), run in by_cache.items():
            question = _asked(f"Does keeping {'decoded frames' if kind == 'frames' else kind} make a sample quicker",
                              label)  # fmt: skip
            if none is None:
                yield Finding(question, CANNOT_TELL, "No valid run without a cache is here.")
                continue
            row = _pair(none, run).row("total")
            yield Finding(question, _quicker(row), f"{_total(row)} {_filling(none, run)}")


def batch(runs: Sequence[RunData]) -> Iterator[Finding]:
    """For each model and batch size against the smallest: does the machine take less time for a sample?

    A sample's share of the batch's time is the inverse of the throughput; how long it waits for its first token is
    told beside it.
    """
    for label, by_size in _groups(runs, ("batch_size",)):
        sizes = sorted(by_size, key=lambda size: int(size[0]))
        for size in sizes[1:]:
            pair = _pair(by_size[sizes[0]], by_size[size])
            row, wait = pair.row("total"), pair.row("TTFT")
            question = _asked(f"Does a batch of {size[0]} give more throughput than {sizes[0][0]}", label)
            told = _total(row)
            if row is not None and row.baseline_mean > 0 and row.target_mean > 0:
                told += (
                    f" Throughput is {plain(1 / row.target_mean)} samples/s instead of {plain(1 / row.baseline_mean)};"
                    f" {_waits(wait)}"
                )
            yield Finding(question, _quicker(row), told)


def tokens(runs: Sequence[RunData]) -> Iterator[Finding]:
    """What a visual token costs (frames), what a token of the answer does, and which costs more."""
    yield from _token_costs(runs, "model.frames", "visual token", _visual_tokens)


def tokens_event(runs: Sequence[RunData]) -> Iterator[Finding]:
    """The same for EventGPT's images, which are pooled: the cost is of an image, not of the token that it adds."""
    yield from _token_costs(runs, "model.event_images", "event image", _images)


def fair_input(runs: Sequence[RunData]) -> Iterator[Finding]:
    """Does another form of input turn the ranking of the models, and does it change the difference between them?

    The ranking turns where both differences are detected and have opposite signs; it does not where they have the
    same. The difference changes where the samples' own differences, paired across the forms, differ from 0.
    """
    found = {
        source: pairs
        for source in ("images", "mp4")
        if (pairs := _models([run for run in runs if run.params.get("model.source") == source]))
    }
    if len(found) < 2:
        missing = [source for source in ("images", "mp4") if source not in found]
        yield Finding(RANKING, CANNOT_TELL, f"No valid runs of both models from {' or '.join(missing)} are here.")
        return
    for (label, *images), (_, *clips) in zip(found["images"], found["mp4"], strict=False):
        rows = [_pair(*images).row("total"), _pair(*clips).row("total")]
        told = " ".join(
            f"From {source}, {target.name} against {baseline.name}: {_total(row)}"
            for source, row, (baseline, target) in zip(("images", "MP4"), rows, (images, clips), strict=True)
        )
        yield Finding(_asked(RANKING, label), _turns(rows), told)
        yield _form_changes(images, clips, label)


STUDIES: Mapping[str, Study] = {
    "event_vs_video": event_vs_video,
    "cache": cache,
    "batch": batch,
    "tokens": tokens,
    "tokens_event": tokens_event,
    "fair_input": fair_input,
}

LOADING = "Does loading (stage 1) make more than half of the difference"
FEWER = "Is the number of output tokens a cause of the difference"
ENCODING = "Is vision encoding cheap when it is timed by itself (below 10 % of the total in both models)"
PER_TOKEN = "Is the time per token a cause of the difference"
ARCHITECTURE = "Do the models differ in what they compute, without loading and at one length of the answers"
RANKING = "Does the form of the input turn the ranking of the models"


def _as_they_like(baseline: RunData, target: RunData, label: str) -> Iterator[Finding]:
    """Loading dominates: it makes more than half of the gap. Tokens, or the time per token, are a cause: they make
    more than 5 % of it, with its sign; no cause: less, or they work against it. Encoding is cheap: below a tenth of
    the total in both models. Each with its whole 95 % interval."""
    pair = _pair(baseline, target)
    yield _cause(_asked(LOADING, label), pair, "load", DOMINATES)
    tokens_out = pair.row("tokens out")
    beside = ""
    if tokens_out is not None:
        beside = (
            f" Tokens out: {tokens_out.baseline_mean:.1f} of {baseline.name}, {tokens_out.target_mean:.1f} of "
            f"{target.name} (means)."
        )
    yield _cause(_asked(FEWER, label), pair, "tokens", COUNTS, beside)
    yield _cheap(_asked(ENCODING, label), baseline, target)
    tpot = pair.row("TPOT")
    beside = f" TPOT: {with_limits(tpot.ratio, '')} of the baseline's ({tpot.text})." if tpot is not None else ""
    yield _cause(_asked(PER_TOKEN, label), pair, "time_per_token", COUNTS, beside)


def _at_one_length(baseline: RunData, target: RunData, label: str) -> Iterator[Finding]:
    """What the models compute is encode, prefill and decode steps: the ratio of their sums at equal tokens.

    Yes: its interval excludes 1 and does not lie within the margin of 2 %; no: it lies within. Preprocessing is left
    out with loading: both are of the input's form and size. The ratio is of whole models (towers, projectors, number
    of prompt tokens, language model, weights); what in them causes it, this study does not separate.
    """
    question = _asked(ARCHITECTURE, label)
    pairs = _pairs(baseline, target)
    one, other = (_computing(read) for read in (pairs.baseline, pairs.target))
    lengths = [read("output_tokens") for read in (pairs.baseline, pairs.target)]
    there = np.isfinite(one) & np.isfinite(other)
    if not there.any():
        yield Finding(question, CANNOT_TELL, "No sample has these stages timed apart in both runs.")
        return
    if not np.array_equal(lengths[0][there], lengths[1][there]):
        yield Finding(question, CANNOT_TELL, "The answers are not of one length: generation=fixed makes them so.")
        return
    difference, ratio = paired_interval(one[there], other[there], pairs.clusters[there])
    way = math.copysign(1.0, difference.estimate)
    parts = [
        f"{name} {with_limits(row.ratio, '')}"
        for name in ("encode", "prefill", "TPOT")
        if (row := _pair(baseline, target).row(name)) is not None
    ]
    yield Finding(
        question,
        _differs(ratio),
        f"At {lengths[0][there].mean():.0f} output tokens, encoding, prefill and decode steps of {target.name} take "
        f"{with_limits(_times(difference, way))} {'longer' if way > 0 else 'less'} than those of {baseline.name}: a "
        f"ratio of {with_limits(ratio, '')} (n={int(there.sum())}; ratios of {', '.join(parts)}). It is of whole "
        "models, with their prompt lengths and weights.",
    )


def _cause(question: str, pair: Pairwise, name: str, share: float, beside: str = "") -> Finding:
    """Whether a factor makes more than a share of the gap: the interval of its contribution less that share."""
    found = pair.attribution
    if found is None or name in found.missing:
        return Finding(question, CANNOT_TELL, f"It was not timed apart in both runs.{beside}")
    gap, factor, over = found.gap, found.factor(name), f"(n={found.n})"
    if not (math.isfinite(gap.low) and math.isfinite(gap.high)):
        return Finding(question, CANNOT_TELL, f"Too few samples to tell any difference {over}.{beside}")
    if gap.contains(0.0) or found.ratio.contains(1.0):
        return Finding(
            question,
            CANNOT_TELL,
            f"No difference in total was detected that it could cause: {pair.target_name} − {pair.baseline_name} is "
            f"{with_limits(gap)} a sample {over}, its part {with_limits(factor.contribution)}.{beside}",
        )
    sign = math.copysign(1.0, gap.estimate)
    slower, faster = (pair.target_name, pair.baseline_name)[:: int(sign)]
    place = [item.name for item in found.factors].index(name)
    beyond = sign * (found.per_sample[:, place] - share * found.per_sample.sum(axis=1))
    interval = bootstrap_interval(beyond, "mean", found.clusters)
    answer = YES if interval.low > 0 else NO if interval.high < 0 else CANNOT_TELL
    return Finding(
        question,
        answer,
        f"{slower} takes {with_limits(_times(gap, sign))} longer a sample than {faster}; of that, {factor.label} gives "
        f"{with_limits(_times(factor.contribution, sign))}, {100 * factor.share:.0f} % {over}.{beside}",
    )


def _times(interval: Interval, sign: float) -> Interval:
    low, high = sorted((sign * interval.low, sign * interval.high))
    return Interval(low, high, sign * interval.estimate, interval.level, interval.n)


def _cheap(question: str, baseline: RunData, target: RunData) -> Finding:
    answers, told = [], []
    pairs = _pairs(baseline, target)
    for run, read in ((baseline, pairs.baseline), (target, pairs.target)):
        encode, total = read("encode_s"), read("total_s")
        there = np.isfinite(encode) & np.isfinite(total)
        if not there.any():
            return Finding(question, CANNOT_TELL, f"{run.name} did not time it apart.")
        mean, share = encode[there].mean(), paired_interval(total[there], encode[there], pairs.clusters[there])[1]
        answers.append(YES if share.high < CHEAP else NO if share.low > CHEAP else CANNOT_TELL)
        percent = Interval(100 * share.low, 100 * share.high, 100 * share.estimate, share.level, share.n)
        told.append(f"{run.name} {seconds(float(mean))}, {with_limits(percent, '%')} of its total")
    answer = NO if NO in answers else CANNOT_TELL if CANNOT_TELL in answers else YES
    return Finding(question, answer, f"{'; '.join(told)} (n={pairs.n}).")


def _token_costs(
    runs: Sequence[RunData], setting: str, what: str, count: Callable[[RunData], float | None]
) -> Iterator[Finding]:
    """Between the fewest and the most of one setting at each value of the other: the difference of the time from
    encode on, by the difference in number. Yes: its interval is above 0; no: its upper limit is 0 or below."""
    costs: dict[str, list[tuple[str, Interval]]] = {what: [], "output token": []}
    for name, swept, number, time in (
        (what, setting, count, _computing),
        ("output token", "max_new_tokens", _output_tokens, _computing),
    ):
        for label, by_value in _groups(runs, (swept,)):
            ordered = sorted(by_value, key=lambda value: float(value[0]) if _is_number(value[0]) else math.inf)
            if len(ordered) < 2:
                continue
            few, many = by_value[ordered[0]], by_value[ordered[-1]]
            question = _asked(f"Does {'an' if name[0] in 'aeiou' else 'a'} {name} cost time", label)
            numbers = [number(run) for run in (few, many)]
            if numbers[0] is None or numbers[1] is None or numbers[0] == numbers[1]:
                yield Finding(question, CANNOT_TELL, "The runs do not differ in its number.")
                continue
            pairs = _pairs(few, many)
            one, other = time(pairs.baseline), time(pairs.target)
            there = np.isfinite(one) & np.isfinite(other)
            if not there.any():
                yield Finding(question, CANNOT_TELL, "No sample pairs.")
                continue
            each = (other - one)[there] / (numbers[1] - numbers[0])
            cost = bootstrap_interval(each, "mean", pairs.clusters[there])
            costs[name].append((label, cost))
            yield Finding(
                question,
                YES if cost.low > 0 else NO if cost.high <= 0 else CANNOT_TELL,
                f"{with_limits(cost)} for each, from {numbers[0]:g} to {numbers[1]:g} of them, in encoding, prefill "
                f"and decoding (n={int(there.sum())}).",
            )
    if all(costs.values()):
        visual, output = ([interval for _, interval in found] for found in costs.values())
        above = min(item.low for item in output) > max(item.high for item in visual)
        below = max(item.high for item in output) < min(item.low for item in visual)
        yield Finding(
            f"Does a token of the answer cost more than {'an' if what[0] in 'aeiou' else 'a'} {what}?",
            YES if above else NO if below else CANNOT_TELL,
            f"A token of the answer: {'; '.join(map(with_limits, output))}. "
            f"{'An' if what[0] in 'aeiou' else 'A'} {what}: {'; '.join(map(with_limits, visual))}.",
        )


def _form_changes(images: Sequence[RunData], clips: Sequence[RunData], label: str) -> Finding:
    question = _asked("Does the form of the input change the difference between the models", label)
    gaps: dict[str, list[float]] = {}
    clusters: dict[str, int] = {}
    for pairs in (_pairs(*images), _pairs(*clips)):
        gap = pairs.target("total_s") - pairs.baseline("total_s")
        for key, value, cluster in zip(pairs.keys, gap, pairs.clusters, strict=True):
            if math.isfinite(value):
                gaps.setdefault(key, []).append(float(value))
                clusters[key] = int(cluster)
    both = {key: values[1] - values[0] for key, values in gaps.items() if len(values) == 2}
    if not both:
        return Finding(question, CANNOT_TELL, "No sample succeeded in all four runs.")
    change = bootstrap_interval(list(both.values()), "mean", [clusters[key] for key in both])
    before = bootstrap_interval([gaps[key][0] for key in both], "mean", [clusters[key] for key in both])
    changed = not change.contains(0.0)
    # as an equivalence: the change is small beside the difference itself
    small = max(abs(change.low), abs(change.high)) < COUNTS * abs(before.estimate)
    return Finding(
        question,
        NO if small else YES if changed else CANNOT_TELL,
        f"From MP4 instead of images the difference ({images[1].name} − {images[0].name}) changes by "
        f"{with_limits(change)} a sample, from {with_limits(before)} (n={len(both)}).",
    )


def _turns(rows: Sequence[Row | None]) -> str:
    if any(row is None or not row.detected for row in rows):
        return CANNOT_TELL
    signs = {math.copysign(1.0, row.difference.estimate) for row in rows if row is not None}
    return YES if len(signs) > 1 else NO


def _quicker(row: Row | None) -> str:
    """Yes: detected, and not within the margin; no: slower, or within it."""
    if row is None:
        return CANNOT_TELL
    if row.ratio.low > 1 / (1 + MARGIN):
        return NO
    return YES if row.detected and row.ratio.high < 1 else CANNOT_TELL


def _differs(ratio: Interval) -> str:
    if ratio.low > 1 / (1 + MARGIN) and ratio.high < 1 + MARGIN:
        return NO
    return CANNOT_TELL if ratio.contains(1.0) else YES


def _total(row: Row | None) -> str:
    if row is None:
        return "No sample succeeded in both runs."
    return (
        f"A sample takes {seconds(row.target_mean)} instead of {seconds(row.baseline_mean)}, a ratio of "
        f"{with_limits(row.ratio, '')} ({row.text}, n={row.n})."
    )


def _waits(row: Row | None) -> str:
    if row is None:
        return "the wait for the first token was not measured."
    return (
        f"its first token comes after {seconds(row.target_mean)} instead of {seconds(row.baseline_mean)} ({row.text})."
    )


def _filling(none: RunData, run: RunData) -> str:
    """What the cached stages save, what filling took, and after how many passes over the data it has paid."""
    pairs = _pairs(none, run)
    stages = [f"{stage}_s" for stage in cached_stages(run.params)]
    saved = np.sum([pairs.baseline(stage) - pairs.target(stage) for stage in stages], axis=0)
    there = np.isfinite(saved)
    if (fill := cache_fill_s(run)) is None or not there.any():
        return "What filling took is not on the records."
    saving = bootstrap_interval(saved[there], "mean", pairs.clusters[there])
    samples = len(np.unique(run.columns.measured.done.key_codes))
    told = (
        f"The cached stages save {with_limits(saving)} of it; filling took {seconds(fill)} in all, "
        f"{seconds(fill / samples)} a sample, before the measurement"
    )
    if saving.low <= 0:
        return f"{told}: it is not seen to be paid back."
    # each pass, also the first, saves this much
    passes = math.ceil(fill / samples / saving.estimate)
    return f"{told}: paid back after {passes} pass{'es' if passes > 1 else ''} over the data."


def _computing(read: Callable[[str], Floats]) -> Floats:
    """Seconds of encode, prefill and decode steps, a sample's share of its batch."""
    steps = np.where(np.isnan(read("prefill_share_s")), np.nan, read("steps_share_s"))
    return read("encode_s") + read("prefill_share_s") + steps


def _visual_tokens(run: RunData) -> float | None:
    return stage_facts(run)[2].visual_tokens


def _images(run: RunData) -> float | None:
    return stage_facts(run)[2].images


def _output_tokens(run: RunData) -> float | None:
    done = run.columns.measured.done
    there = done.output_tokens[~np.isnan(done.output_tokens)]
    return float(there.mean()) if len(there) else None


def _models(runs: Sequence[RunData]) -> list[tuple[str, RunData, RunData]]:
    """Runs of EventGPT and Video-LLaVA that differ in the model only: (label, eventgpt, videollava)."""
    found = []
    for label, by_model in _groups(runs, ("model",)):
        models = {run.params.get("model.name"): run for run in by_model.values()}
        if "eventgpt" in models and "videollava" in models:
            found.append((label, models["eventgpt"], models["videollava"]))
    return found


def _groups(runs: Sequence[RunData], words: Sequence[str]) -> list[tuple[str, dict[tuple[str, ...], RunData]]]:
    """Runs that differ in these settings only, by their values; of several with the same the first."""
    try:
        groups = group_by([run.params for run in runs], words)
    except SettingError:  # they do not differ in it: there is nothing to ask
        return []
    found = []
    for group in groups:
        of_group: dict[tuple[str, ...], RunData] = {}
        for place, choice in zip(group.members, group.choices, strict=True):
            of_group.setdefault(choice, runs[place])
        found.append((group.label, of_group))
    return found


def _asked(question: str, label: str) -> str:
    return f"{question} ({label})?" if label else f"{question}?"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _pair(baseline: RunData, target: RunData) -> Pairwise:
    return compare([baseline, target]).pairs[0]


def _pairs(baseline: RunData, target: RunData) -> Pairs:
    return pair_keys(per_key(baseline.columns), per_key(target.columns))
