"""Values with a cluster label each: checked, numbered, summed by cluster, and clusters drawn whole.

Repeats of one video are not new videos, so resampling draws whole clusters.

    values, codes, groups = checked([1.0, 2.0, 3.0], clusters=["a", "a", "b"])
    sums(values, codes, groups)    # [3.0, 3.0]
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

CELLS = 1_000_000  # of a resampling matrix at once: tens of MB

Floats = NDArray[np.float64]

Ints = NDArray[np.int64]

Values = Sequence[float] | NDArray[np.floating] | NDArray[np.integer]

Clusters = Sequence[Hashable] | NDArray[np.integer] | None


def checked(values: Values, clusters: Clusters, level: float = 0.95) -> tuple[Floats, Ints, int]:
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
    return array, *numbered(clusters)


def numbered(labels: Sequence[Hashable] | NDArray[np.integer]) -> tuple[Ints, int]:
    """Labels as codes from 0, and how many labels there are."""
    if isinstance(labels, np.ndarray):
        unique, codes = np.unique(labels, return_inverse=True)
        return codes.astype(np.int64), len(unique)
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels], dtype=np.int64), len(seen)


def sums(values: Floats, codes: Ints, groups: int) -> Floats:
    """The sum of the values in each group: [groups]."""
    return np.bincount(codes, weights=values, minlength=groups).astype(np.float64)


def resampled(groups: int, width: int, resamples: int, seed: int) -> Iterator[Ints]:
    """How often each group was drawn: [some of the resamples, groups], few enough that rows x width fit CELLS."""
    rng = np.random.default_rng(seed)
    rows = max(1, CELLS // max(groups, width))
    for start in range(0, resamples, rows):
        some = min(rows, resamples - start)
        drawn = rng.integers(groups, size=(some, groups)) + groups * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * groups).reshape(some, groups)
