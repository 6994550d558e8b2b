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
from dataclasses import dataclass, replace

import numpy as np

from fourstage.comparison.attribution import Attribution, attribute_pairs
from fourstage.comparison.cells import Cells, cells, sequence_of
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
from fourstage.records.figures import COMPARISON, PEAK_MEMORY, TOTAL, Figure
from fourstage.records.units import ratio_in_words
from fourstage.stages import STAGES
from fourstage.stats.clusters import Floats, Ints, numbered
from fourstage.stats.intervals import Interval
from fourstage.stats.replicates import Averages, Effect, Floor, effect_of_fits
from fourstage.stats.variance import Fit, fit
from fourstage.stats.verdicts import ALPHA, CLAIMS, Judgement, Verdict, judge

RESAMPLES, RESAMPLES_OF_MANY, MANY = 2000, 1000, 100  # of attributions; more than so many runs get fewer
SHOWN_KEYS = 5
Floors = Mapping[str, Mapping[str, Floor]]  # run id → a figure's field → the noise floor that its machine is known for


@dataclass(frozen=True)
class Row:
    """One figure in both runs, over the samples that have it in both; seconds, ms, bytes or counts as `unit` says."""

    name: str  # a figure's heading
    unit: str
    kind: str  # "time", "rate", "count", "size" or "score"
    n: int
    baseline_median: float
    target_median: float
    baseline_mean: float
    target_mean: float
    difference: Interval  # the baseline's mean x (ratio - 1): it always has the ratio's sign; of scores, points
    ratio: Interval  # of geometric means, target / baseline; NaN of scores, and where no sample has one
    effect: Effect | None  # behind the ratio
    judgement: Judgement | None  # None where neither way is better, and where one side was cached
    averages: Averages | None = None  # the ratio by other averages
    baseline_cached: bool = False
    target_cached: bool = False

    @property
    def verdict(self) -> Verdict | None:
        """What can be claimed; None where nothing is judged."""
        return self.judgement.verdict if self.judgement else None

    @property
    def p_value(self) -> float:
        """Of no difference, corrected; NaN without a judgement."""
        return self.judgement.p_value if self.judgement else math.nan

    @property
    def detectable_ratio(self) -> float:
        """The smallest slow-down that would have been seen, e.g. 1.013; inf: none."""
        judged = self.judgement
        return judged.detectable_ratio if judged and judged.effect.replicated else math.inf

    @property
    def claimed(self) -> bool:
        """The verdict says that the two differ."""
        return self.verdict in CLAIMS

    @property
    def detected(self) -> bool:
        """The interval of the ratio excludes 1."""
        return math.isfinite(self.ratio.estimate) and not self.ratio.contains(1.0)

    @property
    def text(self) -> str:
        """`1.23x faster`, `equal within 2 %`, `not replicated`, `cached in the target`; `unknown` of 0.

        It says what the verdict says; of a figure that is not judged, what the interval shows.
        """
        if self.baseline_cached != self.target_cached:
            return f"cached in the {'target' if self.target_cached else 'baseline'}"
        if self.effect is None:
            return "unknown"
        if self.judgement is not None:
            return self.judgement.text
        if not math.isfinite(self.ratio.high):
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
    clusters: int  # video sequences of these, or calls of the model where it took batches
    replicates: tuple[int, int]  # processes of the baseline and of the target
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
    def ratio(self) -> float | None:
        """Of the total; None where it is not known."""
        total = self.row(TOTAL.heading)
        return total.effect.ratio if total and total.effect else None

    @property
    def text(self) -> str:
        """The total in words."""
        total = self.row(TOTAL.heading)
        return total.text if total else "unknown"

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
    runs: Sequence[RunData],
    baseline: int = 0,
    margin: float = 0.02,
    seed: int = 0,
    level: float = 0.95,
    floors: Floors | None = None,
) -> Comparison:
    """Compare every run with the baseline, and say what can be claimed of each.

    Ratios are of geometric means over the samples that both measured, with two sources of variation in the interval:
    between processes (a run's replicates) and between video sequences (docs/statistics.md). A side of one process
    is not replicated, and claims nothing, unless `floors` knows how far processes of its configuration differ. Runs
    that are invalid claim nothing.

    Verdicts are at 5 %: of the total after Holm's correction over the runs, of all other figures after that over
    figures and runs (Scandinavian Journal of Statistics 6, 1979). Equivalent: within the margin either way, from
    1 / (1 + margin) to 1 + margin, by two one-sided tests (Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15,
    1987). Samples of which one has 0 of a figure have no ratio, and are left out of its row.

    Raises ValueError for fewer than two runs, a baseline that is none of them, a margin or level out of range.
    """
    if len(runs) < 2:
        raise ValueError(f"a comparison needs two runs, not {len(runs)}")
    if not 0 <= baseline < len(runs):
        raise ValueError(f"the baseline is run {baseline} of {len(runs)}; they count from 0")
    if not 0 < margin < 1:
        raise ValueError(f"a margin lies between 0 and 1, not at {margin:g}; 0.02 is 2 %")
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, not at {level:g}; 0.95 is 95 %")
    sides = [per_key(run.columns) for run in runs]
    measured = [cells(run.columns) for run in runs]
    targets = [i for i in range(len(runs)) if i != baseline]
    resamples = RESAMPLES if len(targets) <= MANY else RESAMPLES_OF_MANY
    paired = [pair_keys(sides[baseline], sides[i]) for i in targets]
    caches = [cached_stages(run.params) for run in runs]
    rows, clusters = [], list[Clusters]()
    for i, pairs in zip(targets, paired, strict=True):
        one, other = runs[baseline], runs[i]
        skipped = () if own_memory(one) and own_memory(other) else (PEAK_MEMORY,)
        both = measured[baseline], measured[i]
        clusters.append(_clusters(pairs, both, max(sides[baseline].batch_size, sides[i].batch_size)))
        rows.append(
            [
                _row(figure, pairs, both, clusters[-1], margin, level,
                     _known(floors or {}, figure, one, other), (figure.stage in caches[baseline],
                                                                figure.stage in caches[i]))
                if figure not in skipped else None
                for figure in COMPARISON
            ]
        )  # fmt: skip
    judged = _judged(rows, [runs[baseline].valid and runs[i].valid for i in targets])
    found = []
    for i, pairs, of_pair, of_keys in zip(targets, paired, judged, clusters, strict=True):
        one, other = runs[baseline], runs[i]
        shares = _shares(pairs)
        odd = tuple(set(caches[baseline]) ^ set(caches[i]))
        found.append(
            Pairwise(
                baseline_id=one.run_id,
                target_id=other.run_id,
                baseline_name=one.name,
                target_name=other.name,
                n=pairs.n,
                clusters=len(np.unique(of_keys.codes)),
                replicates=(processes_of(one), processes_of(other)),
                only_baseline=_unpaired(pairs.only_baseline),
                only_target=_unpaired(pairs.only_target),
                failed_baseline=_unpaired(sides[baseline].failed),
                failed_target=_unpaired(sides[i].failed),
                rows=of_pair,
                shares=shares,
                bottleneck_baseline=_bottleneck({share.stage: share.baseline for share in shares}),
                bottleneck_target=_bottleneck({share.stage: share.target for share in shares}),
                settings=differing_settings((one, other)),
                cached_baseline=caches[baseline],
                cached_target=caches[i],
                cache_fill_baseline_s=cache_fill_s(one),
                cache_fill_target_s=cache_fill_s(other),
                attribution=attribute_pairs(pairs, odd, seed, resamples, level),
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


def processes_of(run: RunData) -> int:
    """How many processes measured the run."""
    return max(len(np.unique(run.columns.measured.done.replicate)), 1)


@dataclass(frozen=True, eq=False)
class Clusters:
    """The paired keys: where each is in the cells of both runs, and what it has in common with others."""

    rows: tuple[Ints, Ints]
    codes: Ints  # of its video sequence; where the model took batches, of the call that it shared


def _clusters(pairs: Pairs, both: tuple[Cells, Cells], batch_size: int) -> Clusters:
    codes = pairs.clusters if batch_size > 1 else numbered([sequence_of(key) for key in pairs.keys])[0]
    one, other = (np.array([side.place[key] for key in pairs.keys], dtype=np.int64) for side in both)
    return Clusters((one, other), codes)


def _known(floors: Floors, figure: Figure, *runs: RunData) -> Floor | None:
    """The floor that stands for the sides of one process: the wider one, where both are. None where one is missing."""
    single = [floors.get(run.run_id, {}).get(figure.field) for run in runs if processes_of(run) == 1]
    known = [floor for floor in single if floor is not None]
    return max(known, key=lambda floor: floor.sd) if known and len(known) == len(single) else None


def _row(
    figure: Figure,
    pairs: Pairs,
    both: tuple[Cells, Cells],
    clusters: Clusters,
    margin: float,
    level: float,
    known: Floor | None,
    cached: tuple[bool, bool],
) -> Row | None:
    """A figure before it is judged; None where no pair has it."""
    column = QUANTITIES.index(figure.field)
    before, after = pairs.baseline_values[:, column], pairs.target_values[:, column]
    there = np.isfinite(before) & np.isfinite(after)
    if not there.any():
        return None
    effect = _effect(COMPARISON.index(figure), both, clusters, margin, level, known)
    means = (float(before[there].mean()), float(after[there].mean()))
    medians = (float(np.median(before[there])), float(np.median(after[there])))
    other = None
    if effect is not None and figure.kind != "score" and min(*means, *medians) > 0:
        other = Averages(effect.ratio, means[1] / means[0], medians[1] / medians[0])
    ratio = difference = Interval(math.nan, math.nan, math.nan, level, int(there.sum()))
    if effect is not None and figure.kind == "score":
        points, reach = 100 * effect.log, 100 * effect.half_width
        difference = Interval(points - reach, points + reach, points, level, effect.samples)
    elif effect is not None and not math.isfinite(effect.half_width):
        nothing = (-math.inf, math.inf)
        ratio = Interval(*nothing, effect.ratio, level, effect.samples)
        difference = Interval(*nothing, means[0] * (effect.ratio - 1), level, effect.samples)
    elif effect is not None:
        ratio = Interval(effect.low, effect.high, effect.ratio, level, effect.samples)
        low, high, middle = (means[0] * (value - 1) for value in (effect.low, effect.high, effect.ratio))
        difference = Interval(low, high, middle, level, effect.samples)
    return Row(
        name=figure.heading,
        unit=figure.unit,
        kind=figure.kind,
        n=int(there.sum()),
        baseline_median=medians[0],
        target_median=medians[1],
        baseline_mean=means[0],
        target_mean=means[1],
        difference=difference,
        ratio=ratio,
        effect=effect,
        judgement=None,
        averages=other,
        baseline_cached=cached[0],
        target_cached=cached[1],
    )


def _effect(
    figure: int, both: tuple[Cells, Cells], clusters: Clusters, margin: float, level: float, known: Floor | None
) -> Effect | None:
    """Target against baseline over the paired keys that have the figure on both sides; None without any."""
    logs = [side.logs[figure][:, rows] for side, rows in zip(both, clusters.rows, strict=True)]
    there = np.logical_and.reduce([~np.isnan(side).all(axis=0) for side in logs])
    if not there.any():
        return None
    if (fits := _fits([side[:, there] for side in logs])) is None:
        return None
    codes, count = numbered(clusters.codes[there])
    replicated = known is not None or all(one.replicates > 1 for one in fits)
    return effect_of_fits(
        [fits[1], fits[0]], [1.0, -1.0], codes, count, int((~there).sum()), level, margin, known=known,
        over_samples=not (count == 1 and replicated),  # of one sequence, the claim is about it
    )  # fmt: skip


def _fits(logs: Sequence[Floats]) -> list[Fit] | None:
    """The fits of both sides, each [processes, keys]; None where processes have no sample in common, after failures, by
    which they could be compared."""
    try:
        return [fit(side[~np.isnan(side).all(axis=1)]) for side in logs]
    except ValueError:
        return None


def _judged(pairs: Sequence[Sequence[Row | None]], valid: Sequence[bool]) -> list[tuple[Row, ...]]:
    """The rows with their verdicts: totals are one family over the runs, all other figures another."""
    places = [
        (pair, number)
        for pair, rows in enumerate(pairs)
        for number, row in enumerate(rows)
        if row is not None and row.effect is not None and COMPARISON[number].better
        and row.baseline_cached == row.target_cached
    ]  # fmt: skip
    judgements: dict[tuple[int, int], Judgement] = {}
    for is_total in (True, False):
        family = [place for place in places if (COMPARISON[place[1]] is TOTAL) == is_total and valid[place[0]]]
        rows = [row for pair, number in family if (row := pairs[pair][number]) is not None]
        found = judge([row.effect for row in rows if row.effect], [row.kind for row in rows])
        judgements |= dict(zip(family, found, strict=True))
    for pair, number in places:
        row = pairs[pair][number]
        if not valid[pair] and row is not None and row.effect is not None:
            nothing = Judgement(row.effect, row.kind, Verdict.INVALID, math.nan, math.nan, 1, ALPHA)
            judgements[pair, number] = nothing
    return [
        tuple(
            replace(row, judgement=judgements.get((pair, number))) for number, row in enumerate(rows) if row is not None
        )
        for pair, rows in enumerate(pairs)
    ]


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
