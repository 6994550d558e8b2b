"""A ratio is told with its direction and its base, a value with as many digits as its limits allow."""

from __future__ import annotations

import math

import pytest

from fourstage.records.wording import direction, in_words, seconds, with_limits
from fourstage.stats.intervals import Interval


@pytest.mark.parametrize(
    ("ratio", "kind", "words"),
    [
        (0.5, "time", "2.00x faster"),
        (1.3, "time", "1.30x slower"),
        (1.004, "time", "as long as"),
        (0.996, "time", "as long as"),
        (2.0, "rate", "2.00x faster"),
        (0.5, "rate", "2.00x slower"),
        (2.25, "count", "125 % more"),
        (0.44, "count", "56 % fewer"),
        (0.44, "size", "56 % less"),
        (1.0, "count", "as many as"),
        (0.0, "time", "infinitely faster"),
        (math.nan, "time", "unknown"),
    ],
)
def test_a_ratio_is_told_by_its_sign_and_its_base(ratio: float, kind: str, words: str) -> None:
    assert in_words(ratio, kind) == words
    assert direction(ratio, kind) in words


def test_an_unknown_kind_of_figure_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown kind 'speed'; choose one of time, rate, count, size"):
        in_words(1.0, "speed")


@pytest.mark.parametrize(
    ("low", "high", "estimate", "unit", "words"),
    [
        (0.0408, 0.0417, 0.0412, "s", "41.2 ms [40.8, 41.7]"),
        (1.2, 1.3, 1.234, "s", "1.23 s [1.20, 1.30]"),
        (-0.004, 0.002, -0.001, "s", "-1 ms [-4, 2]"),
        (2e-6, 3e-6, 2.4e-6, "s", "2.4 µs [2.0, 3.0]"),
        (0.0, 0.0, 0.0, "s", "0 s [0, 0]"),
        (1.0, 1.0, 1.0, "", "1.00 [1.00, 1.00]"),
        (0.97, 0.98, 0.975, "", "0.975 [0.970, 0.980]"),
        (14.1, 15.9, 15.02, "ms", "15.0 ms [14.1, 15.9]"),
        (2.0**30, 1.5 * 2**30, 1.25 * 2**30, "bytes", "1.2 GiB [1.0, 1.5]"),
        (-math.inf, math.inf, 0.5, "s", "500 ms [too few to tell]"),
    ],
)
def test_limits_set_the_digits_and_size_the_unit(
    low: float, high: float, estimate: float, unit: str, words: str
) -> None:
    assert with_limits(Interval(low, high, estimate), unit) == words


def test_seconds_have_three_digits_in_the_unit_that_fits() -> None:
    assert [seconds(value) for value in (1.839, 0.0412, 0.00057, 0.0, 125.3)] == [
        "1.84 s", "41.2 ms", "570 µs", "0 s", "125 s",
    ]  # fmt: skip
