"""Every figure that is shown is its value to half a unit of the last digit, in the unit that its digits fit."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fourstage.records.units import MISSING, amount, between, first_few, plain, ratio_in_words, seconds, with_limits
from fourstage.stats.intervals import Interval

SIZE = {  # of each unit, in the one that is asked for
    "s": {"s": 1.0, "ms": 1e-3, "µs": 1e-6},
    "ms": {"s": 1e3, "ms": 1.0, "µs": 1e-3},
    "bytes": {"bytes": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    "tokens": {"tokens": 1.0},
}


def read(text: str) -> tuple[float, float, str]:
    """The number, half a unit of its last digit, and the unit."""
    number, unit = text.split(" ")
    assert re.fullmatch(r"\d+(\.\d+)?", number), text  # no exponent, no sign
    return float(number), 0.5 * 10.0 ** -len(number.partition(".")[2]), unit


@given(st.floats(1e-6, 1e6), st.sampled_from(["s", "ms"]))
@example(0.9999, "s")
@example(0.99949, "s")
@example(0.9995, "s")
@example(999.6, "s")
@example(999.6, "ms")
@example(9.996, "s")
@example(99.96e-3, "s")
@example(0.00099996, "s")
def test_a_time_is_its_value_to_half_of_the_last_of_three_digits(value: float, unit: str) -> None:
    text = amount(value, unit)
    number, half, name = read(text)
    factor = SIZE[unit][name]
    assert abs(number - value / factor) <= half * (1 + 1e-9), text
    assert number < 1000 or name == "s", text
    assert number >= 1 or name == "µs", text
    digits = text.split()[0].replace(".", "").lstrip("0")
    assert len(digits) <= max(3, len(f"{value / factor:.0f}")), text
    assert name == "µs" or len(digits) >= 3 or number == round(value / factor), text


@given(st.floats(1, 2.0**45))
@example(2.0**20 - 1)
@example(2.0**30 - 1)
@example(1023.9)
def test_a_size_is_its_value_in_the_unit_that_its_digits_fit(value: float) -> None:
    number, half, name = read(amount(value, "bytes"))
    assert abs(number - value / SIZE["bytes"][name]) <= half * (1 + 1e-9)
    assert number < 1024 or name == "GiB" or number == pytest.approx(1024, abs=half)
    assert number >= 1


@given(st.integers(0, 10**9))
def test_a_whole_number_is_shown_whole(value: int) -> None:
    assert amount(value, "tokens") == f"{value} tokens"


@given(st.floats(-1e3, 1e3), st.floats(1e-6, 10), st.sampled_from(["s", "ms", ""]))
def test_an_interval_is_its_limits_to_half_of_the_last_digit(estimate: float, half: float, unit: str) -> None:
    text = with_limits(Interval(estimate - half, estimate + half, estimate), unit).replace("−", "-")
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]
    name = text.partition(" [")[0].partition(" ")[2]
    factor = SIZE[unit][name] if unit else 1.0
    last = 0.5 * 10.0 ** -len(text.split()[0].partition(".")[2])
    for shown, value in zip(numbers, (estimate, estimate - half, estimate + half), strict=True):
        assert abs(shown - value / factor) <= last * (1 + 1e-9) + 1e-9 * abs(value / factor), text


@given(st.floats(1e-9, 1e9), st.integers(3, 4))
@example(999.6, 3)
@example(99_999.6, 4)
def test_no_figure_has_an_exponent(value: float, digits: int) -> None:
    shown = plain(value, digits)
    assert re.fullmatch(r"\d+(\.\d+)?", shown)
    assert float(shown) == pytest.approx(value, rel=0.6 * 10 ** (1 - digits))


def test_units_change_where_the_rounded_value_reaches_the_next() -> None:
    assert [seconds(value) for value in (0.9999, 0.9994, 0.00099996, 9.996, 99.96e-3, 999.6, 0.0)] == [
        "1.00 s", "999 ms", "1.00 ms", "10.0 s", "100 ms", "1000 s", "0 s",
    ]  # fmt: skip
    assert [amount(value, "ms") for value in (1234.6, 0.05, 0.0)] == ["1.23 s", "50.0 µs", "0 ms"]
    assert [amount(value, "bytes") for value in (2**20 - 1, 1023.0, 1023 * 1024, 0.0)] == [
        "1.00 MiB", "1023 bytes", "1023 KiB", "0 bytes",
    ]  # fmt: skip
    assert amount(math.nan, "s") == MISSING


def test_seconds_have_three_digits_in_the_unit_that_fits() -> None:
    assert [seconds(value) for value in (1.839, 0.0412, 0.00057, 0.0, 125.3)] == [
        "1.84 s", "41.2 ms", "570 µs", "0 s", "125 s",
    ]  # fmt: skip


def test_a_range_has_its_unit_once_where_both_ends_have_the_same() -> None:
    assert between(0.0049, 0.0053, "s") == "4.90…5.30 ms"
    assert between(0.9, 1.1, "s") == "900 ms…1.10 s"


def test_of_many_names_the_first_are_listed_and_the_rest_is_counted() -> None:
    assert first_few(["a", "b"]) == "a, b"
    assert first_few(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert first_few(["a", "b"], 5, count=9) == "a, b and 7 more"
    assert first_few([], 3) == ""


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
def test_a_ratio_is_described_by_its_direction_and_its_base(ratio: float, kind: str, words: str) -> None:
    assert ratio_in_words(ratio, kind) == words


def test_an_unknown_kind_of_figure_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown kind 'speed'; choose one of time, rate, count, size"):
        ratio_in_words(1.0, "speed")


@pytest.mark.parametrize(
    ("low", "high", "estimate", "unit", "words"),
    [
        (0.0408, 0.0417, 0.0412, "s", "41.2 ms [40.8, 41.7]"),
        (1.2, 1.3, 1.234, "s", "1.23 s [1.20, 1.30]"),
        (-0.004, 0.002, -0.001, "s", "−1 ms [−4, 2]"),
        (-0.1, 0.1, -0.0001, "s", "0 ms [−100, 100]"),
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
