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
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fourstage.comparison.attribution import Attribution, attribute_pairs
from fourstage.comparison.pairing import QUANTITIES, Pairs, pair_keys, per_key
from fourstage.config.schema import is_label
from fourstage.records.columns import Columns
from fourstage.records.wording import direction, in_words
from fourstage.stages import STAGES, UserError
from fourstage.stats.intervals import Interval, ratio_intervals, student_quantile

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ALPHA = 0.01  # of verdicts
POWER = 0.8  # with which the smallest effect would have been seen
RESAMPLES, RESAMPLES_OF_MANY, MANY = 2000, 1000, 100  # more than so many runs get fewer
SHOWN_KEYS = 5
ROUNDING = 1e-12  # of a logarithm
CACHED = {"none": (), "frames": ("load",), "tensors": ("load", "preprocess")}
LOADING = {
    "png": "png read and decoded",
    "npy": "events read and drawn as images",
    "mp4": "mp4 read and decoded",
    "images": "images read and decoded",
}


class Verdict(StrEnum):
    """What can be claimed of a figure of the target against the baseline's."""

    IMPROVED = "Improved"
    REGRESSED = "Regressed"
    EQUIVALENT = "Equivalent"
    INCONCLUSIVE = "Inconclusive"


@dataclass(frozen=True)
class Quantity:
    """A row of the table: where it is read and how its ratio is told."""

    name: str
    field: str  # of QUANTITIES
    unit: str
    kind: str  # of `words.in_words`
    stage: str = ""  # a stage that may be cached


ROWS = (
    *(Quantity(stage, f"{stage}_s", "s", "time", stage) for stage in ("load", "preprocess", "encode")),
    Quantity("prefill", "prefill_s", "s", "time"),
    Quantity("decode", "decode_s", "s", "time", "decode"),
    Quantity("total", "total_s", "s", "time"),
    Quantity("TTFT", "ttft_s", "s", "time"),
    Quantity("TPOT", "tpot_ms", "ms", "time"),
    Quantity("tokens in", "input_tokens", "tokens", "count"),
    Quantity("tokens out", "output_tokens", "tokens", "count"),
    Quantity("tokens/s", "tokens_per_s", "tokens/s", "rate"),
    Quantity("peak memory", "peak_memory_bytes", "bytes", "size"),
)

MEMORY = next(place for place, row in enumerate(ROWS) if row.field == "peak_memory_bytes")
PLACES = [QUANTITIES.index(row.field) for row in ROWS]


@dataclass(frozen=True, eq=False)
class RunData:
    """A run as far as a comparison needs it; full records and texts stay where they are."""

    run_id: str
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    columns: Columns  # of its samples
    valid: bool = True
    checks_failed: tuple[str, ...] = ()
    checks_warned: tuple[str, ...] = ()

    @property
    def fault(self) -> str:
        """Why nothing should be claimed against it, behind its name; "" of a valid run."""
        if self.valid:
            return ""
        return f"failed {', '.join(self.checks_failed)}" if self.checks_failed else "was never checked"


@dataclass(frozen=True)
class Row:
    """One figure in both runs, over the samples that have it in both; seconds, ms, bytes or counts as `unit` says."""

    name: str  # of ROWS
    unit: str
    kind: str  # "time", "rate", "count" or "size"
    n: int
    baseline_median: float
    target_median: float
    baseline_mean: float
    target_mean: float
    difference: Interval  # of the means, target − baseline
    ratio: Interval  # of the means, target / baseline
    word: str  # "faster", "slower", "as long as", "more", "fewer", ..., or "cached"
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
        return in_words(self.ratio.estimate, self.kind)


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


@dataclass(frozen=True)
class Setting:
    """A setting that differs, and its value in each run: "-" where a run has none."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class StageFacts:
    """What a stage worked on, as measured; medians over all successful samples of the run, None where unknown."""

    stage: str
    operation: str  # in words: "png read and decoded", "5 images → 577 visual tokens"
    sources: tuple[str, ...]  # of its images
    images: float | None
    bytes_read: float | None
    visual_tokens: float | None
    cached: bool


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
    rows: tuple[Row, ...]  # in the order of ROWS, without those that nothing was measured for
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
        return next((row for row in self.rows if row.name == name), None)

    @property
    def verdict(self) -> Verdict:
        """On the total time."""
        total = self.row("total")
        return (total and total.verdict) or Verdict.INCONCLUSIVE

    @property
    def detectable_ratio(self) -> float:
        """The smallest slow-down of the total that would have been seen."""
        total = self.row("total")
        return total.detectable_ratio if total else math.inf


@dataclass(frozen=True, eq=False)
class Comparison:
    """All runs, and each of the others against the baseline."""

    runs: tuple[RunData, ...]
    baseline: int  # its place in `runs`
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
    figures = [_figures(pairs, seed, resamples, level) for pairs in paired]
    uneven = [set(caches[baseline]) ^ set(caches[i]) for i in targets]
    for i, rows in zip(targets, figures, strict=True):
        if not (own_memory(runs[baseline]) and own_memory(runs[i])):
            rows[MEMORY] = None
    tested = np.array(
        [
            [row.kind != "count" and row.stage not in odd and figure is not None
             for row, figure in zip(ROWS, rows, strict=True)]
            for odd, rows in zip(uneven, figures, strict=True)
        ]
    )  # fmt: skip
    verdicts = _verdicts([_log_ratios(pairs) for pairs in paired], tested, margin)
    found = []
    for i, pairs, rows, odd, judged in zip(targets, paired, figures, uneven, verdicts, strict=True):
        one, other = runs[baseline], runs[i]
        judged_rows = [
            _judged(figure, row, row.stage in caches[baseline], row.stage in caches[i], judgement)
            for figure, row, judgement in zip(rows, ROWS, judged, strict=True)
            if figure is not None
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


def own_memory(run: RunData) -> bool:
    """Whether its peak memory is its samples' own: a GPU's allocator counts from zero, while the resident set of a
    process on a CPU has in it whatever earlier samples, models and runs left there."""
    device = run.tags.get("fourstage.device", "")
    return not device or device.startswith("cuda")


def _bottleneck(shares: Mapping[str, float]) -> str:
    stage, largest = max(shares.items(), key=lambda item: item[1], default=("", 0.0))
    return stage if largest >= 1 - sum(shares.values()) else ""


def cached_stages(params: Mapping[str, str]) -> tuple[str, ...]:
    """The stages whose work a run found done in its cache. Raises UserError for a cache that is not known."""
    cache = params.get("cache", "none")
    if cache not in CACHED:
        raise UserError(f"unknown cache {cache!r} in a run's settings; known are {', '.join(CACHED)}")
    return CACHED[cache]


def cache_fill_s(run: RunData) -> float | None:
    """Seconds that filling its cache took, once for each sample; None for a run without one."""
    done = run.columns.measured.done
    filled = done.where(~np.isnan(done.cache_fill_s))
    _, first = np.unique(filled.key_codes, return_index=True)  # repeats share one filling
    return float(filled.cache_fill_s[first].sum()) if len(first) else None


def differing_settings(runs: Sequence[RunData]) -> tuple[Setting, ...]:
    """The settings that are not the same in all of the runs, without labels: names, and where they were logged."""
    names = sorted({name for run in runs for name in run.params})
    told = (name for name in names if not is_label(name))
    values = ((name, tuple(run.params.get(name, "-") for run in runs)) for name in told)
    return tuple(Setting(name, of_runs) for name, of_runs in values if len(set(of_runs)) > 1)


def stage_facts(run: RunData) -> tuple[StageFacts, ...]:
    """What each stage of a run worked on, as its records have it."""
    done = run.columns.measured.done
    cached = cached_stages(run.params)
    sources = tuple(done.sources[code] for code in np.unique(done.source_codes) if code >= 0)
    images, read, visual = (_median(values) for values in (done.images, done.bytes_read, done.visual_tokens))
    tokens_in, tokens_out = _median(done.input_tokens), _median(done.output_tokens)
    operations = {
        "load": ", ".join(LOADING.get(source, f"{source} read") for source in sources) or "unknown",
        "preprocess": f"{_count(images)} images → tensors on the device",
        "encode": f"{_count(images)} images → {_count(visual)} visual tokens",
        "decode": f"{_count(tokens_in)} tokens in → {_count(tokens_out)} tokens out",
    }
    return tuple(
        StageFacts(
            stage=stage,
            operation=f"from the cache of {run.params['cache']}" if stage in cached else operations[stage],
            sources=sources,
            images=images,
            bytes_read=read,
            visual_tokens=visual,
            cached=stage in cached,
        )
        for stage in STAGES
    )


def _median(values: Floats) -> float | None:
    there = values[~np.isnan(values)]
    return float(np.median(there)) if len(there) else None


def _count(value: float | None) -> str:
    return "?" if value is None else f"{value:.10g}"


def _unpaired(keys: Sequence[str]) -> Unpaired:
    return Unpaired(len(keys), tuple(keys[:SHOWN_KEYS]))


def _shares(pairs: Pairs) -> tuple[Share, ...]:
    """Of the stages that both runs timed, over the samples where both did."""
    found = []
    for stage in STAGES:
        sides = [(read(f"{stage}_s"), read("total_s")) for read in (pairs.baseline, pairs.target)]
        there = np.logical_and.reduce([np.isfinite(values) for side in sides for values in side])
        totals = [float(total[there].sum()) for _, total in sides]
        if all(total > 0 for total in totals):
            found.append(
                Share(stage, *(float(part[there].sum()) / w for (part, _), w in zip(sides, totals, strict=True)))
            )
    return tuple(found)


@dataclass(frozen=True)
class _Figure:
    """A row before its verdict."""

    n: int
    medians: tuple[float, float]
    means: tuple[float, float]
    difference: Interval
    ratio: Interval


def _figures(pairs: Pairs, seed: int, resamples: int, level: float) -> list[_Figure | None]:
    """Of each of ROWS, None where no pair has it; rows with the same pairs are resampled together."""
    before, after = pairs.baseline_values[:, PLACES], pairs.target_values[:, PLACES]  # [keys, rows]
    there = np.isfinite(before) & np.isfinite(after)
    alike: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(there.any(axis=0)):
        alike.setdefault(there[:, row].tobytes(), []).append(int(row))
    figures: list[_Figure | None] = [None] * len(ROWS)
    for rows in alike.values():
        kept = there[:, rows[0]]
        one, other = before[kept][:, rows], after[kept][:, rows]
        n = len(one)
        codes = np.unique(pairs.clusters[kept], return_inverse=True)[1].reshape(-1)
        below = _by_cluster(one, codes)
        sizes = np.broadcast_to(_by_cluster(np.ones((n, 1)), codes), below.shape)
        tops = np.concatenate([_by_cluster(other - one, codes), _by_cluster(other, codes)], axis=1)
        intervals = ratio_intervals(tops, np.concatenate([sizes, below], axis=1), n, seed, resamples, level)
        medians, means = ([f(side, axis=0) for side in (one, other)] for f in (np.median, np.mean))
        for i, place in enumerate(rows):
            figures[place] = _Figure(
                n=n,
                medians=(float(medians[0][i]), float(medians[1][i])),
                means=(float(means[0][i]), float(means[1][i])),
                difference=intervals[i],
                ratio=intervals[len(rows) + i],
            )
    return figures


def _by_cluster(values: Floats, codes: Ints) -> Floats:
    """Sums of the rows of each cluster: [values, columns] → [clusters, columns]; codes from 0, none left out."""
    if len(codes) == codes.max(initial=-1) + 1:
        return values
    sums = np.zeros((int(codes.max()) + 1, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums


def _log_ratios(pairs: Pairs) -> Floats:
    """Mean, standard error and degrees of freedom of each row's log ratio: [3, rows]; 0 degrees: no test."""
    before, after = pairs.baseline_values[:, PLACES], pairs.target_values[:, PLACES]
    none = (before == 0) & (after == 0)
    there = ((before > 0) & (after > 0)) | none
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(none, 0.0, np.log(after / before))
    sums = _by_cluster(np.where(there, logs, 0.0), pairs.clusters)
    sizes = _by_cluster(there.astype(np.float64), pairs.clusters)
    groups, whole = (sizes > 0).sum(axis=0), np.maximum(sizes.sum(axis=0), 1)
    means = sums.sum(axis=0) / whole
    squares = ((sums - means * sizes) ** 2).sum(axis=0)
    errors = np.sqrt(groups / np.maximum(groups - 1, 1) * squares) / whole
    return np.stack([means, errors, np.maximum(groups - 1, 0)])


def _verdicts(log_ratios: Sequence[Floats], tested: NDArray[np.bool_], margin: float) -> list[list[_Judgement]]:
    """Of each run and row, both tests corrected over the runs; no verdict where nothing is tested."""
    means, errors, degrees = np.moveaxis(np.array(log_ratios), 1, 0)  # [runs, rows] each
    reach = math.log1p(margin)
    exact = errors < ROUNDING  # constant ratios
    means = np.where(np.abs(means) < ROUNDING, 0.0, means)
    divisor = np.where(exact, 1.0, errors)
    differ = np.where(exact, (means == 0).astype(np.float64), tails(np.abs(means) / divisor, degrees))
    room = (reach - np.abs(means)) / divisor
    half = tails(np.abs(room), degrees) / 2
    beyond = np.where(exact, (np.abs(means) >= reach).astype(np.float64), np.where(room > 0, half, 1 - half))
    untestable = ~tested | (degrees < 1)
    p_differ, p_beyond = (holm(np.where(untestable, np.nan, p)) for p in (differ, beyond))
    family = np.maximum((~untestable).sum(axis=0), 1)
    better = np.array([-1.0 if row.kind != "rate" else 1.0 for row in ROWS])

    def judge(run: int, row: int) -> _Judgement:
        if not tested[run, row]:
            return _Judgement(None, math.nan, math.inf)
        if untestable[run, row]:
            return _Judgement(Verdict.INCONCLUSIVE, math.nan, math.inf)
        verdict = Verdict.INCONCLUSIVE
        if p_beyond[run, row] < ALPHA:
            verdict = Verdict.EQUIVALENT
        elif p_differ[run, row] < ALPHA:
            verdict = Verdict.IMPROVED if means[run, row] * better[row] > 0 else Verdict.REGRESSED
        needed = detectable_errors(int(degrees[run, row]), ALPHA / int(family[row]))
        detectable = math.exp(min(needed * float(errors[run, row]), 700.0))
        return _Judgement(verdict, float(p_differ[run, row]), detectable)

    return [[judge(run, row) for row in range(len(ROWS))] for run in range(len(log_ratios))]


@dataclass(frozen=True)
class _Judgement:
    verdict: Verdict | None
    p_value: float
    detectable_ratio: float


def _judged(figure: _Figure, row: Quantity, baseline_cached: bool, target_cached: bool, judgement: _Judgement) -> Row:
    uneven = baseline_cached != target_cached
    return Row(
        name=row.name,
        unit=row.unit,
        kind=row.kind,
        n=figure.n,
        baseline_median=figure.medians[0],
        target_median=figure.medians[1],
        baseline_mean=figure.means[0],
        target_mean=figure.means[1],
        difference=figure.difference,
        ratio=figure.ratio,
        word="cached" if uneven else direction(figure.ratio.estimate, row.kind),
        verdict=judgement.verdict,
        p_value=judgement.p_value,
        detectable_ratio=judgement.detectable_ratio,
        baseline_cached=baseline_cached,
        target_cached=target_cached,
    )


def holm(p_values: Floats) -> Floats:
    """Holm's adjusted p-values down each column, [tests, families]; NaN is no test and stays NaN."""
    order = np.argsort(p_values, axis=0)  # NaN last
    tests = (~np.isnan(p_values)).sum(axis=0)
    steps = np.maximum(tests - np.arange(len(p_values))[:, None], 1)
    stepped = np.maximum.accumulate(np.take_along_axis(p_values, order, axis=0) * steps, axis=0)
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, np.minimum(stepped, 1.0), axis=0)
    return adjusted


def tails(t: Floats, degrees: Floats) -> Floats:
    """P(|T| > t) of Student's t for t >= 0; 1 where there are no degrees of freedom."""
    from scipy.special import stdtr

    return np.where(degrees > 0, 2 * stdtr(np.maximum(degrees, 1), -t), 1.0)


@lru_cache(maxsize=1024)
def detectable_errors(degrees: int, alpha: float) -> float:
    """How many standard errors a difference needs, to be found at `alpha`, two-sided, with a power of 80 %.

    The sum of two quantiles of Student's t (e.g. Bloom, Evaluation Review 19, 1995, "minimum detectable effects").
    """
    return student_quantile(degrees, 1 - alpha) + student_quantile(degrees, 2 * POWER - 1)
