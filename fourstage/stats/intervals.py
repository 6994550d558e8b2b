"""Confidence intervals of means, medians and ratios, for few and skewed timings that come in clusters.

An interval without enough data is infinite: nothing is claimed.

    bootstrap_interval(seconds, clusters=videos)     # Interval(low=0.0408, high=0.0417, estimate=0.0412, ...)
    paired_interval(before, after)                   # of the difference, and of the ratio
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from fourstage.stats.clusters import CELLS, Clusters, Floats, Ints, Values, checked, resampled, sums

BOOTSTRAP_LIMIT = 5000  # above so many values (of a mean: clusters) an interval is analytic

WIDEST = 3.0  # times Student's quantile: how far a bootstrap-t limit may go


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
        """Whether the value is inside, limits included."""
        return self.low <= value <= self.high


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
    array, codes, groups = checked(values, clusters, level)
    if statistic == "mean":
        top, size = sums(array, codes, groups), sums(np.ones(len(array)), codes, groups)
        return _ratio_interval(top, size, len(array), seed, resamples, level)
    if statistic != "median":
        raise ValueError(f"unknown statistic {statistic!r}; choose 'median' or 'mean'")
    estimate = float(np.median(array))
    if not enough_for_a_median(groups, level):
        return Interval(-math.inf, math.inf, estimate, level, len(array))
    if len(array) > BOOTSTRAP_LIMIT:
        low, high = woodruff(array, codes, groups, level)
    else:
        medians = np.concatenate(
            [resampled_medians(array, codes, drawn) for drawn in resampled(groups, len(array), resamples, seed)]
        )
        low, high = expanded_percentiles(medians, groups, level)
    return Interval(low, high, estimate, level, len(array))


def measurement_half_width(values: Values, clusters: Sequence[Hashable], level: float = 0.95) -> float:
    """Half-width of the mean's interval over these very samples, as a share of the mean: the noise of measuring.

    Samples are fixed, so what they differ among themselves does not count; each one's repeats show its noise
    (stratified mean, Cochran, Sampling Techniques, 1977, ch. 5). Infinite where no sample was repeated.
    """
    array, codes, groups = checked(values, clusters, level)
    size = sums(np.ones(len(array)), codes, groups)
    means = sums(array, codes, groups) / size
    squares = sums((array - means[codes]) ** 2, codes, groups)
    repeated = size > 1
    if not repeated.all():
        return math.inf
    variance = (squares / (size - 1) / size).sum() / groups**2
    degrees = int((size - 1).sum())
    return float(student_quantile(degrees, level) * math.sqrt(variance) / means.mean())


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
    one, codes, groups = checked(before, clusters, level)
    other, _, _ = checked(after, None, level)
    if len(one) != len(other):
        raise ValueError(f"{len(one)} values before and {len(other)} after are not pairs")
    n = len(one)
    size = sums(np.ones(n), codes, groups)
    difference = _ratio_interval(sums(other - one, codes, groups), size, n, seed, resamples, level)
    bottom = sums(one, codes, groups)
    if bottom.sum() == 0:
        return difference, Interval(-math.inf, math.inf, math.nan, level, n)
    return difference, _ratio_interval(sums(other, codes, groups), bottom, n, seed, resamples, level)


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
    student = student_quantile(groups - 1, level)
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


def student_quantile(degrees: int, level: float) -> float:
    """Two-sided quantile of Student's t: |T| stays below it with probability `level`."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


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
    """What `resampled` draws, as floats; kept from call to call where it is small."""
    if groups * resamples <= CELLS:
        return (_kept_draws(groups, resamples, seed),)
    return (drawn.astype(np.float64) for drawn in resampled(groups, groups, resamples, seed))


@lru_cache(maxsize=4)
def _kept_draws(groups: int, resamples: int, seed: int) -> Floats:
    return np.concatenate(list(resampled(groups, groups, resamples, seed))).astype(np.float64)


def enough_for_a_median(groups: int, level: float) -> bool:
    """Even the range of g values covers their median only with probability 1 - 2^(1-g)."""
    return 1 - 2.0 ** (1 - groups) >= level


def resampled_medians(values: Floats, codes: Ints, drawn: Ints) -> Floats:
    """Medians of the values, each as often as its group was drawn; NaN where none was. [resamples]"""
    order = np.argsort(values)
    values = values[order]
    counted = np.cumsum(drawn[:, codes[order]], axis=1)  # [resamples, values]
    total = counted[:, -1:]
    low, high = (2 * counted >= total).argmax(axis=1), (2 * counted > total).argmax(axis=1)
    return np.where(total[:, 0] > 0, (values[low] + values[high]) / 2, np.nan)


def expanded_percentiles(estimates: Floats, groups: int, level: float) -> tuple[float, float]:
    """Percentile interval, widened as Student's t is against the normal (Hesterberg, 2015, section 3.3)."""
    tail = NormalDist().cdf(-math.sqrt(groups / (groups - 1)) * student_quantile(groups - 1, level))
    low, high = np.quantile(estimates[np.isfinite(estimates)], [tail, 1 - tail])
    return float(low), float(high)


def woodruff(values: Floats, codes: Ints, groups: int, level: float) -> tuple[float, float]:
    """Limits of a median from the error of the share of values below it (Woodruff, JASA 47, 1952)."""
    if groups == 1:
        return -math.inf, math.inf
    below = (values <= np.median(values)).astype(np.float64)
    off = sums(below - below.mean(), codes, groups)
    reach = student_quantile(groups - 1, level) * math.sqrt(groups / (groups - 1) * float((off**2).sum())) / len(values)
    if reach >= 0.5:
        return -math.inf, math.inf
    low, high = np.quantile(values, [0.5 - reach, 0.5 + reach])
    return float(low), float(high)
