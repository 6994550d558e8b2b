"""Two configurations, each measured in several fresh processes: their ratio, and how sure it is.

The model: log(value) = configuration + process + sample + cluster and sample by configuration + noise. The sample's
own effect cancels, since both configurations have the same samples; all else is in the interval. Left out: verdicts
and their words (verdicts.py), many configurations (factors.py), planning (power.py).

    target = Measured(seconds, replicates, samples, clusters)       # one entry a value
    effect = log_ratio(target, baseline, margin=0.02)
    effect.ratio, effect.low, effect.high                           # 1.10, 1.07, 1.13
    effect.p_value, effect.replicated, effect.detectable_ratio
    floor(baseline).spread()                                        # 0.031: two processes differ by up to 3.1 %
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fourstage.stats.clusters import Floats, Ints, Values, numbered
from fourstage.stats.variance import Fit, Variance, contrast, fit

DISAGREE = 1.10  # of the largest by the smallest of three ratios, see `averages`

Labels = Sequence[Hashable] | NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Measured:
    """One configuration: positive values (seconds, ms, tokens, tokens/s) with their replicate, sample and cluster.

    A sample may have several values in a replicate (repeats) or none (it failed). `clusters` is the sequence of each
    value's sample; None: each sample is its own. The labels of a sample are compared across configurations.

    Raises ValueError for no values, labels of another length, values that are not finite and above 0 (leave out what
    was not measured), or a sample in two clusters.
    """

    values: Values
    replicates: Labels
    samples: Labels
    clusters: Labels | None = None
    names: tuple[Hashable, ...] = field(init=False)  # of the samples, in order of appearance
    cluster_of: dict[Hashable, Hashable] = field(init=False)
    logs: Floats = field(init=False)  # [replicates, samples]: means of the logarithms of repeats, NaN where missing
    means: Floats = field(init=False)  # the same of the values themselves

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        labels = {"replicate": self.replicates, "sample": self.samples}
        if self.clusters is not None:
            labels["cluster"] = self.clusters
        if not len(values):
            raise ValueError("no values; a configuration needs at least one")
        for name, given in labels.items():
            if len(given) != len(values):
                raise ValueError(f"{len(values)} values have {len(given)} {name} labels; each value needs one")
        if strange := int((~np.isfinite(values)).sum()):
            raise ValueError(f"{strange} of {len(values)} values are not finite; leave out what was not measured")
        if low := int((values <= 0).sum()):
            raise ValueError(
                f"{low} of {len(values)} values are not above 0 (least: {values.min():g}) and have no logarithm; "
                "leave these samples out on both sides"
            )
        rows, replicates = numbered(_plain(self.replicates))
        columns, samples = numbered(_plain(self.samples))
        names = tuple(dict.fromkeys(_plain(self.samples)))
        clusters = _plain(self.samples if self.clusters is None else self.clusters)
        cluster_of: dict[Hashable, Hashable] = {}
        for sample, cluster in zip(_plain(self.samples), clusters, strict=True):
            if cluster_of.setdefault(sample, cluster) != cluster:
                raise ValueError(
                    f"sample {sample!r} is in clusters {cluster_of[sample]!r} and {cluster!r}; give it one"
                )
        places = rows * samples + columns
        counts = np.bincount(places, minlength=replicates * samples).reshape(replicates, samples)

        def cells(of: Floats) -> Floats:
            sums = np.bincount(places, weights=of, minlength=replicates * samples).reshape(replicates, samples)
            return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

        for name, value in (
            ("names", names),
            ("cluster_of", cluster_of),
            ("logs", cells(np.log(values))),
            ("means", cells(values)),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def of_cells(
        cls, logs: Floats, means: Floats, names: tuple[Hashable, ...], cluster_of: dict[Hashable, Hashable]
    ) -> Measured:
        """From cells that are averaged already: [replicates, samples] of logarithms and of values, NaN where missing.

        Each row and each column has a value; `cluster_of` has every name.
        """
        made = cls.__new__(cls)
        for name, value in (
            ("values", ()),
            ("replicates", ()),
            ("samples", ()),
            ("clusters", None),
            ("names", names),
            ("cluster_of", cluster_of),
            ("logs", logs),
            ("means", means),
        ):
            object.__setattr__(made, name, value)
        return made


@dataclass(frozen=True, eq=False)
class Floor:
    """How far processes of one configuration differ: the standard deviation of their mean logarithms.

    The noise within the processes is in it, so it is of as many samples as were measured.
    """

    sd: float
    df: float
    noise_sd: float  # of a process mean, from the noise within processes alone; NaN where unknown
    replicates: int
    samples: int  # the fewest of any that were pooled

    @property
    def process_sd(self) -> float:
        """Without the noise; 0 where it explains all, `sd` where it is unknown."""
        return self.sd if math.isnan(self.noise_sd) else math.sqrt(max(self.sd**2 - self.noise_sd**2, 0.0))

    def limits(self, level: float = 0.95) -> tuple[float, float]:
        """The interval of `sd`, by chi-square for normal process effects (Snedecor and Cochran, 1989, ch. 5)."""
        from scipy.special import chdtri

        low, high = (chdtri(self.df, tail) for tail in ((1 - level) / 2, (1 + level) / 2))
        return self.sd * math.sqrt(self.df / low), self.sd * math.sqrt(self.df / high)

    def spread(self, level: float = 0.95) -> float:
        """Two further processes of the configuration differ by less than this share, e.g. 0.031: exp(t √2 sd) - 1."""
        from scipy.special import stdtrit

        return math.expm1(min(float(stdtrit(self.df, (1 + level) / 2)) * math.sqrt(2) * self.sd, 700.0))


@dataclass(frozen=True)
class Averages:
    """The ratio of two configurations by three averages, where one of a few samples can speak for all."""

    geometric: float
    of_means: float
    of_medians: float

    @property
    def disagree(self) -> bool:
        """Whether the largest ratio exceeds the smallest by more than DISAGREE allows."""
        three = (self.geometric, self.of_means, self.of_medians)
        return max(three) > DISAGREE * min(three)

    @property
    def text(self) -> str:
        """One sentence where they disagree, else ""."""
        if not self.disagree:
            return ""
        return (
            f"means and medians disagree: the ratio is {self.of_means:.3g} of means, {self.of_medians:.3g} of medians "
            f"and {self.geometric:.3g} of geometric means; look at single samples"
        )


@dataclass(frozen=True, eq=False)
class Effect:
    """A ratio target / baseline (or of a contrast), its interval and where its uncertainty comes from.

    Limits are always above 0; 0.0 is never reached, and a high limit of inf (with low at the smallest positive
    number) says that nothing is known. `p_value` is of no difference, two-sided; `p_equivalent` of a difference of
    the margin or more (two one-sided tests, Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15, 1987). Where
    `replicated` is false, no process variance is in any of these: they are of the samples alone and support no claim.
    """

    log: float
    variance: Variance
    level: float
    margin: float
    power: float
    replicated: bool
    known_floor: bool  # a noise floor from earlier measurements stands for a configuration of one replicate
    replicates: tuple[int, ...]  # of the configurations, target first
    samples: int  # that all have
    unmatched: int  # samples that some have not, and which do not count
    clusters: int
    target_geometric: float  # unit of the values, over the samples that count; NaN for contrasts of more than two
    baseline_geometric: float

    @property
    def ratio(self) -> float:
        """Target / baseline."""
        return _exp(self.log)

    @cached_property
    def half_width(self) -> float:
        """Of the interval, on the log scale."""
        return float(self.variance.half_width(self.level)) if math.isfinite(self.se) else math.inf

    @property
    def low(self) -> float:
        """Lower limit of the ratio's interval."""
        return _exp(self.log - self.half_width)

    @property
    def high(self) -> float:
        """Upper limit of the ratio's interval."""
        return math.inf if math.isinf(self.half_width) else _exp(self.log + self.half_width)

    @cached_property
    def se(self) -> float:
        """Standard error of `log`."""
        return math.sqrt(float(self.variance.total))

    @cached_property
    def df(self) -> float:
        """Degrees of freedom of `se`; 0 where it is unknown."""
        return float(self.variance.df) if math.isfinite(self.se) else 0.0

    @cached_property
    def p_value(self) -> float:
        """Two-sided, that the ratio is 1; 1 where the error is unknown."""
        return float(self.variance.p_value(self.log)) if math.isfinite(self.se) else 1.0

    @cached_property
    def p_equivalent(self) -> float:
        """That the ratio lies outside the margin (two one-sided tests); 1 where the error is unknown."""
        if not math.isfinite(self.se):
            return 1.0
        room = math.log1p(self.margin) - abs(self.log)
        p = float(self.variance.p_value(room)) / 2
        if abs(room) < 1e-13:
            return 1.0 if self.se == 0 else 0.5
        return p if room > 0 else 1 - p

    @property
    def shares(self) -> dict[str, float]:
        """Percent of the variance "between processes", "between clusters" and "within processes"; empty if unknown."""
        total = float(self.variance.total)
        if not 0 < total < math.inf:
            return {}
        parts = (self.variance.between_processes, self.variance.between_clusters, self.variance.noise)
        names = ("between processes", "between clusters", "within processes")
        return {name: 100 * float(part) / total for name, part in zip(names, parts, strict=True)}

    @property
    def detectable_ratio(self) -> float:
        """The smallest slow-down that a test at 1 - level finds with the given power, e.g. 1.013; inf: none."""
        return self.detectable(1 - self.level)

    def detectable(self, alpha: float) -> float:
        """The same at another level of the test, e.g. 0.05 / rows, Holm's first and strictest."""
        from scipy.special import stdtrit

        if not math.isfinite(self.se):
            return math.inf
        reach = float(self.variance.half_width(1 - alpha)) + float(stdtrit(self.df, self.power)) * self.se
        return math.exp(reach) if reach < 700 else math.inf

    @property
    def difference(self) -> tuple[float, float, float]:
        """Target less baseline, low and high, in the unit of the values: of the geometric means.

        baseline x (ratio - 1), limit by limit, so that difference and ratio always say the same; the uncertainty of the
        baseline's own level, which no comparison needs, is left out.
        """
        return tuple(self.baseline_geometric * (ratio - 1) for ratio in (self.ratio, self.low, self.high))  # type: ignore[return-value]


def log_ratio(
    target: Measured,
    baseline: Measured,
    *,
    level: float = 0.95,
    margin: float = 0.02,
    power: float = 0.8,
    known: Floor | None = None,
    over_samples: bool = True,
) -> Effect:
    """The geometric mean ratio target / baseline over the samples that both have.

    Each sample counts once, each process once; missing cells are bridged by least squares (`variance.fit`). The
    variance between processes is that of each side by itself, with Welch's degrees of freedom (Biometrika 34, 1947):
    the two may differ in it. A side of one replicate has none: without `known` the effect is not `replicated`.
    `known`, a floor from earlier measurements of the same machine and stage, stands in for a side of one replicate
    only; what was measured now goes before. `over_samples=False` is for a claim about these very samples, e.g. of one
    sequence.

    Raises ValueError for no common sample, replicates without one, or a level, margin or power out of range.
    """
    return effect([target, baseline], [1.0, -1.0], level, margin, power, known, over_samples)


def effect(
    configurations: Sequence[Measured],
    weights: Sequence[float],
    level: float = 0.95,
    margin: float = 0.02,
    power: float = 0.8,
    known: Floor | None = None,
    over_samples: bool = True,
) -> Effect:
    """The contrast of configurations whose weights sum to 0, as `log_ratio` is of +1 and -1."""
    for name, value in (("level", level), ("margin", margin), ("power", power)):
        if not 0 < value < 1:
            raise ValueError(f"{name} lies between 0 and 1, not at {value:g}")
    if abs(sum(weights)) > 1e-9:
        raise ValueError(f"weights of a contrast sum to 0, not to {sum(weights):g}")
    names, fits, codes, clusters = aligned(configurations)
    everywhere = {name for one in configurations for name in one.names}
    unmatched = len(everywhere) - len(names)
    return effect_of_fits(fits, weights, codes, clusters, unmatched, level, margin, power, known, over_samples)


def effect_of_fits(
    fits: Sequence[Fit],
    weights: Sequence[float],
    codes: Ints,
    clusters: int,
    unmatched: int = 0,
    level: float = 0.95,
    margin: float = 0.02,
    power: float = 0.8,
    known: Floor | None = None,
    over_samples: bool = True,
) -> Effect:
    """The same of configurations that are fitted over the same samples, whose clusters have these codes."""
    log, variance = contrast(fits, weights, codes, (known.sd, known.df) if known else None, over_samples)
    single = any(one.replicates == 1 for one in fits)
    two = len(fits) == 2
    if not over_samples and single and known is None:
        raise ValueError("one replicate shows no variance of these very samples; give a known floor or replicates")
    return Effect(
        log=float(log),
        variance=variance,
        level=level,
        margin=margin,
        power=power,
        replicated=not single or known is not None,
        known_floor=single and known is not None,
        replicates=tuple(one.replicates for one in fits),
        samples=len(codes),
        unmatched=unmatched,
        clusters=clusters,
        target_geometric=_exp(float(fits[0].samples.mean())) if two else math.nan,
        baseline_geometric=_exp(float(fits[1].samples.mean())) if two else math.nan,
    )


def aligned(configurations: Sequence[Measured]) -> tuple[tuple[Hashable, ...], list[Fit], Ints, int]:
    """The samples that all have, a fit of each configuration over them, their cluster codes, and how many clusters."""
    common = set(configurations[0].names).intersection(*(one.names for one in configurations[1:]))
    names = tuple(name for name in configurations[0].names if name in common)
    if not names:
        raise ValueError("the configurations have no sample in common; compare runs over the same data")
    for name in names:
        found = {one.cluster_of[name] for one in configurations}
        if len(found) > 1:
            raise ValueError(f"sample {name!r} is in clusters {sorted(map(repr, found))}; give it one")
    codes, clusters = numbered([configurations[0].cluster_of[name] for name in names])
    fits = []
    for one in configurations:
        column = {name: place for place, name in enumerate(one.names)}
        logs = one.logs[:, [column[name] for name in names]]
        fits.append(fit(logs[~np.isnan(logs).all(axis=1)]))
    return names, fits, codes, clusters


def floor(configuration: Measured) -> Floor:
    """The noise floor of one configuration, from its own replicates (A/A).

    Raises ValueError for fewer than two replicates.
    """
    _, (one,), _, _ = aligned([configuration])
    if one.replicates < 2:
        raise ValueError("a noise floor needs two replicates or more; this configuration has one")
    left = one.cells - one.replicates - one.size + 1
    noise = math.sqrt(float((one.residuals**2).sum()) / left / one.size) if left > 0 else math.nan
    sd = float(one.processes.std(ddof=1))
    return Floor(sd if sd > 1e-13 else 0.0, one.replicates - 1.0, noise, one.replicates, one.size)


def pooled(floors: Sequence[Floor]) -> Floor:
    """Floors of several configurations or sessions as one: variances weighted by their degrees of freedom.

    It assumes that all have the same true spread; what sessions differ in their level is not in it.
    Raises ValueError for none.
    """
    if not floors:
        raise ValueError("no floors to pool")
    df = sum(one.df for one in floors)

    def mean(parts: list[float]) -> float:
        return math.sqrt(sum(one.df * part**2 for one, part in zip(floors, parts, strict=True)) / df)

    return Floor(
        mean([one.sd for one in floors]),
        df,
        mean([one.noise_sd for one in floors]),
        sum(one.replicates for one in floors),
        min(one.samples for one in floors),
    )


def averages(target: Measured, baseline: Measured) -> Averages:
    """The ratio by geometric means, arithmetic means and medians of the samples that both have.

    They disagree where the largest is more than 1.10 of the smallest. Times of benign spread stay below: for lognormal
    times of equal spread all three are alike whatever the spread is, and spreads of 20 % against 40 % part means
    from medians by 6 %. One sample of 4.9 s among four of 0.2 s gives 5.7, 1.0 and 1.9.
    """
    names, fits, _, _ = aligned([target, baseline])
    log = float(fits[0].samples.mean() - fits[1].samples.mean())
    sides = []
    for one in (target, baseline):
        column = {name: place for place, name in enumerate(one.names)}
        sides.append(np.nanmean(one.means[:, [column[name] for name in names]], axis=0))
    return Averages(
        _exp(log), float(sides[0].mean() / sides[1].mean()), float(np.median(sides[0]) / np.median(sides[1]))
    )


def _plain(labels: Labels) -> Sequence[Hashable]:
    return labels.tolist() if isinstance(labels, np.ndarray) else labels


def _exp(log: float) -> float:
    """Positive and finite, whatever the logarithm."""
    return math.exp(min(max(log, -700.0), 700.0))
