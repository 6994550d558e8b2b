"""Before a measurement: what it will be able to show, and how much of it is needed.

spread = Spread(process=0.015, noise=0.03)                  # standard deviations of logarithms
detectable_ratio(spread, replicates=5, samples=20)          # 1.033
needed(spread, effect=0.03, samples=20)                     # Need(replicates=6, samples=20, power=0.83)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fourstage.stats.replicates import Effect
from fourstage.stats.variance import Variance

MOST = 1000  # replicates


@dataclass(frozen=True)
class Spread:
    """Standard deviations of logarithms, as `floor` and the shares of an `Effect` show them.

    `process`: between processes, without noise. `noise`: of one sample in one process. `interaction`: of the ratio,
    between clusters (samples, where each is its own); 0 for one code measured twice.
    """

    process: float
    noise: float = 0.0
    interaction: float = 0.0

    def __post_init__(self) -> None:
        for name in ("process", "noise", "interaction"):
            if not (math.isfinite(value := getattr(self, name)) and value >= 0):
                raise ValueError(f"the standard deviation {name} must be finite and not below 0, not {value:g}")


@dataclass(frozen=True)
class Need:
    """How much to measure on each side, and the power which that gives; the fewest that suffice."""

    replicates: int
    samples: int
    power: float


def spread_of(effect: Effect) -> Spread:
    """The standard deviations that a measured effect of two configurations showed, to plan the next measurement.

    Raises ValueError where they are unknown: not replicated, or one cluster.
    """
    if not effect.replicated or not math.isfinite(effect.se):
        raise ValueError("the effect shows no spread: it needs replicates on both sides and two clusters or more")
    per_side = sum(1 / replicates for replicates in effect.replicates)
    variance = effect.variance
    return Spread(
        process=math.sqrt(float(variance.between_processes) / per_side),
        noise=math.sqrt(float(variance.noise) * effect.samples / per_side),
        interaction=math.sqrt(float(variance.between_clusters) * effect.clusters),
    )


def power_of(
    spread: Spread, ratio: float, replicates: int, samples: int, clusters: int | None = None,
    alpha: float = 0.05, rows: int = 1,
) -> float:  # fmt: skip
    """The probability that a true ratio is found, by noncentral t (Johnson, Kotz and Balakrishnan, 1995, ch. 31).

    The test is that of `log_ratio` at alpha / rows, Holm's first and strictest, with R processes a side and samples
    in so many clusters. Raises ValueError for fewer than two replicates or two clusters.
    """
    from scipy.special import nctdtr, stdtr

    if not ratio > 0:
        raise ValueError(f"a ratio is above 0, not {ratio:g}")
    test, variance = _expected(spread, replicates, samples, clusters)
    effect, se = abs(math.log(ratio)), math.sqrt(float(variance.total))
    if se == 0:
        return 1.0 if effect else alpha / rows
    critical = float(test.half_width(1 - alpha / rows)) / se
    shift = effect / se
    if shift > 30:  # beyond what nctdtr computes; critical values of few processes may be as large
        return float(1 - stdtr(float(variance.df), critical - shift))
    return float(1 - nctdtr(float(variance.df), shift, critical))


def detectable_ratio(
    spread: Spread, replicates: int, samples: int, clusters: int | None = None,
    alpha: float = 0.05, power: float = 0.8, rows: int = 1,
) -> float:  # fmt: skip
    """The smallest slow-down found with the given power, e.g. 1.033; inf where it is above 1000."""
    _check(power)
    low, high = 0.0, math.log(1000.0)
    if power_of(spread, math.exp(high), replicates, samples, clusters, alpha, rows) < power:
        return math.inf
    for _ in range(50):
        middle = (low + high) / 2
        if power_of(spread, math.exp(middle), replicates, samples, clusters, alpha, rows) < power:
            low = middle
        else:
            high = middle
    return math.exp(high)


def needed(
    spread: Spread, effect: float, samples: int, clusters: int | None = None,
    alpha: float = 0.05, power: float = 0.8, rows: int = 1,
) -> Need | None:  # fmt: skip
    """The fewest replicates a side that show an effect (0.03 is 3 %) with the power; None where none up to 1000 do.

    None means that samples are the limit: their interaction does not shrink with replicates. See `samples_needed`.
    """
    _check(power)
    if not effect > 0:
        raise ValueError(f"an effect is above 0, not {effect:g}; 0.03 is 3 %")

    def reached(replicates: int) -> float:
        return power_of(spread, 1 + effect, replicates, samples, clusters, alpha, rows)

    fewest = _fewest(reached, power, MOST)
    return None if fewest is None else Need(fewest, samples, reached(fewest))


def samples_needed(
    spread: Spread, effect: float, replicates: int, per_cluster: int = 1,
    alpha: float = 0.05, power: float = 0.8, rows: int = 1, most: int = 100_000,
) -> Need | None:  # fmt: skip
    """The fewest samples, in clusters of `per_cluster`, that show an effect with so many replicates.

    None where no number up to `most` does: the variance between processes does not shrink with samples.
    """
    _check(power)

    def reached(clusters: int) -> float:
        return power_of(spread, 1 + effect, replicates, clusters * per_cluster, clusters, alpha, rows)

    if effect <= 0 or per_cluster < 1:
        raise ValueError("an effect is above 0, and a cluster has one sample or more")
    fewest = _fewest(reached, power, max(most // per_cluster, 2))
    return None if fewest is None else Need(replicates, fewest * per_cluster, reached(fewest))


def _fewest(reached: Callable[[int], float], power: float, top: int) -> int | None:
    """The smallest number from 2 to `top` with which the power is reached; None where `top` does not reach it."""
    if reached(top) < power:
        return None
    low, high = 1, 2
    while reached(high) < power:
        low, high = high, min(2 * high, top)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) >= power else (middle, high)
    return high


def _check(power: float) -> None:
    if not 0 < power < 1:
        raise ValueError(f"power lies between 0 and 1, not at {power:g}; 0.8 is 80 %")


def _expected(spread: Spread, replicates: int, samples: int, clusters: int | None) -> tuple[Variance, Variance]:
    """The variance as the test sees it (Welch's expected degrees of freedom, equal spreads), and as it is."""
    groups = samples if clusters is None else clusters
    if replicates < 2:
        raise ValueError(f"power needs two replicates a side or more, not {replicates}")
    if not 2 <= groups <= samples:
        raise ValueError(f"power needs two clusters or more, and as many samples; not {groups} of {samples} samples")
    noise = 2 * spread.noise**2 / (replicates * samples)
    f = replicates - 1.0
    parts = (2 * spread.process**2 / replicates + noise, spread.interaction**2 / groups + noise)

    def made(process_df: float) -> Variance:
        numbers = (parts[0], process_df, parts[1], groups - 1.0, noise, 2 * f * (groups - 1))
        return Variance(*(np.asarray(number) for number in numbers))

    return made(2 * f * (f + 1) / (f + 2)), made(2 * f)
