"""Tables of a comparison as plain data: text, numbers and units of each cell, for every renderer.

Names of runs, samples and settings are in the cells as they are: the renderer escapes them. Left out: the figures
(`effects.py`), and how a table looks (`terminal.py`, `html.py`, `markdown.py`, `exports.py`).

    stage_table(found.pairs[0]).rows[2][4].text    # "0.97 [0.96, 0.98]"
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fourstage.comparison.answer import Answer
from fourstage.comparison.attribution import Attribution
from fourstage.comparison.effects import Comparison, Pairwise, Row
from fourstage.comparison.findings import Finding
from fourstage.comparison.run_data import Setting, StageFacts
from fourstage.records.figures import LOAD, OF_STAGE, PREFILL, RUN_TABLE, TOKENS_OUT, TOTAL, TPOT
from fourstage.records.units import MISSING, amount, first_few, minus, percent, plural, with_limits
from fourstage.report.wording import basis, detectable, targets_of
from fourstage.stages import STAGES
from fourstage.stats.clusters import Floats
from fourstage.stats.intervals import Interval
from fourstage.stats.verdicts import Verdict

RANKED = (TOTAL, *OF_STAGE, TOKENS_OUT, TPOT)  # means beside a rank
MOST_COLUMNS = 6  # of settings beside each other
ROUNDING = 1e-9  # of a sample's time
SECONDARY = "would have seen"


@dataclass(frozen=True)
class Cell:
    """What a cell says; below it, smaller, what belongs to it; and its number, where it is one."""

    text: str
    detail: str = ""
    mark: str = ""  # "Improved", "Regressed", "Equivalent", "Inconclusive", "cached", "bottleneck" or "invalid"
    value: float | Interval | None = None
    unit: str = ""  # of `value`
    extra: str = ""  # a detail for where there is room: on a page, not at a terminal

    @property
    def details(self) -> str:
        """All that belongs to it."""
        return ", ".join(filter(None, (self.extra, self.detail)))


@dataclass(frozen=True)
class Table:
    """Rows under named columns; the first cell of a row names it."""

    name: str  # as a file
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    last_is_sum: bool = False

    def first(self, most: int, what: str) -> Table:
        """The first rows; the note says how many there are."""
        if len(self.rows) <= most:
            return self
        note = f"{self.note} The first {most} of {len(self.rows)} {what}.".strip()
        return replace(self, rows=self.rows[:most], note=note)


NONE = Cell(MISSING)


def overview(comparison: Comparison) -> Table:
    """One row a run against the baseline, on the total time of a sample."""
    base = comparison.runs[comparison.baseline]
    first = next((row for pair in comparison.pairs if (row := pair.row(TOTAL.heading)) is not None), None)
    rows = [
        (
            Cell(base.name, "baseline" if base.valid else "baseline, invalid", "" if base.valid else "invalid"),
            Cell(f"{first.n}", value=first.n) if first else NONE,
            _number(first.baseline_mean, "s") if first else NONE,
            *[NONE] * 6,
        )
    ]
    for run, pair in zip(targets_of(comparison), comparison.pairs, strict=True):
        total, tpot = pair.row(TOTAL.heading), pair.row(TPOT.heading)
        name = Cell(run.name, "" if run.valid else "invalid", "" if run.valid else "invalid")
        if total is None:
            rows.append((name, Cell(f"{pair.n}", value=pair.n), *[NONE] * 7))
            continue
        rows.append(
            (
                name,
                Cell(f"{total.n}", value=total.n),
                _number(total.target_mean, "s"),
                _interval(total.difference, "s"),
                _interval(total.ratio),
                Cell(total.text),
                replace(_verdict(total), detail=""),
                Cell(detectable(total.detectable_ratio), value=total.detectable_ratio),
                replace(_interval(tpot.ratio), detail=tpot.text) if tpot else NONE,
            )
        )
    return Table(
        "overview",
        "Runs against the baseline: mean total time of a sample",
        ("run", "n", "total", "difference", "ratio", "in words", "verdict", SECONDARY, "TPOT ratio"),
        tuple(rows),
        f"{basis(comparison)} The baseline's n and total are of the samples that it shares with the first run.",
    )


def ranking_table(found: Answer) -> Table | None:
    """All configurations, fastest first; None where they are not ranked."""
    if not found.ranking:
        return None
    rows = []
    for place in found.ranking:
        best, worst = place.ranked.rank
        rank = (f"{best}" if best == worst else f"{best}–{worst}") if place.shown else MISSING
        done = place.run.columns.measured.done
        means = [
            float(np.mean(values)) if len(values := _present(getattr(done, one.field))) else None for one in RANKED
        ]
        rows.append(
            (
                Cell(place.label),
                Cell(rank, value=float(best)),
                Cell(f"{place.ranked.ratio:.2f}x", value=place.ranked.ratio),
                *(Cell(one.cell(mean), value=mean) for one, mean in zip(RANKED, means, strict=True)),
            )
        )
    shared = "A range of ranks: the measurement does not tell these configurations apart."
    single = "No ranks: a process a configuration does not show how far processes of one differ (replicates=5)."
    return Table(
        "ranking",
        "Ranking: total time of a sample, fastest first",
        ("configuration", "rank", "to the fastest", *(one.heading for one in RANKED)),
        tuple(rows),
        shared if found.ranking[0].shown else single,
    )


def factors_table(found: Answer) -> Table | None:
    """Each level of each swept setting against its reference, over all runs that match otherwise."""
    if not found.factors:
        return None
    rows = []
    for factor in found.factors:
        one = factor.effect
        effect = Interval(one.effect.low, one.effect.high, one.effect.ratio)
        seen = detectable(factor.judgement.detectable_ratio) if one.effect.replicated else MISSING
        depends = f"depends on {', '.join(one.depends_on)}" if one.depends_on else ""
        rows.append(
            (
                Cell(one.name.removesuffix(".name"), depends),
                Cell(f"{one.level} against {one.reference}"),
                _interval(effect),
                Cell(factor.judgement.text),
                Cell(factor.judgement.verdict.value, "", factor.judgement.verdict.value),
                Cell(seen, value=factor.judgement.detectable_ratio),
                Cell(f"{one.matches}", value=float(one.matches)),
            )
        )
    return Table(
        "factors",
        "What each setting does to the total time, over all others",
        ("setting", "level", "ratio", "in words", "verdict", SECONDARY, "pairs of runs"),
        tuple(rows),
        "Geometric means over the runs that agree in every other setting, corrected together (Holm).",
    )


def _present(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def medians_table(comparison: Comparison) -> Table:
    """Each run's own medians, figure by figure, over all samples that succeeded in it."""
    rows = []
    for run in comparison.runs:
        done = run.columns.measured.done
        cells = [Cell(run.name, "" if run.valid else "invalid", "" if run.valid else "invalid")]
        for figure in RUN_TABLE:
            values = getattr(done, figure.field)
            values = values[~np.isnan(values)]
            median = float(np.median(values)) if len(values) else None
            cached = figure.stage in run.columns.cached_stages
            mark = "cached" if cached else ""
            cells.append(Cell(figure.cell(median), mark, mark, median, figure.unit if len(values) else ""))
        rows.append(tuple(cells))
    return Table(
        "medians",
        "Medians of each run over all samples that succeeded in it",
        ("run", *(figure.heading for figure in RUN_TABLE)),
        tuple(rows),
    )


def stage_table(pair: Pairwise) -> Table:
    """Every figure of both runs: stages from left to right as rows, then totals, tokens, memory."""
    shares = {share.stage: share for share in pair.shares}
    rows = []
    for row in pair.rows:
        share = shares.get(row.name)
        rows.append(
            (
                Cell(row.name, _about(row, pair)),
                _side(row.baseline_mean, row.baseline_median, row, row.baseline_cached),
                _side(row.target_mean, row.target_median, row, row.target_cached),
                _interval(row.difference, row.unit),
                _interval(row.ratio) if math.isfinite(row.ratio.estimate) else NONE,
                Cell(row.text, mark="cached" if row.baseline_cached != row.target_cached else ""),
                _verdict(row),
                _share(share.baseline, pair.bottleneck_baseline == row.name) if share else NONE,
                _share(share.target, pair.bottleneck_target == row.name) if share else NONE,
            )
        )
    missing = [stage for stage in STAGES if pair.row(stage) is None] if pair.n else []
    apart = f" Not timed apart in both runs: {', '.join(missing)}." if missing else ""
    calls = f" in {pair.clusters} calls of the model" if pair.clusters < pair.n else ""
    return Table(
        "stages",
        f"Stage by stage: means over {pair.n} paired {plural('sample', pair.n)}{calls}",
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
            _added(without_rounding(factor.contribution, found)),
            _percent(factor.share),
            _log(factor.log_share),
            _multiplied(factor.ratio),
        )
        for factor in found.factors
    ]
    whole, ratio = 1.0 if found.gap.estimate else math.nan, found.ratio.estimate
    rows.append(
        (
            Cell("the gap"),
            _added(without_rounding(found.gap, found)),
            _percent(whole),
            _log(math.log(ratio) if 0 < ratio < math.inf else math.nan),
            _multiplied(ratio),
        )
    )
    left = (
        f" {found.left_out} paired {plural('sample', found.left_out)} lacked a time and are left out."
        if found.left_out
        else ""
    )
    chance = (
        " The gap itself is not distinguishable from chance, so neither are its shares."
        if found.gap.contains(0.0)
        else ""
    )
    return Table(
        "attribution",
        f"Where the gap comes from: seconds a sample that add up to it, n = {found.n}",
        ("factor", "adds to a sample", "share of the gap", "log share", "factor of the ratio"),
        tuple(rows),
        f"From {amount(found.baseline_s, 's')} to {amount(found.target_s, 's')}. The number of tokens and the time "
        f"per token share what they give together equally (Shapley). Log shares sum to the logarithm of the ratio, so "
        f"that the factors multiply to it.{left}{chance}",
        last_is_sum=True,
    )


def without_rounding(value: Interval, found: Attribution) -> Interval:
    """Seconds as they are; 0 where the whole interval is rounding error of adding up the times."""
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
        return Table("settings", "Settings that differ", ("setting", *names), rows)
    rows = tuple((Cell(name), *(Cell(one.values[i]) for one in settings)) for i, name in enumerate(names))
    return Table("settings", "Settings that differ", ("run", *(one.name for one in settings)), rows)


def facts_table(comparison: Comparison, most: int = 24) -> Table:
    """What each stage worked on, one row for runs of which the same is true."""
    alike: dict[tuple[StageFacts, ...], list[str]] = {}
    for run, facts in zip(comparison.runs, comparison.facts, strict=True):
        alike.setdefault(facts, []).append(run.name)
    rows = [
        (
            Cell(first_few(names) if one is facts[0] else ""),
            Cell(one.stage, mark="cached" if one.cached else ""),
            Cell(", ".join(one.sources) or MISSING) if one.stage == LOAD.heading else NONE,
            Cell(one.operation),
            _size(one),
        )
        for facts, names in list(alike.items())[:most]
        for one in facts
    ]
    more = f" The first {most} of {len(alike)} kinds." if len(alike) > most else ""
    return Table(
        "facts",
        "What each stage worked on, as measured",
        ("run", "stage", "source", "operation", "data"),
        tuple(rows),
        f"Medians over the samples that succeeded.{more}",
    )


def findings_table(findings: Iterable[Finding]) -> Table | None:
    """The questions of a study with their answers; None without any."""
    rows = tuple((Cell(one.question), Cell(one.answer, mark="answer"), Cell(one.measured)) for one in findings)
    title = "What the study asked, and what was measured"
    return Table("findings", title, ("question", "answer", "measured"), rows) if rows else None


def _about(row: Row, pair: Pairwise) -> str:
    parts = ["first part of decode"] if row.name == PREFILL.heading else []
    return ", ".join([*parts, f"n = {row.n}"] if row.n != pair.n else parts)


def _number(value: float, unit: str) -> Cell:
    return Cell(amount(value, unit), value=value, unit=unit)


def _interval(interval: Interval, unit: str = "") -> Cell:
    return Cell(with_limits(interval, unit), value=interval, unit=unit)


def _side(mean: float, median: float, row: Row, cached: bool) -> Cell:
    unit = row.unit if row.unit in ("s", "ms", "bytes") else ""  # the unit of a count is there once
    mark = "cached" if cached else ""
    return replace(_number(mean, row.unit), detail=mark, mark=mark, extra=f"median {amount(median, unit)}")


def _verdict(row: Row) -> Cell:
    if row.baseline_cached != row.target_cached:
        return Cell("cached", "no verdict", "cached")
    if row.verdict is None:
        return NONE
    seen = detectable(row.detectable_ratio)
    limit = f"{SECONDARY} {seen}" if row.verdict is Verdict.INCONCLUSIVE and seen != MISSING else ""
    return Cell(row.verdict.value, limit, row.verdict.value)


def _share(share: float, bottleneck: bool) -> Cell:
    mark = "bottleneck" if bottleneck else ""
    return Cell(percent(share), mark, mark, share)


def _added(interval: Interval) -> Cell:
    made = _interval(interval, "s")
    return replace(made, text=f"+{made.text}") if interval.estimate > 0 and not made.text.startswith("0 ") else made


def _percent(share: float) -> Cell:
    return Cell(minus(percent(share)), value=share)


def _log(value: float) -> Cell:
    return Cell(minus(f"{value:+.4f}"), value=value) if math.isfinite(value) else NONE


def _multiplied(ratio: float) -> Cell:
    return Cell(f"× {ratio:.3f}", value=ratio) if math.isfinite(ratio) else NONE


def _size(facts: StageFacts) -> Cell:
    if facts.stage == "load" and facts.bytes_read is not None:
        return Cell(f"{amount(facts.bytes_read, 'bytes')} read", value=facts.bytes_read, unit="bytes")
    if facts.stage == "preprocess" and facts.images is not None:
        return Cell(f"{facts.images:g} images", value=facts.images, unit="images")
    if facts.stage == "encode" and facts.visual_tokens is not None:
        return Cell(f"{facts.visual_tokens:g} visual tokens", value=facts.visual_tokens, unit="visual tokens")
    return NONE
