"""The median of a few noisy values against a limit, by their signs alone: no outlier of any size can decide.

tell([1.12, 1.09, 0.97, 1.11, ...], limit=1.05)    # "above", "below", or None: these values cannot tell
sign_interval(ratios)                              # of their median
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np

from fourstage.stats.clusters import Values
from fourstage.stats.intervals import Interval

Side = Literal["above", "below"]


def tell(values: Values, limit: float, above: float = 0.001, below: float = 0.001) -> Side | None:
    """On which side of `limit` the values' median is, or None where they cannot tell.

    `above` and `below` are the one-sided probabilities, by the sign test, that may remain for the other side. At
    0.001 ten values of ten are needed, or 14 of 15; at 0.05 five of five. A value at the limit counts for neither.
    """
    array = np.asarray(values, dtype=np.float64)
    over, under = int((array > limit).sum()), int((array < limit).sum())
    if _at_least(over, over + under) <= above:
        return "above"
    return "below" if _at_least(under, over + under) <= below else None


def sign_interval(values: Values, level: float = 0.95) -> Interval:
    """The values' median with the order statistics that hold it with at least `level`; infinite for too few values.

    Conover, Practical Nonparametric Statistics (1999), section 3.2. Raises ValueError for no values.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    if not n:
        raise ValueError("no values have no median")
    depth = 0  # values to leave out at each end
    while _at_least(n - depth, n) <= (1 - level) / 2:
        depth += 1
    low, high = (ordered[depth - 1], ordered[n - depth]) if depth else (-math.inf, math.inf)
    return Interval(float(low), float(high), float(np.median(ordered)), level, n)


@lru_cache(maxsize=4096)
def _at_least(successes: int, n: int) -> float:
    """Probability of so many heads or more in n throws of a fair coin."""
    return float(sum(math.comb(n, k) for k in range(successes, n + 1)) / 2**n)
