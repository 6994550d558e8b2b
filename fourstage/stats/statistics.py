"""Numbers from records: the metrics of one run, and what can be claimed from a sample of timings.

Only samples that succeeded enter a figure; a figure without data is absent, never 0, and an interval without
enough data is infinite: nothing is claimed. Left out: which runs are compared and in which words (`pairing`,
`compare`), and anything that knows where a metric goes.

    summarise([1.0, 2.0, 3.0]).median                # 2.0
    summarise_run(records)["stage4_decode_s.p95"]    # seconds
    bootstrap_interval(seconds, clusters=videos)     # Interval(low=0.0408, high=0.0417, estimate=0.0412, ...)
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fourstage.records.columns import Columns
from fourstage.stages import SampleRecord

STAGE_METRICS = {
    "load": "stage1_load_s",
    "preprocess": "stage2_preprocess_s",
    "encode": "stage3_encode_s",
    "decode": "stage4_decode_s",
}
# metric name -> field of SampleRecord, in the order in which a reader wants them
SECONDS = {metric: f"{stage}_s" for stage, metric in STAGE_METRICS.items()} | {
    "total_s": "total_s",
    "prefill_s": "prefill_s",
    "ttft_s": "ttft_s",
}
FIGURES = ("mean", "median", "p90", "p95", "p99", "std", "mad")

BOOTSTRAP_LIMIT = 5000  # above so many values (of a mean: clusters) an interval is analytic
PAIRS_LIMIT = 1500  # above so many points Theil–Sen works on medians of blocks
WIDEST = 3.0  # times Student's quantile: how far a bootstrap-t limit may go
CELLS = 1_000_000  # of a resampling matrix at once: tens of MB

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Values = Sequence[float] | NDArray[np.floating] | NDArray[np.integer]
Clusters = Sequence[Hashable] | NDArray[np.integer] | None


@dataclass(frozen=True)
class Summary:
    """A sample of numbers in eight figures, in the unit of the numbers."""

    n: int
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    std: float  # of the sample (n - 1); 0.0 for one number
    mad: float  # median absolute deviation x 1.4826: estimates the standard deviation of normal data


@dataclass(frozen=True)
class Interval:
    """An estimate and the limits within which its true value lies in `level` of such samples, in one unit.

    Infinite limits claim nothing: there was too little data for this level.
    """

    low: float
    high: float
    estimate: float
    level: float = 0.95
    n: int = 0  # values that it was made of, not clusters

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Slope:
    """A robust line: `slope` with its limits in units of y per unit of x, `intercept` in units of y."""

    slope: float
    low: float
    high: float
    intercept: float
    level: float = 0.95
    n: int = 0  # points given


@dataclass(frozen=True)
class Drift:
    """What the order of a run did to its times."""

    change: float  # over the whole run, as a share of the median: 0.04 is 4 % slower at the end
    low: float  # limits of `change`
    high: float
    halves: Interval  # median of the second half / median of the first; 1 is none
    level: float = 0.95
    n: int = 0


@dataclass(frozen=True)
class TpotOverContext:
    """Time per output token as a function of the tokens that it attends to."""

    slope: Slope  # milliseconds per 1000 tokens of context; intercept in milliseconds
    context_tokens: float  # median over the decode steps
    at_context_ms: float  # time per output token there
    samples: int  # that the steps came from; `slope.n` counts the steps


@dataclass(frozen=True, eq=False)
class Outliers:
    """Indices of values beyond Tukey's fences, ascending; no index is in both."""

    mild: NDArray[np.intp]  # more than 1.5, at most 3 interquartile ranges outside the quartiles
    severe: NDArray[np.intp]  # more than 3: Tukey's "far out"


@dataclass(frozen=True)
class Line:
    """Least squares: seconds = intercept + slope x tokens, with standard errors in the same units."""

    intercept: float
    slope: float
    intercept_se: float
    slope_se: float
    r2: float  # share of the variance explained; 1.0 where there is none to explain
    n: int


def summarise(values: Values) -> Summary:
    """Mean, median, tails and spread of at least one number, else ValueError.

    Percentiles interpolate linearly between the two nearest numbers (numpy's default, type 7 of Hyndman
    and Fan, The American Statistician 50, 1996). The MAD is scaled by 1.4826 = 1 / Phi^-1(3/4) (Rousseeuw and
    Croux, JASA 88, 1993), so that it compares with `std`: far below it, the spread comes from outliers.
    """
    if not len(values):
        raise ValueError("no values to summarise")
    array = np.asarray(values, dtype=np.float64)
    median, p90, p95, p99 = np.percentile(array, [50, 90, 95, 99])
    return Summary(
        n=len(array),
        mean=float(array.mean()),
        median=float(median),
        p90=float(p90),
        p95=float(p95),
        p99=float(p99),
        std=float(array.std(ddof=1)) if len(array) > 1 else 0.0,
        mad=1.4826 * float(np.median(np.abs(array - median))),
    )


def cached_name(metric: str) -> str:
    """`stage1_load_s` → `stage1_load_cached_s`: where a stage was not done, its metric has another name, so that no
    chart shows it as a fast one."""
    return metric.removesuffix("_s") + "_cached_s"


def summarise_run(records: Sequence[SampleRecord] | Columns) -> dict[str, float]:
    """The metrics of a run under the names of DESIGN.md; units are in the names, shares lie in 0 to 1."""
    run = records if isinstance(records, Columns) else Columns.of(records)
    if not len(run):
        return {}
    done = run.done
    metrics: dict[str, float] = {}
    cached = [f"{stage}_s" for stage in done.cached_stages]
    for name, field in SECONDS.items():
        if len(values := _present(getattr(done, field))):
            summary = summarise(values)
            name = cached_name(name) if field in cached else name
            metrics |= {f"{name}.{figure}": getattr(summary, figure) for figure in FIGURES}

    if len(values := _present(done.tpot_ms)):
        metrics["tpot_ms"] = float(np.median(values))
    timed = ~np.isnan(done.output_tokens) & ~np.isnan(done.decode_s)
    if (seconds := float(done.decode_s[timed].sum())) > 0:
        metrics["tokens_per_s"] = float(done.output_tokens[timed].sum()) / seconds
    for field in ("output_tokens", "input_tokens"):
        if len(values := _present(getattr(done, field))):
            metrics[f"{field}.mean"] = float(values.mean())
    if ended := int((done.finish_reason_codes >= 0).sum()):
        length = done.finish_reasons.index("length") if "length" in done.finish_reasons else None
        metrics["truncated_share"] = (
            0.0 if length is None else float((done.finish_reason_codes == length).sum()) / ended
        )
    if len(values := _present(done.peak_memory_bytes)):
        metrics["peak_memory_bytes"] = float(values.max())

    # counts are facts even where they are 0
    metrics["samples_ok"] = float(len(done))
    metrics["samples_failed"] = float(len(run) - len(done))
    return metrics


def bootstrap_interval(
    values: Values,
    statistic: str = "median",
    clusters: Clusters = None,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """The interval of a "median" or "mean", in the unit of the values.

    With `clusters` (a label per value, e.g. the video), whole clusters are drawn: repeats of one video are not
    new videos. The methods are those whose coverage came nearest to 95 % on timings, where plain percentile
    and BCa intervals of a mean cover 81 and 84 % of ten lognormal values (sigma 1):

    - mean: bootstrap-t (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 12.5), its quantiles
      no further than three times Student's, so that one hiccup among sixty values does not make it endless;
      Student's t below 5 clusters.
    - median: percentile interval with its percentiles expanded for small n (Hesterberg, The American
      Statistician 69, 2015, section 3.3).

    Coverage in % over 2000 simulations (standard error 0.5) at n = 8, 10, 30, 60; "lognormal 0.5" has sigma 0.5:

        normal           mean 94.6 94.8 95.1 95.6    median 97.2 96.6 95.4 96.0
        lognormal 0.2    mean 94.4 93.8 94.7 95.0    median 98.0 95.5 95.8 94.9
        lognormal 0.5    mean 92.8 95.5 94.3 94.5    median 97.0 97.0 95.9 95.6
        lognormal 1      mean 90.4 90.6 93.6 92.7    median 97.8 97.2 95.3 94.5
        10 videos x 6    mean 93.8 (without clusters 56)    median 95.7 (61)
        30 videos x 4    mean 94.5 (without clusters 68)    median 95.5 (71)

    One value or one cluster has an infinite interval, and so has a median of fewer than 6 clusters at 95 %:
    even their range covers it with probability 1 - 2^(1-clusters) only. Memory is bounded, also for a million
    values: above 5000 clusters a mean has its normal interval (error over clusters), above 5000 values a median
    has Woodruff's (JASA 47, 1952), quantiles at one half plus and minus the error of the share below it.

    Raises ValueError for no values, values that are not finite, labels of another length, another statistic.
    """
    array, codes, groups = _checked(values, clusters, level)
    if statistic == "mean":
        top, size = _sums(array, codes, groups), _sums(np.ones(len(array)), codes, groups)
        return _ratio_interval(top, size, len(array), seed, resamples, level)
    if statistic != "median":
        raise ValueError(f"unknown statistic {statistic!r}; choose 'median' or 'mean'")
    estimate = float(np.median(array))
    if not _enough_for_a_median(groups, level):
        return Interval(-math.inf, math.inf, estimate, level, len(array))
    if len(array) > BOOTSTRAP_LIMIT:
        low, high = _woodruff(array, codes, groups, level)
    else:
        medians = np.concatenate(
            [_medians(array, codes, drawn) for drawn in _resampled(groups, len(array), resamples, seed)]
        )
        low, high = _expanded_percentiles(medians, groups, level)
    return Interval(low, high, estimate, level, len(array))


def measurement_half_width(values: Values, clusters: Sequence[Hashable], level: float = 0.95) -> float:
    """Half-width of the mean's interval over these very samples, as a share of the mean: the noise of measuring.

    Samples are fixed, so what they differ among themselves does not count; each one's repeats show its noise
    (stratified mean, Cochran, Sampling Techniques, 1977, ch. 5). Infinite where no sample was repeated.
    """
    array, codes, groups = _checked(values, clusters, level)
    size = _sums(np.ones(len(array)), codes, groups)
    means = _sums(array, codes, groups) / size
    squares = _sums((array - means[codes]) ** 2, codes, groups)
    repeated = size > 1
    if not repeated.all():
        return math.inf
    variance = (squares / (size - 1) / size).sum() / groups**2
    degrees = int((size - 1).sum())
    return float(_student(degrees, level) * math.sqrt(variance) / means.mean())


def paired_interval(
    before: Values,
    after: Values,
    clusters: Clusters = None,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[Interval, Interval]:
    """Mean of after - before, and ratio of the means after / before, over pairs: value i of both is one sample.

    The first is in the unit of the values, the second has none. Bootstrap-t as for the mean in
    `bootstrap_interval`; the ratio's error is that of a ratio estimator (Cochran, Sampling Techniques, 1977,
    ch. 6). Identical values give [0, 0] and [1, 1]. Where `before` sums to 0 the ratio is NaN and claims nothing.
    Raises ValueError for no pairs, values that are not finite, or unequal lengths.
    """
    one, codes, groups = _checked(before, clusters, level)
    other, _, _ = _checked(after, None, level)
    if len(one) != len(other):
        raise ValueError(f"{len(one)} values before and {len(other)} after are not pairs")
    n = len(one)
    size = _sums(np.ones(n), codes, groups)
    difference = _ratio_interval(_sums(other - one, codes, groups), size, n, seed, resamples, level)
    bottom = _sums(one, codes, groups)
    if bottom.sum() == 0:
        return difference, Interval(-math.inf, math.inf, math.nan, level, n)
    return difference, _ratio_interval(_sums(other, codes, groups), bottom, n, seed, resamples, level)


def ratio_intervals(
    tops: Floats, bottoms: Floats, n: int, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> list[Interval]:
    """The interval of sum(top) / sum(bottom) for each column of both: [groups, columns], groups drawn whole.

    A mean has the sizes of the groups as bottom. It is the bootstrap-t of `bootstrap_interval` and
    `paired_interval`, to the same numbers, with one set of draws for all columns. `n` values were summed to
    the groups. A column whose bottom sums to 0 is NaN and claims nothing.
    """
    groups, columns = tops.shape
    tops, bottoms = np.ascontiguousarray(tops), np.ascontiguousarray(bottoms)  # equal columns have equal sums
    whole = bottoms.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimates = np.where(whole != 0, tops.sum(axis=0) / whole, np.nan)
    if groups == 1:
        return [Interval(-math.inf, math.inf, float(estimate), level, n) for estimate in estimates]
    residuals = tops - estimates * bottoms
    # rounding is no spread: constant values have an interval without width
    residuals[np.abs(residuals) <= 1e-13 * np.abs(tops)] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.sqrt(groups / (groups - 1) * (residuals**2).sum(axis=0)) / np.abs(whole)
    student = _student(groups - 1, level)
    reach = np.full((2, columns), student)  # in errors, below and above the estimate
    spread_out = np.flatnonzero(errors > 0)
    if 5 <= groups <= BOOTSTRAP_LIMIT and len(spread_out):
        right, left = _t_quantiles(residuals[:, spread_out], bottoms[:, spread_out], student, seed, resamples, level)
        reach[:, spread_out] = np.maximum(right, 0.0), np.maximum(-left, 0.0)
    intervals = []
    for estimate, error, below, above in zip(estimates, errors, *reach, strict=True):
        low, high = (estimate - below * error, estimate + above * error) if error else (estimate, estimate)
        if np.isnan(estimate):
            low, high = -math.inf, math.inf
        intervals.append(Interval(float(low), float(high), float(estimate), level, n))
    return intervals


def theil_sen(x: Values, y: Values, clusters: Clusters = None, level: float = 0.95) -> Slope:
    """The median of the slopes of all pairs of points, in units of y per unit of x, with Sen's interval.

    Sen, JASA 63 (1968): the limits are order statistics of the slopes, placed by the variance of Kendall's S
    with its correction for ties. Where a cluster has several points, that variance is the sum over clusters of
    the squared sums of S's projections (the sandwich of a U-statistic), with Student's quantile for
    `clusters - 1` degrees. The intercept goes through the medians.

    Memory is bounded: of more than 1500 points, runs of neighbours in x (within a cluster) become their
    medians, about 1500 in all; of more than 375 clusters, 375 evenly spaced ones are used. The interval is that
    of the reduced points, so it stays valid, a little wider than all points would give.

    Raises ValueError for fewer than two different x, values that are not finite, or unequal lengths.
    """
    xs, codes, groups = _checked(x, clusters, level)
    ys, _, _ = _checked(y, None, level)
    n = len(xs)
    if len(ys) != n:
        raise ValueError(f"{n} values of x and {len(ys)} of y are not points")
    if xs.min() == xs.max():
        raise ValueError(f"all {n} points have x = {xs[0]:g}; a slope needs two different ones")
    if n > PAIRS_LIMIT:
        xs, ys, codes, groups = _blocks(xs, ys, codes, groups)

    i, j = np.triu_indices(len(xs), 1)
    run = xs[j] - xs[i]
    apart = run != 0
    slopes = np.sort((ys[j] - ys[i])[apart] / run[apart])
    slope = float(np.median(slopes))
    if groups == len(xs):
        variance, quantile = _kendall_variance(xs, ys), NormalDist().inv_cdf((1 + level) / 2)
    elif groups > 1:
        projections = _sums(_kendall_projections(xs, ys - slope * xs), codes, groups)
        variance, quantile = float((projections**2).sum()) * groups / (groups - 1), _student(groups - 1, level)
    else:
        variance, quantile = math.inf, math.inf
    reach = quantile * math.sqrt(variance)
    below = round((len(slopes) - reach) / 2) if reach < len(slopes) else 0
    return Slope(
        slope=slope,
        low=float(slopes[below - 1]) if below >= 1 else -math.inf,
        high=float(slopes[-below]) if below >= 1 else math.inf,
        intercept=float(np.median(ys) - slope * np.median(xs)),
        level=level,
        n=n,
    )


def drift(
    position: Values,
    seconds: Values,
    clusters: Clusters = None,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Drift:
    """Did the run become slower or faster on its way? Both answers are shares, without unit.

    `change` is Theil–Sen's slope times the span of positions, by the median (`theil_sen`: interval and memory).
    `halves` takes the ratio of medians with the interval of `bootstrap_interval`; above 5000 values it is that
    of two medians by the delta method, on the safe side about their correlation where clusters repeat.

    Where the repeats of a cluster are spread over the run (most of the variance of position lies within
    clusters, as in rounds), each time is first divided by its cluster's median: a video is compared with itself
    (after the seasonal slope of Hirsch, Slack and Smith, Water Resources Research 18, 1982), so that a drift
    is seen through what the videos differ.

    Without drift, 2000 simulations gave limits of `change` that exclude 0 in 4.6 to 5.0 % (n = 10 to 200), 1 to
    4.5 % with repeats, and of `halves` that exclude 1 in 0 to 4.5 %: with few values it is cautious. A drift
    of 4 % over 60 samples with 1 % noise was found in all.

    Raises ValueError for fewer than two positions, a median that is not above 0, or what `theil_sen` refuses.
    """
    places, codes, groups = _checked(position, clusters, level)
    times, _, _ = _checked(seconds, None, level)
    n = len(places)
    if len(times) != n:
        raise ValueError(f"{n} positions and {len(times)} times are not points")
    if (median := float(np.median(times))) <= 0:
        raise ValueError(f"the median of {n} times is {median:g} s; a change has nothing to be a share of")
    span, x = float(places.max() - places.min()), places
    if (aligned := _aligned(places, times, codes, groups)) is not None:
        places, x, times, codes = aligned
        codes, groups = _numbered(codes)
        median = float(np.median(times))
    line = theil_sen(x, times, codes, level)
    change, low, high = (slope * span / median for slope in (line.slope, line.low, line.high))

    order = np.argsort(places, kind="stable")
    first, second = np.split(order, [len(order) // 2])
    halves = [(times[half], codes[half]) for half in (first, second)]
    medians = [float(np.median(half)) for half, _ in halves]
    ratio = medians[1] / medians[0] if medians[0] else math.nan
    bottom, top = -math.inf, math.inf
    if math.isfinite(ratio) and _enough_for_a_median(groups, level):
        if len(times) > BOOTSTRAP_LIMIT:
            limits = [_woodruff(half, *_numbered(own), level) for half, own in halves]
            parts = [(b - a) / 2 / m for (a, b), m in zip(limits, medians, strict=True)]
            # times by their cluster's median are high in one half where they are low in the other
            reach = math.hypot(*parts) if aligned is None else sum(parts)
            bottom, top = ratio * (1 - reach), ratio * (1 + reach)
        else:
            ratios = []
            for drawn in _resampled(groups, len(times), resamples, seed):
                before, after = (_medians(half, own, drawn) for half, own in halves)
                ratios.append(after / before)
            bottom, top = _expanded_percentiles(np.concatenate(ratios), groups, level)
    return Drift(change, low, high, Interval(bottom, top, ratio, level, n), level, n)


def tpot_over_context(records: Sequence[SampleRecord], level: float = 0.95) -> TpotOverContext | None:
    """What a longer context costs: the time of each decode step against the tokens that it attends to.

    Step i (from 0) of a sample attends to its input tokens, its first token and the i tokens since. The slope is
    `theil_sen` over the steps of all samples with the keys as clusters: steps of one sample share a clock speed.
    Of more than 1000 samples with steps, 1000 evenly spaced ones are used. None where no step was timed or all
    had the same context.
    """
    timed = [record for record in records if record.ok and record.token_s and record.input_tokens is not None]
    if len(timed) > 1000:
        timed = [timed[i] for i in np.linspace(0, len(timed) - 1, 1000).round().astype(int)]
    if not timed:
        return None
    steps = np.array([len(record.token_s) for record in timed])
    context = np.concatenate([(record.input_tokens or 0) + 1.0 + np.arange(len(record.token_s)) for record in timed])
    if context.min() == context.max():
        return None
    step_ms = 1000 * np.concatenate([np.asarray(record.token_s, dtype=np.float64) for record in timed])
    codes: dict[str, int] = {}
    owner = np.repeat([codes.setdefault(record.key, len(codes)) for record in timed], steps)
    line = theil_sen(context, step_ms, owner, level)
    median = float(np.median(context))
    return TpotOverContext(
        slope=Slope(1000 * line.slope, 1000 * line.low, 1000 * line.high, line.intercept, level, line.n),
        context_tokens=median,
        at_context_ms=line.intercept + line.slope * median,
        samples=len(timed),
    )


def outliers(values: Values) -> Outliers:
    """Which values lie outside Tukey's fences (Exploratory Data Analysis, 1977), labelled as Criterion does.

    They are pointed out and stay in every figure: a hiccup is part of what was measured.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return Outliers(np.array([], dtype=np.intp), np.array([], dtype=np.intp))
    q1, q3 = np.percentile(array, [25, 75])
    beyond = np.maximum(q1 - array, array - q3)
    severe = beyond > 3 * (q3 - q1)
    return Outliers(mild=np.flatnonzero((beyond > 1.5 * (q3 - q1)) & ~severe), severe=np.flatnonzero(severe))


def regression(tokens: Values, seconds: Values) -> Line:
    """How far tokens explain time, by least squares: slope in seconds per token, intercept in seconds.

    Standard errors are the textbook's, for independent errors of equal variance (Draper and Smith, Applied
    Regression Analysis, 1998, ch. 1); infinite for two points, which leave no error to see.
    Raises ValueError for fewer than two different token counts, values that are not finite, or unequal lengths.
    """
    x, _, _ = _checked(tokens, None)
    y, _, _ = _checked(seconds, None)
    n = len(x)
    if len(y) != n:
        raise ValueError(f"{n} token counts and {len(y)} times are not points")
    if x.min() == x.max():
        raise ValueError(f"all {n} samples have {x[0]:g} tokens; a line needs two different counts")
    dx, dy = x - x.mean(), y - y.mean()
    spread = float((dx**2).sum())
    slope = float((dx * dy).sum()) / spread
    unexplained, total = float(((dy - slope * dx) ** 2).sum()), float((dy**2).sum())
    error = math.sqrt(unexplained / (n - 2)) if n > 2 else math.inf
    return Line(
        intercept=float(y.mean() - slope * x.mean()),
        slope=slope,
        intercept_se=error * math.sqrt(1 / n + float(x.mean()) ** 2 / spread),
        slope_se=error / math.sqrt(spread),
        r2=1 - unexplained / total if total else 1.0,
        n=n,
    )


def _present(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _checked(values: Values, clusters: Clusters, level: float = 0.95) -> tuple[Floats, Ints, int]:
    """Values as an array, their cluster codes from 0, and how many clusters there are."""
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, not at {level:g}; 0.95 is 95 %")
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise ValueError("no values")
    if strange := int((~np.isfinite(array)).sum()):
        raise ValueError(f"{strange} of {len(array)} values are not finite; leave the missing ones out")
    if clusters is None:
        return array, np.arange(len(array)), len(array)
    if len(clusters) != len(array):
        raise ValueError(f"{len(array)} values have {len(clusters)} cluster labels; each needs one")
    return array, *_numbered(clusters)


def _numbered(labels: Sequence[Hashable] | NDArray[np.integer]) -> tuple[Ints, int]:
    if isinstance(labels, np.ndarray):
        unique, codes = np.unique(labels, return_inverse=True)
        return codes.astype(np.int64), len(unique)
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels], dtype=np.int64), len(seen)


def _sums(values: Floats, codes: Ints, groups: int) -> Floats:
    return np.bincount(codes, weights=values, minlength=groups).astype(np.float64)


def _student(degrees: int, level: float) -> float:
    """Two-sided quantile of Student's t: exact for 1 and 2 degrees, within 0.1 % at 95 % above.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    if degrees == 1:
        return math.tan(math.pi * level / 2)
    if degrees == 2:
        return level * math.sqrt(2 / (1 - level**2))
    z = NormalDist().inv_cdf((1 + level) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(degrees) ** power for power, term in enumerate(terms, start=1))


def _resampled(groups: int, width: int, resamples: int, seed: int) -> Iterator[Ints]:
    """How often each group was drawn: [some of the resamples, groups], few enough that rows x width fit CELLS."""
    rng = np.random.default_rng(seed)
    rows = max(1, CELLS // max(groups, width))
    for start in range(0, resamples, rows):
        some = min(rows, resamples - start)
        drawn = rng.integers(groups, size=(some, groups)) + groups * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * groups).reshape(some, groups)


def _ratio_interval(top: Floats, bottom: Floats, n: int, seed: int, resamples: int, level: float) -> Interval:
    """Bootstrap-t of sum(top) / sum(bottom) over groups that are drawn whole; a mean has the sizes as bottom."""
    return ratio_intervals(top[:, None], bottom[:, None], n, seed, resamples, level)[0]


def _t_quantiles(
    residuals: Floats, bottoms: Floats, student: float, seed: int, resamples: int, level: float
) -> tuple[Floats, Floats]:
    """Upper and lower quantile of each column's t over resamples, within WIDEST times Student's. [columns]"""
    groups = len(residuals)
    moments = np.concatenate([residuals, bottoms, residuals**2, residuals * bottoms, bottoms**2], axis=1)
    parts = []
    for drawn in _draws(groups, resamples, seed):
        r, m, rr, rm, mm = np.split(drawn @ moments, 5, axis=1)  # [some of the resamples, columns] each
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = r / m
            spread = np.sqrt(groups / (groups - 1) * np.maximum(rr - 2 * shift * rm + shift**2 * mm, 0))
            parts.append(r / spread * np.sign(m))
    t = np.clip(np.nan_to_num(np.concatenate(parts), nan=0.0), -WIDEST * student, WIDEST * student)
    left, right = np.quantile(t, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return right, left


def _draws(groups: int, resamples: int, seed: int) -> Iterable[Floats]:
    """What `_resampled` draws, as floats; kept from call to call where it is small."""
    if groups * resamples <= CELLS:
        return (_kept_draws(groups, resamples, seed),)
    return (drawn.astype(np.float64) for drawn in _resampled(groups, groups, resamples, seed))


@lru_cache(maxsize=4)
def _kept_draws(groups: int, resamples: int, seed: int) -> Floats:
    return np.concatenate(list(_resampled(groups, groups, resamples, seed))).astype(np.float64)


def _enough_for_a_median(groups: int, level: float) -> bool:
    """Even the range of g values covers their median only with probability 1 - 2^(1-g)."""
    return 1 - 2.0 ** (1 - groups) >= level


def _medians(values: Floats, codes: Ints, drawn: Ints) -> Floats:
    """Medians of the values, each as often as its group was drawn; NaN where none was. [resamples]"""
    order = np.argsort(values)
    values = values[order]
    counted = np.cumsum(drawn[:, codes[order]], axis=1)  # [resamples, values]
    total = counted[:, -1:]
    low, high = (2 * counted >= total).argmax(axis=1), (2 * counted > total).argmax(axis=1)
    return np.where(total[:, 0] > 0, (values[low] + values[high]) / 2, np.nan)


def _expanded_percentiles(estimates: Floats, groups: int, level: float) -> tuple[float, float]:
    """Percentile interval, widened as Student's t is against the normal (Hesterberg, 2015, section 3.3)."""
    tail = NormalDist().cdf(-math.sqrt(groups / (groups - 1)) * _student(groups - 1, level))
    low, high = np.quantile(estimates[np.isfinite(estimates)], [tail, 1 - tail])
    return float(low), float(high)


def _woodruff(values: Floats, codes: Ints, groups: int, level: float) -> tuple[float, float]:
    """Limits of a median from the error of the share of values below it (Woodruff, JASA 47, 1952)."""
    if groups == 1:
        return -math.inf, math.inf
    below = (values <= np.median(values)).astype(np.float64)
    off = _sums(below - below.mean(), codes, groups)
    reach = _student(groups - 1, level) * math.sqrt(groups / (groups - 1) * float((off**2).sum())) / len(values)
    if reach >= 0.5:
        return -math.inf, math.inf
    low, high = np.quantile(values, [0.5 - reach, 0.5 + reach])
    return float(low), float(high)


def _aligned(places: Floats, times: Floats, codes: Ints, groups: int) -> tuple[Floats, Floats, Floats, Ints] | None:
    """Of the repeated: positions, the same less their cluster's mean, times by their cluster's median, codes.

    None where repeats tell less than what lies between clusters, or where a cluster's median is not above 0.
    """
    sizes = np.bincount(codes, minlength=groups)
    within = places - (_sums(places, codes, groups) / sizes)[codes]
    if (within**2).sum() <= ((places - places.mean()) ** 2).sum() / 2:
        return None
    ordered = times[np.lexsort((times, codes))]
    starts = np.cumsum(sizes) - sizes
    medians = (ordered[starts + (sizes - 1) // 2] + ordered[starts + sizes // 2]) / 2
    if medians.min() <= 0:
        return None
    repeated = sizes[codes] > 1
    return places[repeated], within[repeated], (times / medians[codes])[repeated], codes[repeated]


def _blocks(x: Floats, y: Floats, codes: Ints, groups: int) -> tuple[Floats, Floats, Ints, int]:
    """Medians of neighbours in x, about PAIRS_LIMIT in all; where clusters repeat, within each of them."""
    most = PAIRS_LIMIT // 4  # clusters, so that each keeps four points
    clustered = groups < len(x)
    if clustered and groups > most:
        kept = np.linspace(0, groups - 1, most).round().astype(np.int64)
        number = np.full(groups, -1)
        number[kept] = np.arange(most)
        chosen = number[codes] >= 0
        x, y, codes, groups = x[chosen], y[chosen], number[codes[chosen]], most
    if not clustered:
        codes, groups = np.zeros(len(x), dtype=np.int64), 1
    order = np.lexsort((x, codes))
    x, y, codes = x[order], y[order], codes[order]
    sizes = np.bincount(codes, minlength=groups)
    share = np.maximum(PAIRS_LIMIT * sizes // len(x), 1).clip(max=sizes)  # blocks of each cluster
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    edges = np.concatenate(
        [start + size * np.arange(k) // k for start, size, k in zip(starts, sizes, share, strict=True)]
    )
    parts = list(zip(np.split(x, edges[1:]), np.split(y, edges[1:]), strict=True))
    xs, ys = (np.array([np.median(part[i]) for part in parts]) for i in (0, 1))
    return xs, ys, *((codes[edges], groups) if clustered else (np.arange(len(xs)), len(xs)))


def _kendall_variance(x: Floats, y: Floats) -> float:
    """Of S over independent points without trend, corrected for ties (Kendall, Rank Correlation Methods, ch. 4)."""
    n = len(x)
    ties = [np.unique(values, return_counts=True)[1] for values in (x, y)]
    tied = sum(float((t * (t - 1) * (2 * t + 5)).sum()) for t in ties)
    return max(float(n * (n - 1) * (2 * n + 5) - tied) / 18, 0.0)


def _kendall_projections(x: Floats, y: Floats) -> Floats:
    """Per point, the concordant less the discordant pairs that it is in."""
    signs = np.sign(np.subtract.outer(x, x))
    signs *= np.sign(np.subtract.outer(y, y))
    return np.asarray(signs.sum(axis=1))
