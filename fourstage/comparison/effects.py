"""Comparison: runs against one of them, sample by sample: what differs, by how much, and what can be claimed.

Every figure of a pair of runs is over the samples that succeeded in both; a ratio is target / baseline. Left out:
why they differ (`attribution.py`, which is part of a `Pairwise`), the texts (`texts.py`), and how it is shown.

    found = compare([baseline, target])
    found.pairs[0].row("encode").ratio     # Interval(low=0.96, high=0.98, estimate=0.97, ...)
    found.pairs[0].verdict                 # Verdict.IMPROVED
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fourstage.comparison.attribution import Attribution, attribute_pairs
from fourstage.comparison.pairing import QUANTITIES, Pairs, pair_keys, per_key
from fourstage.comparison.run_data import (
    RunData,
    Setting,
    StageFacts,
    cache_fill_s,
    cached_stages,
    differing_settings,
    own_memory,
    stage_facts,
)
from fourstage.comparison.verdicts import ALPHA, Judgement, Verdict, by_cluster, judge, log_ratios
from fourstage.records.figures import COMPARISON, PEAK_MEMORY, TOTAL, Figure
from fourstage.records.units import ratio_in_words
from fourstage.stages import STAGES
from fourstage.stats.intervals import Interval, ratio_intervals

RESAMPLES, RESAMPLES_OF_MANY, MANY = 2000, 1000, 100  # more than so many runs get fewer
SHOWN_KEYS = 5
INDEX = [QUANTITIES.index(figure.field) for figure in COMPARISON]  # columns of a PerKey's values


@dataclass(frozen=True)
class Row:
    """One figure in both runs, over the samples that have it in both; seconds, ms, bytes or counts as `unit` says."""

    name: str  # a figure's heading
    unit: str
    kind: str  # "time", "rate", "count" or "size"
    n: int
    baseline_median: float
    target_median: float
    baseline_mean: float
    target_mean: float
    difference: Interval  # of the means, target − baseline
    ratio: Interval  # of the means, target / baseline
    verdict: Verdict | None  # None where neither way is better, and where one side was cached
    p_value: float  # of no difference, corrected over the runs; NaN without verdict
    detectable_ratio: float  # the smallest slow-down that would have been seen, e.g. 1.013; inf: none
    baseline_cached: bool = False
    target_cached: bool = False

    @property
    def detected(self) -> bool:
        """The intervals of difference and ratio exclude 0 and 1; of very few samples they need not agree."""
        return not self.difference.contains(0.0) and not self.ratio.contains(1.0)

    @property
    def text(self) -> str:
        """`1.23x faster`, `125 % more`, `no detectable difference`, `cached in the target`; `unknown` of 0."""
        if self.baseline_cached != self.target_cached:
            return f"cached in the {'target' if self.target_cached else 'baseline'}"
        if math.isnan(self.ratio.estimate):
            return "unknown"
        if not math.isfinite(self.ratio.high - self.ratio.low):
            return "too few samples to tell"
        if not self.detected and self.ratio.low != self.ratio.high:
            return "no detectable difference"
        return ratio_in_words(self.ratio.estimate, self.kind)


@dataclass(frozen=True)
class Unpaired:
    """Keys that succeeded in one run and not in the other."""

    count: int
    first: tuple[str, ...]  # SHOWN_KEYS of them


@dataclass(frozen=True)
class Share:
    """A stage's mean time by the mean total, over the paired samples: a share of each run, never of the gap."""

    stage: str
    baseline: float
    target: float


@dataclass(frozen=True, eq=False)
class Pairwise:
    """One run, the target, against the baseline."""

    baseline_id: str
    target_id: str
    baseline_name: str
    target_name: str
    n: int  # keys that succeeded in both
    clusters: int  # n, or fewer calls of the model where it took batches
    only_baseline: Unpaired
    only_target: Unpaired
    failed_baseline: Unpaired  # keys that never succeeded there
    failed_target: Unpaired
    rows: tuple[Row, ...]  # in the order of COMPARISON, without figures that were not measured
    shares: tuple[Share, ...]  # of the four stages
    bottleneck_baseline: str  # the stage with the largest share; "" where what was not timed apart may be larger
    bottleneck_target: str
    settings: tuple[Setting, ...]  # that differ between the two
    cached_baseline: tuple[str, ...]
    cached_target: tuple[str, ...]
    cache_fill_baseline_s: float | None  # what filling the cache took, in no stage
    cache_fill_target_s: float | None
    attribution: Attribution | None  # None where nothing pairs

    def row(self, name: str) -> Row | None:
        """The figure with that heading; None where it was not measured in both."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def verdict(self) -> Verdict:
        """On the total time."""
        total = self.row(TOTAL.heading)
        return (total and total.verdict) or Verdict.INCONCLUSIVE

    @property
    def detectable_ratio(self) -> float:
        """The smallest slow-down of the total that would have been seen."""
        total = self.row(TOTAL.heading)
        return total.detectable_ratio if total else math.inf


@dataclass(frozen=True, eq=False)
class Comparison:
    """All runs, and each of the others against the baseline."""

    runs: tuple[RunData, ...]
    baseline: int  # its index in `runs`
    pairs: tuple[Pairwise, ...]  # in the order of `runs`, without the baseline
    settings: tuple[Setting, ...]  # that differ between any of the runs
    facts: tuple[tuple[StageFacts, ...], ...]  # of each run
    margin: float
    alpha: float  # of verdicts, before the correction
    level: float  # of intervals
    resamples: int

    @property
    def valid(self) -> bool:
        """The baseline is: against an invalid run nothing should be claimed."""
        return self.runs[self.baseline].valid


def compare(
    runs: Sequence[RunData], baseline: int = 0, margin: float = 0.02, seed: int = 0, level: float = 0.95
) -> Comparison:
    """Compare every run with the baseline, and say what can be claimed of each.

    Intervals are paired bootstrap-t's (`paired_interval`) with keys as clusters, or calls where the model took
    batches; all rows and runs with as many clusters share one set of draws, and a run among more than 100 has
    1000 resamples instead of 2000.

    Verdicts are on the mean log ratio target / baseline of the samples, whose spread between samples cancels
    (Student's t over clusters, two-sided). Equivalent: it lies within the margin either way, from 1 / (1 + margin) to
    1 + margin, by two one-sided tests (Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15, 1987), be it
    different or not; else Improved or Regressed by the test of no difference; else Inconclusive. Both tests are
    at 1 %, after Holm's correction over the runs for each row (Scandinavian Journal of Statistics 6, 1979): at
    5 %, one of twenty comparisons of a run with itself would claim something. Samples of which one has 0 have no
    ratio and are left out of the verdict; where both have 0 they are equal.

    `detectable_ratio` is what a test of Bonferroni's level, Holm's first and strictest, finds with 80 % power.

    Raises ValueError for fewer than two runs, a baseline that is none of them, a margin or level out of range.
    """
    if len(runs) < 2:
        raise ValueError(f"a comparison needs two runs, not {len(runs)}")
    if not 0 <= baseline < len(runs):
        raise ValueError(f"the baseline is run {baseline} of {len(runs)}; they count from 0")
    if not 0 < margin < 1:
        raise ValueError(f"a margin lies between 0 and 1, not at {margin:g}; 0.02 is 2 %")
    sides = [per_key(run.columns) for run in runs]
    targets = [i for i in range(len(runs)) if i != baseline]
    resamples = RESAMPLES if len(targets) <= MANY else RESAMPLES_OF_MANY
    paired = [pair_keys(sides[baseline], sides[i]) for i in targets]
    caches = [cached_stages(run.params) for run in runs]
    effects = [_effects(pairs, seed, resamples, level) for pairs in paired]
    uneven = [set(caches[baseline]) ^ set(caches[i]) for i in targets]
    for i, rows in zip(targets, effects, strict=True):
        if not (own_memory(runs[baseline]) and own_memory(runs[i])):
            rows[COMPARISON.index(PEAK_MEMORY)] = None
    tested = np.array(
        [
            [figure.better != 0 and figure.stage not in odd and effect is not None
             for figure, effect in zip(COMPARISON, rows, strict=True)]
            for odd, rows in zip(uneven, effects, strict=True)
        ]
    )  # fmt: skip
    ratios = [
        log_ratios(pairs.baseline_values[:, INDEX], pairs.target_values[:, INDEX], pairs.clusters) for pairs in paired
    ]
    verdicts = judge(ratios, tested, [figure.better for figure in COMPARISON], margin)
    found = []
    for i, pairs, rows, odd, judged in zip(targets, paired, effects, uneven, verdicts, strict=True):
        one, other = runs[baseline], runs[i]
        judged_rows = [
            _row(figure, effect, figure.stage in caches[baseline], figure.stage in caches[i], judgement)
            for figure, effect, judgement in zip(COMPARISON, rows, judged, strict=True)
            if effect is not None
        ]
        shares = _shares(pairs)
        found.append(
            Pairwise(
                baseline_id=one.run_id,
                target_id=other.run_id,
                baseline_name=one.name,
                target_name=other.name,
                n=pairs.n,
                clusters=int(pairs.clusters.max(initial=-1)) + 1,
                only_baseline=_unpaired(pairs.only_baseline),
                only_target=_unpaired(pairs.only_target),
                failed_baseline=_unpaired(sides[baseline].failed),
                failed_target=_unpaired(sides[i].failed),
                rows=tuple(judged_rows),
                shares=shares,
                bottleneck_baseline=_bottleneck({share.stage: share.baseline for share in shares}),
                bottleneck_target=_bottleneck({share.stage: share.target for share in shares}),
                settings=differing_settings((one, other)),
                cached_baseline=caches[baseline],
                cached_target=caches[i],
                cache_fill_baseline_s=cache_fill_s(one),
                cache_fill_target_s=cache_fill_s(other),
                attribution=attribute_pairs(pairs, tuple(odd), seed, resamples, level),
            )
        )
    return Comparison(
        runs=tuple(runs),
        baseline=baseline,
        pairs=tuple(found),
        settings=differing_settings(runs),
        facts=tuple(stage_facts(run) for run in runs),
        margin=margin,
        alpha=ALPHA,
        level=level,
        resamples=resamples,
    )


def _bottleneck(shares: Mapping[str, float]) -> str:
    stage, largest = max(shares.items(), key=lambda item: item[1], default=("", 0.0))
    return stage if largest >= 1 - sum(shares.values()) else ""


def _unpaired(keys: Sequence[str]) -> Unpaired:
    return Unpaired(len(keys), tuple(keys[:SHOWN_KEYS]))


def _shares(pairs: Pairs) -> tuple[Share, ...]:
    """Of the stages that both runs timed, over the samples where both did."""
    found = []
    for stage in STAGES:
        sides = [(read(f"{stage}_s"), read(TOTAL.field)) for read in (pairs.baseline, pairs.target)]
        there = np.logical_and.reduce([np.isfinite(values) for side in sides for values in side])
        totals = [float(total[there].sum()) for _, total in sides]
        if all(total > 0 for total in totals):
            found.append(
                Share(stage, *(float(part[there].sum()) / w for (part, _), w in zip(sides, totals, strict=True)))
            )
    return tuple(found)


@dataclass(frozen=True)
class _Effect:
    """A row before its verdict."""

    n: int
    medians: tuple[float, float]
    means: tuple[float, float]
    difference: Interval
    ratio: Interval


def _effects(pairs: Pairs, seed: int, resamples: int, level: float) -> list[_Effect | None]:
    """The effect on each figure of COMPARISON, None where no pair has it; figures of the same pairs share draws."""
    before, after = pairs.baseline_values[:, INDEX], pairs.target_values[:, INDEX]  # [keys, rows]
    there = np.isfinite(before) & np.isfinite(after)
    alike: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(there.any(axis=0)):
        alike.setdefault(there[:, row].tobytes(), []).append(int(row))
    effects: list[_Effect | None] = [None] * len(COMPARISON)
    for rows in alike.values():
        present = there[:, rows[0]]
        one, other = before[present][:, rows], after[present][:, rows]
        n = len(one)
        codes = np.unique(pairs.clusters[present], return_inverse=True)[1].reshape(-1)
        below = by_cluster(one, codes)
        sizes = np.broadcast_to(by_cluster(np.ones((n, 1)), codes), below.shape)
        tops = np.concatenate([by_cluster(other - one, codes), by_cluster(other, codes)], axis=1)
        intervals = ratio_intervals(tops, np.concatenate([sizes, below], axis=1), n, seed, resamples, level)
        medians, means = ([f(side, axis=0) for side in (one, other)] for f in (np.median, np.mean))
        for i, index in enumerate(rows):
            effects[index] = _Effect(
                n=n,
                medians=(float(medians[0][i]), float(medians[1][i])),
                means=(float(means[0][i]), float(means[1][i])),
                difference=intervals[i],
                ratio=intervals[len(rows) + i],
            )
    return effects


def _row(figure: Figure, effect: _Effect, baseline_cached: bool, target_cached: bool, judgement: Judgement) -> Row:
    return Row(
        name=figure.heading,
        unit=figure.unit,
        kind=figure.kind,
        n=effect.n,
        baseline_median=effect.medians[0],
        target_median=effect.medians[1],
        baseline_mean=effect.means[0],
        target_mean=effect.means[1],
        difference=effect.difference,
        ratio=effect.ratio,
        verdict=judgement.verdict,
        p_value=judgement.p_value,
        detectable_ratio=judgement.detectable_ratio,
        baseline_cached=baseline_cached,
        target_cached=target_cached,
    )
