"""Studies: the questions that each asks of its runs. The criteria are in the docstrings of the functions.

Runs are compared that differ in what the study asks about and in nothing else that it sweeps; where more settings were
swept, each of their values is answered apart. Left out: how an answer is made (`findings.py`), how it is shown.

    for finding in find("event_vs_video", runs):
        finding.question, finding.answer, finding.measured
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fourstage.comparison.effects import processes_of
from fourstage.comparison.findings import (
    CANNOT_TELL,
    COUNTS,
    DOMINATES,
    NO,
    YES,
    Finding,
    asked,
    cause,
    cheap,
    compared,
    computing_s,
    differs,
    filling_in_words,
    paired,
    quicker,
    signed,
    total_in_words,
    turns,
    wait_in_words,
)
from fourstage.comparison.grouping import group_by
from fourstage.comparison.run_data import RunData, stage_facts
from fourstage.config.values import SettingError
from fourstage.records.figures import ACCURACY, ENCODE, PREFILL, TOKENS_OUT, TOTAL, TPOT, TTFT
from fourstage.records.units import first_few, plain, with_limits
from fourstage.stats.intervals import Interval, bootstrap_interval, paired_interval

POINTS = 2.0  # percentage points of accuracy within which answers are as good

Study = Callable[[Sequence[RunData]], Iterator["Finding"]]


def find(study: str, runs: Sequence[RunData]) -> tuple[Finding, ...]:
    """The findings of a study's runs; none for a study that is not known.

    Runs that are invalid, and runs of one process, answer nothing.
    """
    if (ask := STUDIES.get(study)) is None:
        return ()
    nothing = Finding(
        f"What the study {study} asks", CANNOT_TELL, "No two valid runs are here that differ in what it sweeps."
    )
    valid = [run for run in runs if run.valid]
    found = tuple(ask(valid)) or (nothing,)
    single = [run.name for run in valid if processes_of(run) == 1]
    return tuple(_not_replicated(one, single) for one in found) if single else found


def _not_replicated(finding: Finding, single: Sequence[str]) -> Finding:
    """A yes or no of processes that were measured once is none: the next process may say otherwise."""
    if finding.answer == CANNOT_TELL:
        return finding
    one = f"Not replicated: {first_few(single)} {'was' if len(single) == 1 else 'were'} measured in one process."
    return replace(finding, answer=CANNOT_TELL, measured=f"{finding.measured} {one} Set replicates=3 or more.")


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

    Filling is in no stage: the answer gives the number of passes over the data after which it has paid, by what the
    cached stages themselves save; other differences between the runs are not the cache's.
    """
    for label, by_cache in _groups(runs, ("cache",)):
        none = by_cache.pop(("none",), None)
        for (kind,), run in by_cache.items():
            question = asked(f"Does keeping {'decoded frames' if kind == 'frames' else kind} make a sample quicker",
                              label)  # fmt: skip
            if none is None:
                yield Finding(question, CANNOT_TELL, "No valid run without a cache is here.")
                continue
            row = compared(none, run).row(TOTAL.heading)
            yield Finding(question, quicker(row), f"{total_in_words(row)} {filling_in_words(none, run)}")


def batch(runs: Sequence[RunData]) -> Iterator[Finding]:
    """For each model and batch size against the smallest: does the machine take less time for a sample?

    A sample's share of the batch's time is the inverse of the throughput; how long it waits for its first token is
    reported with it.
    """
    for label, by_size in _groups(runs, ("batch_size",)):
        sizes = sorted(by_size, key=lambda size: int(size[0]))
        for size in sizes[1:]:
            pair = compared(by_size[sizes[0]], by_size[size])
            row, wait = pair.row(TOTAL.heading), pair.row(TTFT.heading)
            question = asked(f"Does a batch of {size[0]} give more throughput than {sizes[0][0]}", label)
            measured = total_in_words(row)
            if row is not None and row.baseline_mean > 0 and row.target_mean > 0:
                measured += (
                    f" Throughput is {plain(1 / row.target_mean)} samples/s instead of {plain(1 / row.baseline_mean)};"
                    f" {wait_in_words(wait)}"
                )
            yield Finding(question, quicker(row), measured)


def tokens(runs: Sequence[RunData]) -> Iterator[Finding]:
    """What a visual token costs (frames), what a token of the answer does, and which costs more."""
    yield from _token_costs(_at_fixed_length(runs), "model.frames", "visual token", _visual_tokens)
    yield from _accuracies(runs, "model.frames", "frames")


def tokens_event(runs: Sequence[RunData]) -> Iterator[Finding]:
    """The same for EventGPT's images, which are pooled: the cost is of an image, not of the token that it adds."""
    yield from _token_costs(_at_fixed_length(runs), "model.event_images", "event image", _images)
    yield from _accuracies(runs, "model.event_images", "event images")


def precision(runs: Sequence[RunData]) -> Iterator[Finding]:
    """For each model and 16-bit precision against fp32: is a sample quicker, and do the answers stay as accurate?"""
    for label, by_precision in _groups(runs, ("precision",)):
        full = by_precision.get(("fp32",))
        for (name,), run in by_precision.items():
            if full is None or run is full:
                continue
            row = compared(full, run).row(TOTAL.heading)
            yield Finding(
                asked(f"Is a sample quicker in {name} than in fp32", label), quicker(row), total_in_words(row)
            )
            yield _as_accurate(asked(f"Are the answers in {name} as accurate as in fp32", label), full, run)


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
        rows = [compared(*images).row(TOTAL.heading), compared(*clips).row(TOTAL.heading)]
        measured = " ".join(
            f"From {source}, {target.name} against {baseline.name}: {total_in_words(row)}"
            for source, row, (baseline, target) in zip(("images", "MP4"), rows, (images, clips), strict=True)
        )
        yield Finding(asked(RANKING, label), turns(rows), measured)
        yield _form_changes(images, clips, label)


STUDIES: Mapping[str, Study] = {
    "event_vs_video": event_vs_video,
    "cache": cache,
    "batch": batch,
    "tokens": tokens,
    "tokens_event": tokens_event,
    "fair_input": fair_input,
    "precision": precision,
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
    pair = compared(baseline, target)
    yield cause(asked(LOADING, label), pair, "load", DOMINATES)
    tokens_out = pair.row(TOKENS_OUT.heading)
    beside = ""
    if tokens_out is not None:
        beside = (
            f" Tokens out: {tokens_out.baseline_mean:.1f} of {baseline.name}, {tokens_out.target_mean:.1f} of "
            f"{target.name} (means)."
        )
    yield cause(asked(FEWER, label), pair, "tokens", COUNTS, beside)
    yield cheap(asked(ENCODING, label), baseline, target)
    tpot = pair.row(TPOT.heading)
    beside = f" TPOT: {with_limits(tpot.ratio, '')} of the baseline's ({tpot.text})." if tpot is not None else ""
    yield cause(asked(PER_TOKEN, label), pair, "time_per_token", COUNTS, beside)


def _at_one_length(baseline: RunData, target: RunData, label: str) -> Iterator[Finding]:
    """What the models compute is encode, prefill and decode steps: the ratio of their sums at equal tokens.

    Yes: its interval excludes 1 and does not lie within the margin of 2 %; no: it lies within. Preprocessing is left
    out with loading: both are of the input's form and size. The ratio is of whole models (towers, projectors, number
    of prompt tokens, language model, weights); what in them causes it, this study does not separate.
    """
    question = asked(ARCHITECTURE, label)
    pairs = paired(baseline, target)
    one, other = (computing_s(read) for read in (pairs.baseline, pairs.target))
    lengths = [read(TOKENS_OUT.field) for read in (pairs.baseline, pairs.target)]
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
        for name in (ENCODE.heading, PREFILL.heading, TPOT.heading)
        if (row := compared(baseline, target).row(name)) is not None
    ]
    yield Finding(
        question,
        differs(ratio),
        f"At {lengths[0][there].mean():.0f} output tokens, encoding, prefill and decode steps of {target.name} take "
        f"{with_limits(signed(difference, way))} {'longer' if way > 0 else 'less'} than those of {baseline.name}: a "
        f"ratio of {with_limits(ratio, '')} (n={int(there.sum())}; ratios of {', '.join(parts)}). It is of whole "
        "models, with their prompt lengths and weights.",
    )


def _token_costs(
    runs: Sequence[RunData], setting: str, what: str, count: Callable[[RunData], float | None]
) -> Iterator[Finding]:
    """Between the fewest and the most of one setting at each value of the other: the difference of the time from
    encode on, by the difference in number. Yes: its interval is above 0; no: its upper limit is 0 or below."""
    costs: dict[str, list[tuple[str, Interval]]] = {what: [], "output token": []}
    for name, swept, number, time in (
        (what, setting, count, computing_s),
        ("output token", "max_new_tokens", _output_tokens, computing_s),
    ):
        for label, by_value in _groups(runs, (swept,)):
            ordered = sorted(by_value, key=lambda value: float(value[0]) if _is_number(value[0]) else math.inf)
            if len(ordered) < 2:
                continue
            few, many = by_value[ordered[0]], by_value[ordered[-1]]
            question = asked(f"Does {'an' if name[0] in 'aeiou' else 'a'} {name} cost time", label)
            numbers = [number(run) for run in (few, many)]
            if numbers[0] is None or numbers[1] is None or numbers[0] == numbers[1]:
                yield Finding(question, CANNOT_TELL, "The runs do not differ in its number.")
                continue
            pairs = paired(few, many)
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
    question = asked("Does the form of the input change the difference between the models", label)
    gaps: dict[str, list[float]] = {}
    clusters: dict[str, int] = {}
    for pairs in (paired(*images), paired(*clips)):
        gap = pairs.target(TOTAL.field) - pairs.baseline(TOTAL.field)
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


def _at_fixed_length(runs: Sequence[RunData]) -> list[RunData]:
    """The runs whose answers have one length; all, where the study was swept over no other."""
    return [run for run in runs if run.params.get("stop") == "fixed"] or list(runs)


def _accuracies(runs: Sequence[RunData], setting: str, what: str) -> Iterator[Finding]:
    """For each number below the highest: are the answers that end by themselves as accurate? Of the runs with the
    highest limit of tokens."""
    natural = [run for run in runs if run.params.get("stop") == "natural"]
    most = max((int(run.params["max_new_tokens"]) for run in natural), default=0)
    longest = [run for run in natural if int(run.params["max_new_tokens"]) == most]
    for label, by_value in _groups(longest, (setting,)):
        ordered = sorted(by_value, key=lambda value: float(value[0]) if _is_number(value[0]) else math.inf)
        for fewer in ordered[:-1]:
            question = f"Are answers from {fewer[0]} {what} as accurate as from {ordered[-1][0]}"
            yield _as_accurate(asked(question, label), by_value[ordered[-1]], by_value[fewer])


def _as_accurate(question: str, baseline: RunData, target: RunData) -> Finding:
    """Yes: the interval of the difference in accuracy lies within POINTS; no: beyond it."""
    row = compared(baseline, target).row(ACCURACY.heading)
    if row is None:
        return Finding(question, CANNOT_TELL, "No sample has facts that its answer could be checked against.")
    low, high = row.difference.low, row.difference.high
    within, beyond = low >= -POINTS and high <= POINTS, high < -POINTS or low > POINTS
    return Finding(
        question,
        YES if within else NO if beyond else CANNOT_TELL,
        f"Accuracy is {row.target_mean:.1f} % instead of {row.baseline_mean:.1f} %, a difference of "
        f"{with_limits(row.difference, '')} points (n={row.n}).",
    )


def _groups(runs: Sequence[RunData], words: Sequence[str]) -> list[tuple[str, dict[tuple[str, ...], RunData]]]:
    """Runs that differ in these settings only, by their values; of several with the same the first."""
    try:
        groups = group_by([run.params for run in runs], words)
    except SettingError:  # they do not differ in it: there is nothing to ask
        return []
    found = []
    for group in groups:
        of_group: dict[tuple[str, ...], RunData] = {}
        for index, choice in zip(group.members, group.choices, strict=True):
            of_group.setdefault(choice, runs[index])
        found.append((group.label, of_group))
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
