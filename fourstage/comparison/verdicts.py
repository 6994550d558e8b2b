"""Verdicts: what can be claimed of a figure, from the samples' own ratios, corrected over the runs.

Left out: intervals of means (`effects.py`).

    judge(ratios, tested, better, margin=0.02)[run][figure].verdict     # Verdict.IMPROVED
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fourstage.stats.clusters import Floats, Ints
from fourstage.stats.intervals import student_quantile

ALPHA = 0.01  # of verdicts

POWER = 0.8  # with which the smallest effect would have been seen

ROUNDING = 1e-12  # of a logarithm


class Verdict(StrEnum):
    """What can be claimed of a figure of the target against the baseline's."""

    IMPROVED = "Improved"
    REGRESSED = "Regressed"
    EQUIVALENT = "Equivalent"
    INCONCLUSIVE = "Inconclusive"


def by_cluster(values: Floats, codes: Ints) -> Floats:
    """Sums of the rows of each cluster: [values, columns] → [clusters, columns]; codes from 0, none left out."""
    if len(codes) == codes.max(initial=-1) + 1:
        return values
    sums = np.zeros((int(codes.max()) + 1, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums


def log_ratios(before: Floats, after: Floats, clusters: Ints) -> Floats:
    """Mean, standard error and degrees of freedom of each column's log ratio: [keys, figures] → [3, figures].

    0 degrees of freedom: no test is possible.
    """
    none = (before == 0) & (after == 0)
    there = ((before > 0) & (after > 0)) | none
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(none, 0.0, np.log(after / before))
    sums = by_cluster(np.where(there, logs, 0.0), clusters)
    sizes = by_cluster(there.astype(np.float64), clusters)
    groups, whole = (sizes > 0).sum(axis=0), np.maximum(sizes.sum(axis=0), 1)
    means = sums.sum(axis=0) / whole
    squares = ((sums - means * sizes) ** 2).sum(axis=0)
    errors = np.sqrt(groups / np.maximum(groups - 1, 1) * squares) / whole
    return np.stack([means, errors, np.maximum(groups - 1, 0)])


def judge(
    ratios: Sequence[Floats], tested: NDArray[np.bool_], better: Sequence[int], margin: float
) -> list[list[Judgement]]:
    """Judge each run and figure, both tests corrected over the runs.

    `ratios`: of each run as `log_ratios` gives them; `tested` [runs, figures]; `better`: of each figure -1 where less
    is better, 1 where more is.
    """
    means, errors, degrees = np.moveaxis(np.array(ratios), 1, 0)  # [runs, figures] each
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

    def one(run: int, row: int) -> Judgement:
        if not tested[run, row]:
            return Judgement(None, math.nan, math.inf)
        if untestable[run, row]:
            return Judgement(Verdict.INCONCLUSIVE, math.nan, math.inf)
        verdict = Verdict.INCONCLUSIVE
        if p_beyond[run, row] < ALPHA:
            verdict = Verdict.EQUIVALENT
        elif p_differ[run, row] < ALPHA:
            verdict = Verdict.IMPROVED if means[run, row] * better[row] > 0 else Verdict.REGRESSED
        needed = detectable_errors(int(degrees[run, row]), ALPHA / int(family[row]))
        detectable = math.exp(min(needed * float(errors[run, row]), 700.0))
        return Judgement(verdict, float(p_differ[run, row]), detectable)

    return [[one(run, row) for row in range(len(better))] for run in range(len(ratios))]


@dataclass(frozen=True)
class Judgement:
    """The verdict on one figure of one run."""

    verdict: Verdict | None
    p_value: float
    detectable_ratio: float


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
