"""The variance of a contrast between configurations: between processes, between clusters of samples, and noise.

`fit` takes the logarithms of one configuration apart, process by process and sample by sample; `contrast` puts several
configurations together with weights: +1 and -1 for a ratio of two. All arrays may have leading batch axes, by which the
simulations in the tests run thousands of comparisons at once. Left out: units, names, words (replicates.py).

    both = [fit(np.log(target_s)), fit(np.log(baseline_s))]    # each [replicates, samples], NaN: missing
    estimate, variance = contrast(both, [1.0, -1.0])
    estimate - variance.half_width(0.95)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fourstage.stats.clusters import Floats, Ints

ROUNDING = 1e-13  # of a logarithm: what rounding leaves is no variance
SWEEPS = 500  # of the fit where cells are missing
STEPS = 45  # of a bisection


@dataclass(frozen=True, eq=False)
class Fit:
    """One configuration in logarithms: the mean of each process and sample, with the other's effect taken out."""

    processes: Floats  # [..., replicates]
    samples: Floats  # [..., samples]
    residuals: Floats  # [..., replicates, samples], 0 where the cell is missing
    cells: int  # measured; of one set of the batch
    replicates: int
    size: int  # samples


@dataclass(frozen=True, eq=False)
class Variance:
    """Three sources of variation of an estimate, each as a variance with its degrees of freedom.

    `process` and `cluster` contain the noise within processes as well, so the total is
    max(process - noise, 0) + max(cluster - noise, 0) + noise.
    """

    process: Floats
    process_df: Floats
    cluster: Floats
    cluster_df: Floats
    noise: Floats
    noise_df: Floats

    @cached_property
    def between_processes(self) -> Floats:
        """Without the noise; 0 where the noise explains it."""
        return np.maximum(self.process - self.noise, 0.0)

    @cached_property
    def between_clusters(self) -> Floats:
        """Without the noise; 0 where the noise explains it."""
        return np.maximum(self.cluster - self.noise, 0.0)

    @cached_property
    def total(self) -> Floats:
        """Of the estimate: processes, clusters and noise."""
        return self.between_processes + self.between_clusters + self.noise

    @cached_property
    def df(self) -> Floats:
        """Of the total (Satterthwaite, Biometrics Bulletin 2, 1946), at least those of the scarcer source."""
        parts = (
            np.where(self.between_processes > 0, self.process**2 / self.process_df, 0.0)
            + np.where(self.between_clusters > 0, self.cluster**2 / self.cluster_df, 0.0)
            + np.where(self.noise > 0, self.noise**2 / self.noise_df, 0.0)
        )
        scarce = np.minimum(self.process_df, self.cluster_df)
        with np.errstate(divide="ignore", invalid="ignore"):
            df = np.where(parts > 0, self.total**2 / parts, scarce)
        most = np.maximum(self.process_df + self.cluster_df, self.noise_df)
        return np.asarray(np.clip(df, scarce, most))

    def half_width(self, level: float | Floats) -> Floats:
        """Of the interval at a level, on the log scale.

        Its square is the mean of two: t(df)² x total by Satterthwaite, and the sum over the sources of t(df of the
        source)² x its variance (Howe, JASA 69, 1974). With few processes the first is too short where the sources are
        alike, since a small variance comes with many degrees of freedom; the second is too long there. And it is never
        shorter than the exact t interval of processes alone or of clusters alone: by chance a source may seem to have
        no variance beyond the noise, which at the strict levels of a correction would make one table of five wrong
        with two processes (docs/statistics.md has the table).
        """
        from scipy.special import stdtrit

        def quantile(df: Floats) -> Floats:
            return np.asarray(stdtrit(np.minimum(df, 1e9), (1 + level) / 2) ** 2)

        howe = (
            quantile(self.process_df) * self.between_processes
            + quantile(self.cluster_df) * self.between_clusters
            + quantile(self.noise_df) * self.noise
        )
        mean = (howe + quantile(self.df) * self.total) / 2
        alone = np.maximum(quantile(self.process_df) * self.process, quantile(self.cluster_df) * self.cluster)
        return np.asarray(np.sqrt(np.maximum(mean, alone)))

    def p_value(self, distance: Floats | float) -> Floats:
        """Two-sided: one less the largest level at which the half-width stays below the distance."""
        target = np.abs(np.asarray(distance, dtype=np.float64)) + np.zeros_like(self.total)
        if target.ndim == 0:
            return np.asarray(self._p_value(float(target)))
        low, high = np.zeros_like(target), np.full_like(target, 36.0)  # -ln p
        for _ in range(STEPS):
            middle = (low + high) / 2
            inside = self.half_width(-np.expm1(-middle)) <= target
            low, high = np.where(inside, middle, low), np.where(inside, high, middle)
        p = np.exp(-low)
        return np.asarray(np.where(target <= ROUNDING, 1.0, np.where(self.total == 0, 0.0, p)))

    def _p_value(self, target: float) -> float:
        """The same of one distance, by Brent's method instead of bisection: a fifth of the time."""
        from scipy.optimize import brentq

        if target <= ROUNDING:
            return 1.0
        if float(self.total) == 0:
            return 0.0

        def beyond(exponent: float) -> float:
            return float(self.half_width(-math.expm1(-exponent))) - target

        return math.exp(-36.0 if beyond(36.0) <= 0 else -float(brentq(beyond, 0.0, 36.0, xtol=1e-10)))


def fit(logs: Floats) -> Fit:
    """Means of processes and of samples by least squares on log = process + sample: [..., replicates, samples].

    NaN marks a missing cell; then all of a batch must miss the same cells. Raises ValueError where a process or a
    sample has no cell, or where processes have no samples in common by which they could be compared.
    """
    replicates, size = logs.shape[-2:]
    there = ~np.isnan(logs)
    if there.all():
        processes, samples = logs.mean(axis=-1), logs.mean(axis=-2)
        level = samples.mean(axis=-1)
        residuals = logs - processes[..., None] - samples[..., None, :] + level[..., None, None]
        cells = replicates * size
    else:
        mask = there.reshape(-1, replicates, size)[0]
        if (there != mask).any():
            raise ValueError("a batch with missing cells must miss the same cells everywhere")
        _check_connected(mask)
        filled = np.where(mask, logs, 0.0)
        by_process, by_sample = mask.sum(axis=1), mask.sum(axis=0)
        processes = np.zeros((*logs.shape[:-2], replicates))
        for _ in range(SWEEPS):
            samples = ((filled - processes[..., None]) * mask).sum(axis=-2) / by_sample
            new = ((filled - samples[..., None, :]) * mask).sum(axis=-1) / by_process
            new -= new.mean(axis=-1, keepdims=True)
            change = float(np.abs(new - processes).max())
            processes = new
            if change < ROUNDING:
                break
        samples = ((filled - processes[..., None]) * mask).sum(axis=-2) / by_sample
        residuals = (filled - processes[..., None] - samples[..., None, :]) * mask
        processes = processes + samples.mean(axis=-1, keepdims=True)
        cells = int(mask.sum())
    residuals = np.where(np.abs(residuals) <= ROUNDING * (1 + np.abs(samples[..., None, :])), 0.0, residuals)
    return Fit(processes, samples, residuals, cells, replicates, size)


def contrast(
    fits: Sequence[Fit],
    weights: Sequence[float],
    codes: Ints | None = None,
    known: tuple[float, float] | None = None,
    over_samples: bool = True,
) -> tuple[Floats, Variance]:
    """The weighted sum of the configurations' means, and its variance. All fits are over the same samples, in order.

    `codes` number the cluster of each sample from 0. `known` is the standard deviation between processes with its
    degrees of freedom, for configurations of one replicate; without it nothing is known of theirs, and the variance
    holds what the samples show. `over_samples=False` is of these very samples: that they might have been others does
    not count. With one cluster its variance is infinite.
    """
    estimate = sum(weight * one.samples.mean(axis=-1) for one, weight in zip(fits, weights, strict=True))
    zero = np.zeros_like(estimate)
    size = fits[0].size
    codes = np.arange(size) if codes is None else codes
    shape = _Clusters(codes)

    process, over_df, noise, over_noise_df, borrowed = zero, zero, zero, zero, zero
    for one, weight in zip(fits, weights, strict=True):
        if one.replicates > 1:
            centred = one.processes - one.processes.mean(axis=-1, keepdims=True)
            centred = np.where(np.abs(centred) <= ROUNDING * (1 + np.abs(one.processes)), 0.0, centred)
            part = weight**2 * (centred**2).sum(axis=-1) / (one.replicates - 1) / one.replicates
            df = one.replicates - 1.0
            own = weight**2 * _noise(one, shape)
            noise = noise + own
            if shape.df > 0:
                over_noise_df = over_noise_df + own**2 / (df * shape.df)
        elif known is not None:
            borrowed = borrowed + weight**2 * known[0] ** 2  # of all at once: one estimate, whose error they share
            continue
        else:
            continue
        process, over_df = process + part, over_df + part**2 / df
    if known is not None:
        process, over_df = process + borrowed, over_df + borrowed**2 / known[1]
    if over_samples:
        differences = sum(weight * one.samples for one, weight in zip(fits, weights, strict=True))
        differences = np.asarray(differences) - np.asarray(estimate)[..., None]
        scale = sum(np.abs(weight * one.samples) for one, weight in zip(fits, weights, strict=True))
        differences = np.where(np.abs(differences) <= ROUNDING * (1 + scale), 0.0, differences)
        cluster = shape.mean_variance(differences) if shape.groups > 1 else zero + np.inf
        cluster_df = zero + max(shape.df, 1e-9) if shape.groups > 1 else zero + 1.0
    else:
        cluster, cluster_df = zero, zero + 1e9

    def degrees(value: Floats, over: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(over > 0, value**2 / over, 1e9))

    return np.asarray(estimate), Variance(
        process, degrees(process, over_df), np.asarray(cluster), cluster_df, noise, degrees(noise, over_noise_df)
    )


class _Clusters:
    """How far sums over clusters show the variance of a mean, where clusters differ in size.

    Under cluster effects of one variance, the mean over samples weighs cluster g by w = size / samples. The sum of
    squares of what the clusters deviate is a quadratic form M in the effects; tr(M) makes it unbiased, and its
    degrees of freedom are tr(M)² / tr(M²) (Bell and McCaffrey, Survey Methodology 28, 2002). Equal sizes have groups
    - 1.
    """

    def __init__(self, codes: Ints) -> None:
        sizes = np.bincount(codes)
        self.codes, self.size, self.groups = codes, len(codes), len(sizes)
        share = sizes / len(codes)
        s2, s3, s4, s5 = (float((share**k).sum()) for k in (2, 3, 4, 5))
        trace = s2 - 2 * s3 + s2**2
        square = s4 + 2 * (s2 * s4 - 2 * s5) + 2 * (s3**2 + s2 * s4) - 4 * s2**2 * s3 + s2**4
        self.df = trace**2 / square if self.groups > 1 else 0.0
        self.unbias = s2 / trace if self.groups > 1 else 0.0

    def sums(self, values: Floats) -> Floats:
        if self.groups == self.size:
            return values
        order = np.argsort(self.codes, kind="stable")
        starts = np.flatnonzero(np.diff(self.codes[order], prepend=-1))
        return np.asarray(np.add.reduceat(values[..., order], starts, axis=-1))

    def mean_variance(self, deviations: Floats) -> Floats:
        """Of the mean, from deviations of samples from it: [..., samples]."""
        return np.asarray(self.unbias * (self.sums(deviations) ** 2).sum(axis=-1) / self.size**2)


def _noise(one: Fit, clusters: _Clusters) -> Floats:
    """What the noise within processes adds to the variance of the configuration's mean; 0 where it cannot be seen."""
    left = one.cells - one.replicates - one.size + 1
    if left <= 0 or clusters.groups < 2:
        return np.zeros(one.processes.shape[:-1])
    full = (one.replicates - 1) * (one.size - 1)
    by_process = clusters.mean_variance(one.residuals)  # [..., replicates]
    missing = full / left * (one.replicates * one.size / one.cells)
    return np.asarray(by_process.sum(axis=-1) / one.replicates / (one.replicates - 1) * missing)


def _check_connected(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> None:
    if not (mask.any(axis=0).all() and mask.any(axis=1).all()):
        raise ValueError("a replicate or a sample has no value at all; leave it out")
    reached = np.zeros(len(mask), dtype=bool)
    reached[0] = True
    for _ in range(len(mask)):
        reached |= mask[:, mask[reached].any(axis=0)].any(axis=1)
    if not reached.all():
        raise ValueError(
            f"{int(reached.sum())} and {int((~reached).sum())} replicates have no sample in common; "
            "measure the same samples in every replicate"
        )
