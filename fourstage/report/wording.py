"""Sentences about a comparison, in plain text: the same on the screen, on the page and in compare.json.

Left out: numbers as text (`records/units.py`), and escaping.

    pair_sentence(pair)
    # "videollava is 1.90x slower than eventgpt in total (ratio 1.90 [1.81, 1.99]) over 60 paired samples, …"
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fourstage.comparison.answer import Answer
from fourstage.comparison.answer import Factor as SettingFactor
from fourstage.comparison.attribution import LABELS, Attribution, Factor
from fourstage.comparison.effects import Comparison, Pairwise, Row
from fourstage.comparison.run_data import RunData
from fourstage.records.figures import TOTAL
from fourstage.records.units import MISSING, plural, seconds, with_limits
from fourstage.stats.intervals import Interval
from fourstage.stats.verdicts import CLAIMS, Verdict

LEAST = 1e-4  # a smaller detectable change is shown as a limit
MOST_FACTORS = 3  # levels of settings in the answer
REMEDY = "Processes of one configuration differ too: measure each in several (replicates=5)."
MOST_CAUSES = 2  # beside the first; the table has all
MENTIONED = 0.05  # a smaller share of the gap is in the table and not in the sentence


def pair_sentence(pair: Pairwise) -> str:
    """The comparison of two runs in one sentence: it says what the verdict on the total says, and only then why."""
    total = pair.row(TOTAL.heading)
    baseline, target = pair.baseline_name, pair.target_name
    if total is None:
        return f"Nothing can be said: no sample succeeded in both {baseline} and {target}."
    over = f"over {total.n} paired {plural('sample', total.n)}{_in_processes(pair)}"
    if total.effect is None or not math.isfinite(total.ratio.high):
        return (
            f"Nothing can be claimed about {target} against {baseline} {over}: so few samples cannot show how much of "
            "their difference is chance."
        )
    ratio = f"ratio {with_limits(total.ratio, '')}"
    if total.judgement is None:
        return f"{target} against {baseline}, {over}: {ratio}, not judged ({total.text})."
    verdict = total.judgement.verdict
    apart = f"; {total.averages.text}" if total.averages and total.averages.disagree else ""
    if verdict in CLAIMS:
        return f"{target} is {total.text} than {baseline} in total ({ratio}) {over}{_causes(pair, total)}{apart}."
    if verdict is Verdict.EQUIVALENT:
        return f"{target} and {baseline} are {total.text} in total ({ratio}) {over}{apart}."
    if verdict is Verdict.INCONCLUSIVE:
        seen = detectable(total.detectable_ratio)
        would = f"; a change of {seen} would have been seen" if seen != MISSING else ""
        return f"No detectable difference in total between {target} and {baseline} {over}: {ratio}{would}{apart}."
    if verdict is Verdict.NOT_REPLICATED:
        return f"Not replicated: {target} against {baseline}, {ratio} {over}{apart}. {REMEDY}"
    return f"No claim, since a run is invalid: {target} against {baseline}, {ratio} {over}{apart}."


def _in_processes(pair: Pairwise) -> str:
    """`, in 5 processes a side`."""
    one, other = pair.replicates
    if one == other:
        return f", in {one} {'process' if one == 1 else 'processes'} a side"
    return f", in {other} against {one} processes"


def _causes(pair: Pairwise, total: Row) -> str:
    """What gives most of a claimed difference, and what works against it; "" where the means say another way."""
    found = pair.attribution
    if found is None or not math.isfinite(found.gap.estimate) or total.effect is None:
        return ""
    if found.gap.estimate * total.effect.log <= 0:
        return ""
    rounding = 1e-9 * max(found.baseline_s, found.target_s)
    clear = [
        factor
        for factor in found.factors
        if not factor.contribution.contains(0.0) and abs(factor.contribution.estimate) > rounding
    ]
    along = sorted((factor for factor in found.factors if factor.share > 0), key=lambda one: one.share, reverse=True)
    causes = [factor for factor in along if factor in clear]
    if not causes:
        return "; no single factor is distinguishable from chance"
    first, *others = causes
    most = "most of the gap" if first.share > 0.5 else "the largest part of the gap"
    if first is not along[0]:
        most = "of what is distinguishable from chance, the largest part"
    text = f"; {most} comes from {_name(found, first)} ({_part(first)})"
    if second := [factor for factor in others if factor.share >= MENTIONED][:MOST_CAUSES]:
        text += f", then {_and([f'{_name(found, factor)} ({_part(factor)})' for factor in second])}"
    if against := [factor for factor in clear if factor.share < 0 and -factor.share >= MENTIONED]:
        against.sort(key=lambda factor: factor.share)
        verb = "works" if len(against) == 1 else "work"
        text += f"; against it {verb} {_and([f'{_name(found, factor)} ({_part(factor)})' for factor in against])}"
    return text


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


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def targets_of(comparison: Comparison) -> list[RunData]:
    """The runs of its pairs, in their order."""
    return [run for i, run in enumerate(comparison.runs) if i != comparison.baseline]


def headline(comparison: Comparison, answer: Answer | None = None) -> str:
    """The result in at most three sentences: of two runs the pair's; of more what the swept settings do, and which
    configuration is the fastest; and what forbids it."""
    if len(comparison.pairs) == 1:
        (pair,) = comparison.pairs
        invalid = [run.name for run in comparison.runs if not run.valid]
        forbidden = (
            f" Do not rely on this: {_and(invalid)} {'is' if len(invalid) == 1 else 'are'} invalid." if invalid else ""
        )
        return f"{pair_sentence(pair)}{forbidden}"
    if answer is None or not answer.ranking:
        return _headline_of_many(comparison)
    parts = [_factors_in_words(answer), _fastest_in_words(answer)]
    if answer.invalid:
        count = len(answer.invalid)
        parts.append(f"{count} invalid {plural('run', count)} {'is' if count == 1 else 'are'} in neither.")
    return " ".join(filter(None, parts))


def _factors_in_words(answer: Answer) -> str:
    """`videollava takes 1.31x [1.22, 1.41] of eventgpt's total; precision: no detectable difference.`"""
    if not answer.factors:
        return ""
    parts = [factor_in_words(factor) for factor in answer.factors[:MOST_FACTORS]]
    more = len(answer.factors) - MOST_FACTORS
    return "; ".join(parts) + (f"; {more} more below" if more > 0 else "") + "."


def factor_in_words(factor: SettingFactor) -> str:
    """One level of a setting against its reference, over all runs that match otherwise."""
    found, judged = factor.effect, factor.judgement
    name = found.name.removesuffix(".name")
    both = f"{name}: {found.level} against {found.reference}"
    limits = with_limits(Interval(found.effect.low, found.effect.high, found.effect.ratio), "")
    if judged.verdict in CLAIMS:
        text = f"{both} is {judged.text} in total (ratio {limits})"
    else:
        text = f"{both}: {judged.text} in total (ratio {limits})"
    return text + (f", which depends on {_and(list(found.depends_on))}" if found.depends_on else "")


def _fastest_in_words(answer: Answer) -> str:
    first = answer.ranking[0]
    if not first.shown:
        return f"Which configuration is the fastest is not replicated. {REMEDY}"
    alike = [place.label for place in answer.ranking if place.ranked.rank[0] == 1]
    if len(alike) == 1:
        return f"Fastest is {first.label}."
    if len(alike) == len(answer.ranking):
        return f"In the ranking, which corrects for every pair, none of the {len(alike)} is told from the fastest."
    more = f" and {len(alike) - MOST_FACTORS} more" if len(alike) > MOST_FACTORS else ""
    return f"Fastest are {_and(alike[:MOST_FACTORS])}{more}, which cannot be told apart."


def _headline_of_many(comparison: Comparison) -> str:
    base = comparison.runs[comparison.baseline]
    sides = list(zip(targets_of(comparison), comparison.pairs, strict=True))
    counts = {verdict: sum(pair.verdict is verdict for pair in comparison.pairs) for verdict in Verdict}
    counted = [f"{count} {verdict.value}" for verdict, count in counts.items() if count]
    text = f"Of {len(sides)} runs against {base.name}, in total time: {', '.join(counted)}"
    claimed = [
        (row.ratio.estimate, pair.target_name, row)
        for _, pair in sides
        if (row := pair.row(TOTAL.heading)) is not None and row.verdict is Verdict.IMPROVED
    ]
    if claimed:
        _, name, row = min(claimed, key=lambda one: one[0])
        text += (
            f"; the fastest is {name}, {row.text} (ratio {with_limits(row.ratio, '')}) over {row.n} paired "
            f"{plural('sample', row.n)}"
        )
    forbidden = "" if base.valid else f" Do not rely on this: the baseline {base.name} is invalid."
    if counts[Verdict.NOT_REPLICATED]:
        forbidden = f" {REMEDY}{forbidden}"
    return f"{text}.{forbidden}"


def basis(comparison: Comparison) -> str:
    """What intervals and verdicts are, in one line for below a table."""
    over = "figures and runs" if len(comparison.pairs) > 1 else "figures"
    return (
        f"Ratio is target / baseline, of geometric means over the paired samples; brackets are "
        f"{100 * comparison.level:.0f} % intervals, over processes and video sequences. Verdicts at "
        f"{100 * comparison.alpha:g} %, Holm-corrected over {over}; Equivalent is within {100 * comparison.margin:g} % "
        "either way. “Would have seen” is the smallest change that a test would have found with 80 % power."
    )


def detectable(ratio: float) -> str:
    """The smallest change that would have been seen: `1.3 %`, `2.40x`; MISSING where no change would have been."""
    if not 1 <= ratio < 1e3:
        return MISSING
    if ratio < 1 + LEAST:
        return f"under {100 * LEAST:g} %"
    return f"{ratio:.2f}x" if ratio >= 1.5 else f"{100 * (ratio - 1):.2g} %"
