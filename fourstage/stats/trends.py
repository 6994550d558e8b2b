"""Trends: a robust slope, the drift of a run over its order, and a least-squares line.

drift(positions, seconds).change                 # 0.04: 4 % slower at the end
regression(tokens, seconds).slope                # seconds per token
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from fourstage.stats.clusters import Clusters, Floats, Ints, Values, checked, numbered, resampled, sums
from fourstage.stats.intervals import (
    BOOTSTRAP_LIMIT,
    Interval,
    enough_for_a_median,
    expanded_percentiles,
    resampled_medians,
    student_quantile,
    woodruff,
)

PAIRS_LIMIT = 1500  # above so many points Theil–Sen works on medians of blocks


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
class Line:
    """Least squares: seconds = intercept + slope x tokens, with standard errors in the same units."""

    intercept: float
    slope: float
    intercept_se: float
    slope_se: float
    r2: float  # share of the variance explained; 1.0 where there is none to explain
    n: int


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
    xs, codes, groups = checked(x, clusters, level)
    ys, _, _ = checked(y, None, level)
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
        projections = sums(_kendall_projections(xs, ys - slope * xs), codes, groups)
        variance, quantile = float((projections**2).sum()) * groups / (groups - 1), student_quantile(groups - 1, level)
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
    places, codes, groups = checked(position, clusters, level)
    times, _, _ = checked(seconds, None, level)
    n = len(places)
    if len(times) != n:
        raise ValueError(f"{n} positions and {len(times)} times are not points")
    if (median := float(np.median(times))) <= 0:
        raise ValueError(f"the median of {n} times is {median:g} s; a change has nothing to be a share of")
    span, x = float(places.max() - places.min()), places
    if (aligned := _aligned(places, times, codes, groups)) is not None:
        places, x, times, codes = aligned
        codes, groups = numbered(codes)
        median = float(np.median(times))
    line = theil_sen(x, times, codes, level)
    change, low, high = (slope * span / median for slope in (line.slope, line.low, line.high))

    order = np.argsort(places, kind="stable")
    first, second = np.split(order, [len(order) // 2])
    halves = [(times[half], codes[half]) for half in (first, second)]
    medians = [float(np.median(half)) for half, _ in halves]
    ratio = medians[1] / medians[0] if medians[0] else math.nan
    bottom, top = -math.inf, math.inf
    if math.isfinite(ratio) and enough_for_a_median(groups, level):
        if len(times) > BOOTSTRAP_LIMIT:
            limits = [woodruff(half, *numbered(own), level) for half, own in halves]
            parts = [(b - a) / 2 / m for (a, b), m in zip(limits, medians, strict=True)]
            # times by their cluster's median are high in one half where they are low in the other
            reach = math.hypot(*parts) if aligned is None else sum(parts)
            bottom, top = ratio * (1 - reach), ratio * (1 + reach)
        else:
            ratios = []
            for drawn in resampled(groups, len(times), resamples, seed):
                before, after = (resampled_medians(half, own, drawn) for half, own in halves)
                ratios.append(after / before)
            bottom, top = expanded_percentiles(np.concatenate(ratios), groups, level)
    return Drift(change, low, high, Interval(bottom, top, ratio, level, n), level, n)


def regression(tokens: Values, seconds: Values) -> Line:
    """How far tokens explain time, by least squares: slope in seconds per token, intercept in seconds.

    Standard errors are the textbook's, for independent errors of equal variance (Draper and Smith, Applied
    Regression Analysis, 1998, ch. 1); infinite for two points, which leave no error to see.
    Raises ValueError for fewer than two different token counts, values that are not finite, or unequal lengths.
    """
    x, _, _ = checked(tokens, None)
    y, _, _ = checked(seconds, None)
    n = len(x)
    if len(y) != n:
        raise ValueError(f"{n} token counts and {len(y)} times are not points")
    if x.min() == x.max():
        raise ValueError(f"all {n} samples have {x[0]:g} tokens; a line needs two different counts")
    from scipy.stats import linregress

    fit = linregress(x, y)
    exact = bool(y.min() == y.max())
    return Line(
        intercept=float(fit.intercept),
        slope=float(fit.slope),
        intercept_se=float(fit.intercept_stderr) if n > 2 else math.inf,
        slope_se=float(fit.stderr) if n > 2 else math.inf,
        r2=1.0 if exact else float(fit.rvalue) ** 2,
        n=n,
    )


def _aligned(places: Floats, times: Floats, codes: Ints, groups: int) -> tuple[Floats, Floats, Floats, Ints] | None:
    """Of the repeated: positions, the same less their cluster's mean, times by their cluster's median, codes.

    None where repeats tell less than what lies between clusters, or where a cluster's median is not above 0.
    """
    sizes = np.bincount(codes, minlength=groups)
    within = places - (sums(places, codes, groups) / sizes)[codes]
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
