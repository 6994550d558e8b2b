"""Comparisons with a known truth, thousands at once: how often intervals cover it, and how often a verdict is false.

For the tests and benchmarks/coverage.py; nothing that measures imports it.

    study = Study(replicates=3, samples=20, process=0.03)
    coverage(study, 2000)        # 0.951
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fourstage.stats.clusters import Floats, Ints
from fourstage.stats.variance import Variance, contrast, fit

AT_ONCE = 2_000_000  # values


@dataclass(frozen=True)
class Study:
    """What the world is like: standard deviations of the logarithm, and how much of it is measured."""

    replicates: int
    samples: int
    process: float = 0.0
    interaction: float = 0.0  # of sample, or cluster where there are any, by configuration
    clusters: int = 0  # 0: each sample is its own
    noise: float = 0.03
    sample: float = 0.3  # common to both configurations
    ratio: float = 1.0
    target_process: float | None = None  # where it differs from the baseline's
    missing: float = 0.0  # share of the cells
    skewed: bool = False  # noise is lognormal (sigma 1), scaled to the same standard deviation
    outlier: float = 0.0  # added to one cell of the target

    @property
    def codes(self) -> Ints:
        """The cluster of each sample: [samples]."""
        return np.arange(self.samples) % self.clusters if self.clusters else np.arange(self.samples)


def draw(study: Study, times: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Logarithms of target and baseline: each [times, replicates, samples]."""
    shape = (times, study.replicates, study.samples)
    groups = study.clusters or study.samples
    common = rng.normal(0, study.sample, (times, 1, study.samples))
    both = []
    for process in (study.process if study.target_process is None else study.target_process, study.process):
        if study.skewed:
            noise = (rng.lognormal(0, 1, shape) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e) * study.noise
        else:
            noise = rng.normal(0, study.noise, shape)
        own = rng.normal(0, study.interaction / np.sqrt(2), (times, 1, groups))[..., study.codes]
        both.append(common + own + rng.normal(0, process, (times, study.replicates, 1)) + noise)
    target, baseline = both
    target += np.log(study.ratio)
    if study.outlier:
        target[:, 0, 0] += study.outlier
    if study.missing:
        for side in both:  # the same cells of a batch
            gone = rng.random(shape[1:]) < study.missing
            gone[0, :] = gone[:, 0] = False
            side[:, gone] = np.nan
    return target, baseline


def results(study: Study, times: int, seed: int = 0) -> tuple[Floats, list[tuple[Floats, Variance]]]:
    """Errors of the estimate [times], and estimates with variances in parts that fit the memory."""
    rng = np.random.default_rng([seed, study.replicates, study.samples])
    size = max(1, AT_ONCE // (study.replicates * study.samples))
    parts = []
    for start in range(0, times, size):
        both = draw(study, min(size, times - start), rng)
        parts.append(contrast([fit(side) for side in both], [1.0, -1.0], study.codes))
    return np.concatenate([estimate for estimate, _ in parts]) - np.log(study.ratio), parts


def coverage(study: Study, times: int, level: float = 0.95, seed: int = 0) -> float:
    """Share of the intervals that contain the true ratio; with ratio 1, 1 less the share of false verdicts."""
    errors, parts = results(study, times, seed)
    return float((np.abs(errors) <= np.concatenate([variance.half_width(level) for _, variance in parts])).mean())


def detected(study: Study, times: int, level: float = 0.95, seed: int = 0) -> float:
    """Share of the intervals that exclude no difference, on the side of the truth."""
    _, parts = results(study, times, seed)
    found = [estimate * np.sign(np.log(study.ratio)) > variance.half_width(level) for estimate, variance in parts]
    return float(np.concatenate(found).mean())
