"""Attribution: which part of the gap between two runs comes from where, in seconds that add up to it.

Never a share of one run's time: a factor's contribution is what it adds to target − baseline. Left out: whether a
gap is worth telling (`effects.py`), and pictures.

    found = attribute_pairs(pair_keys(per_key(baseline_columns), per_key(target_columns)))
    {factor.name: factor.contribution.estimate for factor in found.factors}  # seconds a sample, summing to the gap
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fourstage.comparison.pairing import Pairs
from fourstage.records.figures import TOTAL
from fourstage.stats.clusters import Floats, Ints
from fourstage.stats.intervals import Interval, ratio_intervals

FACTORS = ("load", "preprocess", "encode", "prefill", "tokens", "time_per_token", "rest")

LABELS = {
    "load": "loading",
    "preprocess": "preprocessing",
    "encode": "encoding",
    "prefill": "the prefill",
    "tokens": "the number of tokens",
    "time_per_token": "the time per token",
    "rest": "the rest of decoding",
}


@dataclass(frozen=True)
class Factor:
    """What one cause adds to the gap."""

    name: str  # of FACTORS
    contribution: Interval  # mean seconds a sample; above 0: it makes the target take longer
    share: float  # of the gap; below 0: it works against it; NaN where there is no gap
    log_share: float  # of ln(target / baseline)
    cached: bool  # a stage that one of the runs had from a cache and the other did not

    @property
    def label(self) -> str:
        """The cause in words."""
        return LABELS[self.name]

    @property
    def ratio(self) -> float:
        """The factor of the ratio target / baseline that it stands for; their product is the ratio."""
        return math.exp(self.log_share)


@dataclass(frozen=True, eq=False)
class Attribution:
    """The gap in seconds a sample, over the samples that pair, and the factors that add up to it."""

    n: int  # keys
    left_out: int  # pairs that lack a time which the others have
    baseline_s: float  # mean total of a sample
    target_s: float
    gap: Interval  # target − baseline
    ratio: Interval  # target / baseline
    factors: tuple[Factor, ...]  # in the order of FACTORS, without `missing`
    missing: tuple[str, ...]  # factors that these runs did not time apart: they are in the rest
    keys: tuple[str, ...]
    per_sample: Floats  # [keys, factors] seconds; each row sums to that sample's gap
    clusters: Ints  # of each key, from 0: keys that shared a call of the model are one

    def factor(self, name: str) -> Factor:
        """The factor of that name, of FACTORS."""
        return next(factor for factor in self.factors if factor.name == name)


def attribute_pairs(
    pairs: Pairs,
    cached: tuple[str, ...] = (),
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Attribution | None:
    """Split the gap of paired runs, with the stages that one of them had from a cache; None where nothing pairs.

    Repeats of a sample are averaged first, then every sample counts once; keys (or calls, of batches) are the
    clusters of the intervals, which are those of a mean (`bootstrap_interval`).

    Load, preprocess, encode and prefill give their difference. The time of the decode steps is number x time per
    step: its difference is split by the symmetric Shapley value of two factors, (n1 − n0)(t0 + t1) / 2 for the
    number and (t1 − t0)(n0 + n1) / 2 for the time, sample by sample (Shapley 1953; for products, the
    mid-point weights of Shorrocks, Journal of Economic Inequality 11, 2013). Without a step on one side, its time
    per step is taken to be the other's: all of the difference is then one of number.
    `rest` is what remains: detokenising after the last token, and whatever was not timed apart (`missing`).

    With batches the four stages of a record are its share of the batch's seconds, while prefill and steps are
    what it waited. They are divided by the batch size, so that everything is a share of the same seconds. A
    sample's own steps then are its part, and what its batch went on decoding for longer answers is in the rest:
    waiting for others, neither its tokens nor their speed.

    Log shares are contribution / L with L = (target − baseline) / ln(target / baseline), the logarithmic mean of
    the mean totals: they sum to ln(target / baseline) exactly (LMDI: Ang, Energy Policy 32, 2004, 1131–1139,
    whose additive and multiplicative forms are in this proportion).
    """
    totals = np.isfinite(pairs.baseline(TOTAL.field)) & np.isfinite(pairs.target(TOTAL.field))
    terms = [_terms(pairs.baseline), _terms(pairs.target)]
    there = {name: np.isfinite(terms[0][name]) & np.isfinite(terms[1][name]) & totals for name in terms[0]}
    known = [name for name, mask in there.items() if mask.any()]
    used = np.logical_and.reduce([totals, *(there[name] for name in known)])
    if not used.any():
        return None
    one, other = ({name: side[name][used] for name in (*known, "total")} for side in terms)
    parts = split(one, other)
    names = tuple(parts)
    gap = other["total"] - one["total"]
    per_sample = np.stack(list(parts.values()), axis=1)

    codes = np.unique(pairs.clusters[used], return_inverse=True)[1].reshape(-1)
    groups, n = int(codes.max()) + 1, int(used.sum())

    def summed(values: Floats) -> Floats:
        return np.bincount(codes, weights=values, minlength=groups).astype(np.float64)

    sizes = summed(np.ones(n))
    tops = np.stack([summed(values) for values in (other["total"], gap, *per_sample.T)], axis=1)
    bottoms = np.stack([summed(one["total"]), *[sizes] * (1 + len(names))], axis=1)
    ratio, whole, *contributions = ratio_intervals(tops, bottoms, n, seed, resamples, level)
    before, after = float(one["total"].mean()), float(other["total"].mean())
    log_mean = logarithmic_mean(before, after)
    factors = tuple(
        Factor(
            name=name,
            contribution=contribution,
            share=contribution.estimate / whole.estimate if whole.estimate else math.nan,
            log_share=contribution.estimate / log_mean if log_mean else math.nan,
            cached=name in cached,
        )
        for name, contribution in zip(names, contributions, strict=True)
    )
    return Attribution(
        n=n,
        left_out=pairs.n - n,
        baseline_s=before,
        target_s=after,
        gap=whole,
        ratio=ratio,
        factors=factors,
        missing=tuple(name for name in FACTORS if name not in parts),
        keys=tuple(key for key, use in zip(pairs.keys, used, strict=True) if use),
        per_sample=per_sample,
        clusters=codes,
    )


def split(baseline: Mapping[str, Floats], target: Mapping[str, Floats]) -> dict[str, Floats]:
    """Seconds that each factor adds to target − baseline of `total`, sample by sample; they sum to it.

    Both hold `total` and any of load, preprocess, encode, prefill (seconds), and steps (their number) with
    steps_s (their seconds): arrays of one length.
    """
    parts = {
        name: target[name] - baseline[name] for name in ("load", "preprocess", "encode", "prefill") if name in baseline
    }
    if "steps" in baseline:
        n0, n1 = baseline["steps"], target["steps"]
        t0, t1 = _per_step(baseline), _per_step(target)
        t0, t1 = np.where(n0 > 0, t0, t1), np.where(n1 > 0, t1, t0)
        parts["tokens"] = (n1 - n0) * (t0 + t1) / 2
        parts["time_per_token"] = (t1 - t0) * (n0 + n1) / 2
    gap = target["total"] - baseline["total"]
    parts["rest"] = gap - sum(parts.values(), np.zeros(len(gap)))
    return parts


def logarithmic_mean(one: float, other: float) -> float:
    """(other − one) / ln(other / one), which is their value where they are equal; 0.0 where one of them is not
    above 0."""
    if one <= 0 or other <= 0:
        return 0.0
    gap = (other - one) / one
    # ln(1 + gap) keeps its digits where the two are near each other
    return one * (gap / math.log1p(gap)) if gap else one


def _terms(read: Callable[[str], Floats]) -> dict[str, Floats]:
    terms = {name: read(f"{name}_s") for name in ("load", "preprocess", "encode")}
    prefill, steps, steps_s = read("prefill_share_s"), read("steps"), read("steps_share_s")
    # without the time of the prefill no step was timed either: 0 steps of a record are then not known, not none
    unknown = np.isnan(prefill)
    terms |= {"steps": np.where(unknown, np.nan, steps), "steps_s": np.where(unknown, np.nan, steps_s)}
    return terms | {"prefill": prefill, "total": read(TOTAL.field)}


def _per_step(side: Mapping[str, Floats]) -> Floats:
    """Seconds of a step; 0 where there was none."""
    steps = side["steps"]
    return np.divide(side["steps_s"], steps, out=np.zeros(len(steps)), where=steps > 0)
