"""Findings: a question about runs, answered from measurements with yes, no or cannot tell.

An answer is yes or no only where an interval excludes the other one; everything else is "cannot tell". The criteria
are this module's constants and the docstrings of its functions. Left out: which questions a study asks
(`studies.py`), and how a finding is shown.

    finding = cause("Is loading the cause?", pair, "load", DOMINATES)
    finding.answer, finding.measured
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fourstage.comparison.effects import Pairwise, Row, compare
from fourstage.comparison.pairing import Pairs, pair_keys, per_key
from fourstage.comparison.run_data import RunData, cache_fill_s, cached_stages
from fourstage.records.figures import ENCODE, TOTAL
from fourstage.records.units import seconds, with_limits
from fourstage.stats.clusters import Floats
from fourstage.stats.intervals import Interval, bootstrap_interval, paired_interval

YES, NO, CANNOT_TELL = "yes", "no", "cannot tell"
DOMINATES = 0.5  # of the gap: more than this, and a factor outweighs all others together
COUNTS = 0.05  # of the gap: less than this, and a factor is not reported as a cause
CHEAP = 0.10  # of the total
MARGIN = 0.02  # within which two times are the same, as in the comparison's verdicts


@dataclass(frozen=True)
class Finding:
    """A question, its answer, and what was measured for it."""

    question: str
    answer: str  # "yes", "no" or "cannot tell"
    measured: str  # one or two sentences with numbers, intervals and n


def cause(question: str, pair: Pairwise, name: str, share: float, beside: str = "") -> Finding:
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
    column = [item.name for item in found.factors].index(name)
    beyond = sign * (found.per_sample[:, column] - share * found.per_sample.sum(axis=1))
    interval = bootstrap_interval(beyond, "mean", found.clusters)
    answer = YES if interval.low > 0 else NO if interval.high < 0 else CANNOT_TELL
    return Finding(
        question,
        answer,
        f"{slower} takes {with_limits(signed(gap, sign))} longer a sample than {faster}; of that, {factor.label} gives "
        f"{with_limits(signed(factor.contribution, sign))}, {100 * factor.share:.0f} % {over}.{beside}",
    )


def signed(interval: Interval, sign: float) -> Interval:
    """The interval, or its mirror image for a sign of -1."""
    low, high = sorted((sign * interval.low, sign * interval.high))
    return Interval(low, high, sign * interval.estimate, interval.level, interval.n)


def cheap(question: str, baseline: RunData, target: RunData) -> Finding:
    """Yes: encoding is below CHEAP of the total in both runs, with its whole interval; no: above in one."""
    answers, parts = [], []
    pairs = paired(baseline, target)
    for run, read in ((baseline, pairs.baseline), (target, pairs.target)):
        encode, total = read(ENCODE.field), read(TOTAL.field)
        there = np.isfinite(encode) & np.isfinite(total)
        if not there.any():
            return Finding(question, CANNOT_TELL, f"{run.name} did not time it apart.")
        mean, share = encode[there].mean(), paired_interval(total[there], encode[there], pairs.clusters[there])[1]
        answers.append(YES if share.high < CHEAP else NO if share.low > CHEAP else CANNOT_TELL)
        percent = Interval(100 * share.low, 100 * share.high, 100 * share.estimate, share.level, share.n)
        parts.append(f"{run.name} {seconds(float(mean))}, {with_limits(percent, '%')} of its total")
    answer = NO if NO in answers else CANNOT_TELL if CANNOT_TELL in answers else YES
    return Finding(question, answer, f"{'; '.join(parts)} (n={pairs.n}).")


def turns(rows: Sequence[Row | None]) -> str:
    """Yes: all differences are detected and have opposite signs; no: all the same sign."""
    if any(row is None or not row.detected for row in rows):
        return CANNOT_TELL
    signs = {math.copysign(1.0, row.difference.estimate) for row in rows if row is not None}
    return YES if len(signs) > 1 else NO


def quicker(row: Row | None) -> str:
    """Yes: detected, and not within the margin; no: slower, or within it."""
    if row is None:
        return CANNOT_TELL
    if row.ratio.low > 1 / (1 + MARGIN):
        return NO
    return YES if row.detected and row.ratio.high < 1 else CANNOT_TELL


def differs(ratio: Interval) -> str:
    """Yes: the interval of the ratio excludes 1; no: it lies within the margin."""
    if ratio.low > 1 / (1 + MARGIN) and ratio.high < 1 + MARGIN:
        return NO
    return CANNOT_TELL if ratio.contains(1.0) else YES


def total_in_words(row: Row | None) -> str:
    """How long a sample takes in both runs, in one sentence."""
    if row is None:
        return "No sample succeeded in both runs."
    return (
        f"A sample takes {seconds(row.target_mean)} instead of {seconds(row.baseline_mean)}, a ratio of "
        f"{with_limits(row.ratio, '')} ({row.text}, n={row.n})."
    )


def wait_in_words(row: Row | None) -> str:
    """How long a sample waits for its first token in both runs."""
    if row is None:
        return "the wait for the first token was not measured."
    return (
        f"its first token comes after {seconds(row.target_mean)} instead of {seconds(row.baseline_mean)} ({row.text})."
    )


def filling_in_words(none: RunData, run: RunData) -> str:
    """What the cached stages save, what filling took, and after how many passes over the data it has paid."""
    pairs = paired(none, run)
    stages = [f"{stage}_s" for stage in cached_stages(run.params)]
    saved = np.sum([pairs.baseline(stage) - pairs.target(stage) for stage in stages], axis=0)
    there = np.isfinite(saved)
    if (fill := cache_fill_s(run)) is None or not there.any():
        return "How long filling took is not on the records."
    saving = bootstrap_interval(saved[there], "mean", pairs.clusters[there])
    samples = len(np.unique(run.columns.measured.done.key_codes))
    text = (
        f"The cached stages save {with_limits(saving)} of it; filling took {seconds(fill)} in all, "
        f"{seconds(fill / samples)} a sample, before the measurement"
    )
    if saving.low <= 0:
        return f"{text}: no payback was detected."
    # each pass, also the first, saves this much
    passes = math.ceil(fill / samples / saving.estimate)
    return f"{text}: paid back after {passes} pass{'es' if passes > 1 else ''} over the data."


def computing_s(read: Callable[[str], Floats]) -> Floats:
    """Seconds of encode, prefill and decode steps, a sample's share of its batch."""
    steps = np.where(np.isnan(read("prefill_share_s")), np.nan, read("steps_share_s"))
    return read(ENCODE.field) + read("prefill_share_s") + steps


def asked(question: str, label: str) -> str:
    """The question, with the settings that it is asked at."""
    return f"{question} ({label})?" if label else f"{question}?"


def compared(baseline: RunData, target: RunData) -> Pairwise:
    """One run against another."""
    return compare([baseline, target]).pairs[0]


def paired(baseline: RunData, target: RunData) -> Pairs:
    """The samples that succeeded in both runs."""
    return pair_keys(per_key(baseline.columns), per_key(target.columns))
