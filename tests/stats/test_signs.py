"""The sign test: it tells early where it can, is seldom wrong, and no outlier decides."""

from __future__ import annotations

import math
import random

import pytest

from fourstage.stats.signs import sign_interval, tell


def test_ten_of_ten_are_certain_and_nine_are_not() -> None:
    assert tell([1.1] * 10, 1.05) == "above"
    assert tell([1.1] * 9, 1.05) is None
    assert tell([1.1] * 14 + [1.0], 1.05) == "above"
    assert tell([1.0] * 5, 1.05, below=0.05) == "below"
    assert tell([1.05] * 50, 1.05) is None
    assert tell([], 1.05) is None


def test_one_outlier_of_any_size_decides_nothing() -> None:
    assert tell([1.0] * 14 + [1e9], 1.05) == "below"


def test_the_side_is_that_of_the_interval() -> None:
    noise = random.Random(0)
    for n in range(1, 40):
        values = [noise.gauss(1.05, 0.05) for _ in range(n)]
        interval = sign_interval(values, level=0.998)
        assert (tell(values, 1.05) is not None) == (not interval.contains(1.05))


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    noise = random.Random(1)
    held = sum(sign_interval([noise.lognormvariate(0, 1) for _ in range(12)]).contains(1.0) for _ in range(1000))
    assert held >= 950
    assert sign_interval([1.0, 2.0]).high == math.inf
    with pytest.raises(ValueError, match="no values"):
        sign_interval([])
