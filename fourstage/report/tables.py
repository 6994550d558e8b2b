"""Tables of a comparison as text, cell by cell, the same for a page, for Markdown and for a terminal.

Names of runs, samples and settings are in them as they are: whoever shows a cell escapes it (`text.py`). Left
out: the figures, which are `effects.py`'s, and how a table looks.

    stage_table(found.pairs[0]).rows[2][4].text    # "0.97 [0.96, 0.98]"
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fourstage.comparison.attribution import Attribution, sentence
from fourstage.comparison.effects import (
    Comparison,
    Pairwise,
    Row,
    RunData,
    Setting,
    StageFacts,
    Unpaired,
    Verdict,
)
from fourstage.records.wording import amount, with_limits
from fourstage.stages import STAGES
from fourstage.stats.intervals import Interval

NONE = "–"  # there is no such figure
MOST_COLUMNS = 6  # of settings beside each other
ROUNDING = 1e-9  # of a sample's time
LEAST = 1e-4  # below it a change that would have been seen is not told apart from none
MOST_TOLD = 12  # remarks of one kind
Kind = Literal["bad", "warned", "note"]


@dataclass(frozen=True)
class Cell:
    """What a cell says, and below it, smaller, what belongs to it."""

    text: str
    detail: str = ""
    mark: str = ""  # "Improved", "Regressed", "Equivalent", "Inconclusive", "cached", "bottleneck" or "invalid"


@dataclass(frozen=True)
class Table:
    """Rows under named columns; the first cell of a row names it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    last_is_sum: bool = False


@dataclass(frozen=True)
class Remark:
    """Something that a reader must know before believing a figure."""

    kind: Kind
    text: str


def headline(comparison: Comparison) -> str:
    """The result in a sentence: of two runs the attribution's, of more how many are what; and what forbids it."""
    base = comparison.runs[comparison.baseline]
    if len(comparison.pairs) > 1:
        return _headline_of_many(comparison)
    (pair,) = comparison.pairs
    if pair.attribution is None:
        return f"Nothing can be said: no sample succeeded in both {pair.baseline_name} and {pair.target_name}."
    text = sentence(pair.attribution, pair.baseline_name, pair.target_name)
    invalid = [run.name for run in (base, *_targets(comparison)) if not run.valid]
    return f"{text} This is not to be claimed: invalid is {_list(invalid)}." if invalid else text


def _headline_of_many(comparison: Comparison) -> str:
    base = comparison.runs[comparison.baseline]
    sides = list(zip(_targets(comparison), comparison.pairs, strict=True))
    valid = [pair for run, pair in sides if run.valid]
    counts = {verdict: sum(pair.verdict is verdict for pair in valid) for verdict in Verdict}
    told = [f"{count} {verdict.value}" for verdict, count in counts.items() if count]
    told += [f"{len(sides) - len(valid)} invalid"] if len(valid) < len(sides) else []
    text = f"Of {len(sides)} runs against {base.name}, in total time: {', '.join(told)}"
    claimed = [
        (row.ratio.estimate, pair.target_name, row)
        for pair in valid
        if (row := pair.row("total")) is not None and row.verdict is Verdict.IMPROVED and row.detected
    ]
    if claimed:
        _, name, row = min(claimed, key=lambda one: one[0])
        text += (
            f"; the fastest is {name}, {row.text} (ratio {with_limits(row.ratio, '')}) over {row.n} paired "
            f"{_plural('sample', row.n)}"
        )
    forbidden = "" if base.valid else f" This is not to be claimed: the baseline {base.name} is invalid."
    return f"{text}.{forbidden}"


def remarks(comparison: Comparison) -> tuple[Remark, ...]:
    """What speaks against the figures: runs that are invalid or warned, failures, samples without a partner."""
    base = comparison.runs[comparison.baseline]
    found: list[Remark] = []
    if not base.valid:
        found.append(Remark("bad", f"The baseline {base.name} is invalid, so nothing below should be claimed."))
    invalid = [run for run in comparison.runs if not run.valid]
    found += _limited(
        [Remark("bad", f"Invalid: {run.name} ({_list(run.checks_failed) or 'never checked'})") for run in invalid]
    )
    warned = [run for run in comparison.runs if run.checks_warned]
    by_checks: dict[tuple[str, ...], list[str]] = {}
    for run in warned:
        by_checks.setdefault(run.checks_warned, []).append(run.name)
    found += _limited(
        [
            Remark("warned", f"Warned of {_list(checks)}: {_few(names, len(names))}")
            for checks, names in by_checks.items()
        ]
    )
    lost: list[Remark] = []
    if comparison.pairs and (failed := comparison.pairs[0].failed_baseline).count:
        lost.append(Remark("warned", f"Failed in {base.name}: {_keys(failed)}"))
    for pair in comparison.pairs:
        if pair.n == 0:
            lost.append(Remark("bad", f"No sample succeeded in both {pair.baseline_name} and {pair.target_name}"))
        if pair.failed_target.count:
            lost.append(Remark("warned", f"Failed in {pair.target_name}: {_keys(pair.failed_target)}"))
        for only, name, other in (
            (pair.only_baseline, pair.baseline_name, pair.target_name),
            (pair.only_target, pair.target_name, pair.baseline_name),
        ):
            if only.count:
                lost.append(Remark("warned", f"Succeeded in {name} and not in {other}: {_keys(only)}; in no figure"))
    found += _limited(lost)
    found += _limited([remark for pair in comparison.pairs for remark in _cache_remarks(pair)])
    return tuple(found)


def overview(comparison: Comparison) -> Table:
    """One row a run against the baseline, on the total time of a sample."""
    base = comparison.runs[comparison.baseline]
    first = next((row for pair in comparison.pairs if (row := pair.row("total")) is not None), None)
    rows = [
        (
            Cell(base.name, "baseline", "" if base.valid else "invalid"),
            Cell(NONE),
            Cell(amount(first.baseline_mean, "s") if first else NONE),
            *[Cell(NONE)] * 6,
        )
    ]
    for run, pair in zip(_targets(comparison), comparison.pairs, strict=True):
        total, tpot = pair.row("total"), pair.row("TPOT")
        name = Cell(run.name, "" if run.valid else "invalid", "" if run.valid else "invalid")
        if total is None:
            rows.append((name, Cell(f"{pair.n}"), *[Cell(NONE)] * 7))
            continue
        rows.append(
            (
                name,
                Cell(f"{total.n}"),
                Cell(amount(total.target_mean, "s")),
                Cell(_limits(total.difference)),
                Cell(_limits(total.ratio, "")),
                Cell(total.text),
                replace(_verdict(total), detail=""),
                Cell(detectable(total.detectable_ratio)),
                Cell(_limits(tpot.ratio, "") if tpot else NONE, tpot.text if tpot else ""),
            )
        )
    return Table(
        "Runs against the baseline: mean total time of a sample",
        ("run", "n", "total", "difference", "ratio", "in words", "verdict", "would have seen", "TPOT ratio"),
        tuple(rows),
        f"{basis(comparison)} The baseline's total is over the samples that it shares with the first run.",
    )


def basis(comparison: Comparison) -> str:
    """What intervals and verdicts are, in one line for below a table."""
    corrected = ", Holm-corrected over the runs" if len(comparison.pairs) > 1 else ""
    return (
        f"Ratio is target / baseline, of means over the paired samples; brackets are {100 * comparison.level:.0f} % "
        f"intervals (bootstrap-t, {comparison.resamples} resamples). Verdicts at {100 * comparison.alpha:g} %"
        f"{corrected}; Equivalent is within {100 * comparison.margin:g} % either way. “Would have seen” is the "
        "smallest change that a test would have found with 80 % power."
    )


def stage_table(pair: Pairwise) -> Table:
    """Every figure of both runs: stages from left to right as rows, then totals, tokens, memory."""
    shares = {share.stage: share for share in pair.shares}
    rows = []
    for row in pair.rows:
        share = shares.get(row.name)
        rows.append(
            (
                Cell(row.name, "first part of decode" if row.name == "prefill" else ""),
                _side(row.baseline_mean, row.baseline_median, row, row.baseline_cached),
                _side(row.target_mean, row.target_median, row, row.target_cached),
                Cell(_limits(row.difference, row.unit)),
                Cell(_limits(row.ratio, "") if math.isfinite(row.ratio.estimate) else NONE),
                Cell(row.text, mark="cached" if row.baseline_cached != row.target_cached else ""),
                _verdict(row),
                _share(share.baseline, pair.bottleneck_baseline == row.name) if share else Cell(NONE),
                _share(share.target, pair.bottleneck_target == row.name) if share else Cell(NONE),
            )
        )
    missing = [stage for stage in STAGES if pair.row(stage) is None] if pair.n else []
    apart = f" Not timed apart in both runs: {', '.join(missing)}." if missing else ""
    return Table(
        f"Stage by stage: means over {pair.n} paired {_plural('sample', pair.n)}",
        (
            "",
            "baseline",
            "target",
            "difference",
            "ratio",
            "in words",
            "verdict",
            "share of baseline",
            "share of target",
        ),
        tuple(rows),
        f"Baseline is {pair.baseline_name}, target is {pair.target_name}.{apart}",
    )


def attribution_table(found: Attribution) -> Table:
    """What each factor adds to the gap; the last row is their sum, the gap itself."""
    rows = [
        (
            Cell(
                factor.label,
                "one of the runs had it from a cache" if factor.cached else "",
                "cached" if factor.cached else "",
            ),
            Cell(_signed(without_rounding(factor.contribution, found))),
            Cell(_percent(factor.share)),
            Cell(_log(factor.log_share)),
            Cell(f"× {factor.ratio:.3f}" if math.isfinite(factor.log_share) else NONE),
        )
        for factor in found.factors
    ]
    whole, ratio = 1.0 if found.gap.estimate else math.nan, found.ratio.estimate
    rows.append(
        (
            Cell("the gap"),
            Cell(_signed(without_rounding(found.gap, found))),
            Cell(_percent(whole)),
            Cell(_log(math.log(ratio)) if 0 < ratio < math.inf else NONE),
            Cell(f"× {ratio:.3f}" if math.isfinite(ratio) else NONE),
        )
    )
    left = (
        f" {found.left_out} paired {_plural('sample', found.left_out)} lacked a time and are left out."
        if found.left_out
        else ""
    )
    chance = (
        " The gap itself is not told apart from chance, so its shares are not either."
        if found.gap.contains(0.0)
        else ""
    )
    return Table(
        f"Where the gap comes from: seconds a sample that add up to it, n = {found.n}",
        ("factor", "adds to a sample", "share of the gap", "log share", "factor of the ratio"),
        tuple(rows),
        f"From {amount(found.baseline_s, 's')} to {amount(found.target_s, 's')}. The number of tokens and the time "
        f"per token share what they give together equally (Shapley). Log shares sum to the logarithm of the ratio, so "
        f"that the factors multiply to it.{left}{chance}",
        last_is_sum=True,
    )


def without_rounding(value: Interval, found: Attribution) -> Interval:
    """Seconds as they are; 0 where the whole interval is what adding up the times leaves."""
    least = ROUNDING * max(found.baseline_s, found.target_s)
    if max(abs(value.low), abs(value.high), abs(value.estimate)) < least:
        return replace(value, low=0.0, high=0.0, estimate=0.0)
    return value


def settings_table(settings: Sequence[Setting], names: Sequence[str]) -> Table | None:
    """The settings that differ; runs are columns where they are few, else rows. None where none differs."""
    if not settings:
        return None
    if len(names) <= MOST_COLUMNS:
        rows = tuple((Cell(one.name), *(Cell(value) for value in one.values)) for one in settings)
        return Table("Settings that differ", ("setting", *names), rows)
    rows = tuple((Cell(name), *(Cell(one.values[i]) for one in settings)) for i, name in enumerate(names))
    return Table("Settings that differ", ("run", *(one.name for one in settings)), rows)


def facts_table(comparison: Comparison, most: int = 24) -> Table:
    """What each stage worked on, one row for runs of which the same is true."""
    alike: dict[tuple[StageFacts, ...], list[str]] = {}
    for run, facts in zip(comparison.runs, comparison.facts, strict=True):
        alike.setdefault(facts, []).append(run.name)
    rows = [
        (
            Cell(_few(names, len(names)) if one is facts[0] else ""),
            Cell(one.stage, mark="cached" if one.cached else ""),
            Cell(", ".join(one.sources) or NONE if one.stage == "load" else NONE),
            Cell(one.operation),
            Cell(_size(one)),
        )
        for facts, names in list(alike.items())[:most]
        for one in facts
    ]
    more = f" The first {most} of {len(alike)} kinds." if len(alike) > most else ""
    return Table(
        "What each stage worked on, as measured",
        ("run", "stage", "source", "operation", "data"),
        tuple(rows),
        f"Medians over the samples that succeeded.{more}",
    )


def detectable(ratio: float) -> str:
    """The smallest change that would have been seen: `1.3 %`, `2.40x`; NONE where no change would have been."""
    if not 1 <= ratio < 1e3:
        return NONE
    if ratio < 1 + LEAST:
        return f"under {100 * LEAST:g} %"
    return f"{ratio:.2f}x" if ratio >= 1.5 else f"{100 * (ratio - 1):.2g} %"


def _targets(comparison: Comparison) -> list[RunData]:
    """The runs of its pairs, in their order."""
    return [run for i, run in enumerate(comparison.runs) if i != comparison.baseline]


def _side(mean: float, median: float, row: Row, cached: bool) -> Cell:
    unit = row.unit if row.unit in ("s", "ms", "bytes") else ""  # of counts it is said once
    detail = f"median {amount(median, unit)}" + (", cached" if cached else "")
    return Cell(amount(mean, row.unit), detail, "cached" if cached else "")


def _verdict(row: Row) -> Cell:
    if row.baseline_cached != row.target_cached:
        return Cell("cached", "no verdict", "cached")
    if row.verdict is None:
        return Cell(NONE)
    seen = detectable(row.detectable_ratio)
    told = row.verdict is Verdict.INCONCLUSIVE and seen != NONE
    return Cell(row.verdict.value, f"would have seen {seen}" if told else "", row.verdict.value)


def _share(share: float, bottleneck: bool) -> Cell:
    return Cell(f"{100 * share:.1f} %", "bottleneck" if bottleneck else "", "bottleneck" if bottleneck else "")


def _cache_remarks(pair: Pairwise) -> list[Remark]:
    found = []
    for side, name, stages, fill in (
        ("baseline", pair.baseline_name, pair.cached_baseline, pair.cache_fill_baseline_s),
        ("target", pair.target_name, pair.cached_target, pair.cache_fill_target_s),
    ):
        if stages:
            cost = (
                f"filling it took {amount(fill, 's')}, which is in no stage"
                if fill is not None
                else "what filling it took is not known"
            )
            uneven = pair.cached_baseline != pair.cached_target
            so = "; its total and TTFT are without that work" if uneven else ""
            found.append(Remark("note", f"Cached in {name} (the {side}): {_list(stages)}; {cost}{so}"))
    return found


def _signed(interval: Interval) -> str:
    text = _limits(interval)
    return f"+{text}" if interval.estimate > 0 and not text.startswith("0 ") else text


def _percent(share: float) -> str:
    return _minus(f"{100 * share:.1f} %") if math.isfinite(share) else NONE


def _log(value: float) -> str:
    return _minus(f"{value:+.4f}") if math.isfinite(value) else NONE


def _limits(interval: Interval, unit: str = "s") -> str:
    return _minus(with_limits(interval, unit))


def _minus(text: str) -> str:
    """With minus signs; none before what rounds to 0."""
    return re.sub(r"-(0(?:\.0+)?)(?![.\d])", r"\1", text).replace("-", "−")


def _size(facts: StageFacts) -> str:
    if facts.stage == "load":
        return f"{amount(facts.bytes_read, 'bytes')} read" if facts.bytes_read is not None else NONE
    if facts.stage == "preprocess":
        return f"{facts.images:g} images" if facts.images is not None else NONE
    if facts.stage == "encode":
        return f"{facts.visual_tokens:g} visual tokens" if facts.visual_tokens is not None else NONE
    return NONE


def _keys(unpaired: Unpaired) -> str:
    return f"{unpaired.count} {_plural('sample', unpaired.count)} ({_few(unpaired.first, unpaired.count, 5)})"


def _few(names: Sequence[str], count: int, most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {count - min(len(names), most)} more" if count > min(len(names), most) else shown


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _limited(found: list[Remark]) -> list[Remark]:
    if len(found) <= MOST_TOLD:
        return found
    return [*found[:MOST_TOLD], Remark(found[0].kind, f"and {len(found) - MOST_TOLD} more of this kind")]
