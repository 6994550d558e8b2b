"""Values beyond Tukey's fences: pointed out, never removed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fourstage.stats.clusters import Values


@dataclass(frozen=True, eq=False)
class Outliers:
    """Indices of values beyond Tukey's fences, ascending; no index is in both."""

    mild: NDArray[np.intp]  # more than 1.5, at most 3 interquartile ranges outside the quartiles
    severe: NDArray[np.intp]  # more than 3: Tukey's "far out"


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
