"""Sentences about a comparison, in plain text: the same on the screen, on the page and in compare.json.

Left out: numbers as text (`records/units.py`), and escaping.

    sentence(pair.attribution, "eventgpt", "videollava")
    # "videollava takes 0.84 s [0.80, 0.88] longer a sample than eventgpt (1.90x slower) over 60 paired samples; …"
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fourstage.comparison.attribution import LABELS, Attribution, Factor
from fourstage.comparison.effects import Comparison, Pairwise
from fourstage.comparison.run_data import RunData
from fourstage.comparison.verdicts import Verdict
from fourstage.records.figures import TOTAL
from fourstage.records.units import MISSING, plural, ratio_in_words, seconds, with_limits
from fourstage.stats.intervals import Interval

LEAST = 1e-4  # a smaller detectable change is shown as a limit
MENTIONED = 0.05  # a smaller share of the gap is in the table and not in the sentence


def sentence(attribution: Attribution, baseline_name: str, target_name: str) -> str:
    """Who is faster by how much, what gives most of it, and what works against it, in one sentence of plain text."""
    gap, n = attribution.gap, attribution.n
    over = f"over {n} paired {plural('sample', n)}"
    if not (math.isfinite(gap.low) and math.isfinite(gap.high)):
        return (
            f"Nothing can be claimed about {target_name} against {baseline_name} {over}: the means differ by "
            f"{seconds(gap.estimate)} a sample, and so few samples cannot show how much of that is chance."
        )
    rounding = 1e-9 * max(attribution.baseline_s, attribution.target_s)
    clear = [
        factor
        for factor in attribution.factors
        if not factor.contribution.contains(0.0) and abs(factor.contribution.estimate) > rounding
    ]
    known = math.isfinite(attribution.ratio.estimate)  # of a baseline of 0 s there is none
    if gap.contains(0.0) or (known and attribution.ratio.contains(1.0)):
        longer = [factor for factor in clear if factor.contribution.estimate > 0]
        shorter = [factor for factor in clear if factor.contribution.estimate < 0]
        inside = ""
        if longer or shorter:
            parts = [_times_of(these, than) for these, than in ((longer, "longer"), (shorter, "less")) if these]
            inside = f"; within the total, {target_name} takes {', and '.join(parts)}"
        return (
            f"No detectable difference in total between {target_name} and {baseline_name} {over}: "
            f"{with_limits(gap)} a sample, a ratio of {with_limits(attribution.ratio, '')}{inside}."
        )
    sign = math.copysign(1.0, gap.estimate)
    along = sorted(
        (factor for factor in attribution.factors if factor.share > 0), key=lambda factor: factor.share, reverse=True
    )
    low, high = sorted((sign * gap.low, sign * gap.high))
    size = Interval(low, high, sign * gap.estimate, gap.level, gap.n)
    text = (
        f"{target_name} takes {with_limits(size)} {'longer' if sign > 0 else 'less'} a sample than {baseline_name} "
        f"({ratio_in_words(attribution.ratio.estimate)}) {over}"
    )
    causes = [factor for factor in along if factor in clear]
    if not causes:
        text += "; no single factor is distinguishable from chance"
    else:
        first, *others = causes
        most = "most of the gap" if first.share > 0.5 else "the largest part of the gap"
        if first is not along[0]:
            most = "of what is distinguishable from chance, the largest part"
        text += f"; {most} comes from {_name(attribution, first)} ({_part(first)})"
        if second := [factor for factor in others if factor.share >= MENTIONED]:
            text += f", then {_and([f'{_name(attribution, factor)} ({_part(factor)})' for factor in second])}"
    if against := [factor for factor in clear if factor.share < 0 and -factor.share >= MENTIONED]:
        against.sort(key=lambda factor: factor.share)
        verb = "works" if len(against) == 1 else "work"
        opposing = _and([f"{_name(attribution, factor)} ({_part(factor)})" for factor in against])
        text += f"; against it {verb} {opposing}"
    return text + "."


def _part(factor: Factor) -> str:
    """`+0.81 s, 65 % of the gap`; of what opposes it, as much of the gap the other way."""
    sign = "+" if factor.contribution.estimate > 0 else "−"
    way = " the other way" if factor.share < 0 else ""
    cached = "; one of the runs had it from a cache" if factor.cached else ""
    return (
        f"{sign}{seconds(abs(factor.contribution.estimate))}, {100 * abs(factor.share):.0f} % of the gap{way}{cached}"
    )


def _name(attribution: Attribution, factor: Factor) -> str:
    if factor.name == "rest" and attribution.missing:
        return f"what was not timed apart: {_and([LABELS[name] for name in attribution.missing])}"
    return factor.label


def _times_of(factors: Sequence[Factor], than: str) -> str:
    """`15.5 ms longer in loading and 41.7 ms in the prefill`."""
    first, *others = [(seconds(abs(factor.contribution.estimate)), factor.label) for factor in factors]
    return _and([f"{first[0]} {than} in {first[1]}", *(f"{time} in {label}" for time, label in others)])


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def targets_of(comparison: Comparison) -> list[RunData]:
    """The runs of its pairs, in their order."""
    return [run for i, run in enumerate(comparison.runs) if i != comparison.baseline]


def pair_sentence(pair: Pairwise) -> str:
    """The comparison of two runs in one sentence."""
    if pair.attribution is None:
        return f"Nothing can be said: no sample succeeded in both {pair.baseline_name} and {pair.target_name}."
    return sentence(pair.attribution, pair.baseline_name, pair.target_name)


def headline(comparison: Comparison) -> str:
    """The result in a sentence: of two runs the attribution's, of more how many are what; and what forbids it."""
    base = comparison.runs[comparison.baseline]
    if len(comparison.pairs) > 1:
        return _headline_of_many(comparison)
    (pair,) = comparison.pairs
    text = pair_sentence(pair)
    if pair.attribution is None:
        return text
    invalid = [run.name for run in (base, *targets_of(comparison)) if not run.valid]
    if not invalid:
        return text
    return f"{text} Do not rely on this: {_and(invalid)} {'is' if len(invalid) == 1 else 'are'} invalid."


def _headline_of_many(comparison: Comparison) -> str:
    base = comparison.runs[comparison.baseline]
    sides = list(zip(targets_of(comparison), comparison.pairs, strict=True))
    valid = [pair for run, pair in sides if run.valid]
    counts = {verdict: sum(pair.verdict is verdict for pair in valid) for verdict in Verdict}
    counted = [f"{count} {verdict.value}" for verdict, count in counts.items() if count]
    counted += [f"{len(sides) - len(valid)} invalid"] if len(valid) < len(sides) else []
    text = f"Of {len(sides)} runs against {base.name}, in total time: {', '.join(counted)}"
    claimed = [
        (row.ratio.estimate, pair.target_name, row)
        for pair in valid
        if (row := pair.row(TOTAL.heading)) is not None and row.verdict is Verdict.IMPROVED and row.detected
    ]
    if claimed:
        _, name, row = min(claimed, key=lambda one: one[0])
        text += (
            f"; the fastest is {name}, {row.text} (ratio {with_limits(row.ratio, '')}) over {row.n} paired "
            f"{plural('sample', row.n)}"
        )
    forbidden = "" if base.valid else f" Do not rely on this: the baseline {base.name} is invalid."
    return f"{text}.{forbidden}"


def basis(comparison: Comparison) -> str:
    """What intervals and verdicts are, in one line for below a table."""
    corrected = ", Holm-corrected over the runs" if len(comparison.pairs) > 1 else ""
    return (
        f"Ratio is target / baseline, of means over the paired samples; brackets are {100 * comparison.level:.0f} % "
        f"intervals (bootstrap-t, {comparison.resamples} resamples). Verdicts at {100 * comparison.alpha:g} %"
        f"{corrected}; Equivalent is within {100 * comparison.margin:g} % either way. “Would have seen” is the "
        "smallest change that a test would have found with 80 % power."
    )


def detectable(ratio: float) -> str:
    """The smallest change that would have been seen: `1.3 %`, `2.40x`; MISSING where no change would have been."""
    if not 1 <= ratio < 1e3:
        return MISSING
    if ratio < 1 + LEAST:
        return f"under {100 * LEAST:g} %"
    return f"{ratio:.2f}x" if ratio >= 1.5 else f"{100 * (ratio - 1):.2g} %"
