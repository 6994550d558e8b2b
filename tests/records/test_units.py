"""Every formatter of times and sizes: the figure that is shown is the value, in the unit that the figure asks for."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fourstage.records.wording import amount, plain, seconds
from fourstage.report.terminal import value_of, with_bytes
from fourstage.screen import COLUMNS, milliseconds

UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "bytes": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
TIMES: list[Callable[[float], str]] = [milliseconds, seconds, lambda value: value_of(value, "s")]
SIZES: list[Callable[[float], str]] = [with_bytes, lambda value: value_of(value, "bytes"),
                                       lambda value: amount(value, "bytes")]  # fmt: skip


def read(text: str) -> tuple[float, str]:
    number, unit = text.split(" ")
    assert re.fullmatch(r"\d+(\.\d+)?", number), text  # no exponent, no sign
    return float(number), unit


@given(st.floats(1e-6, 1e6))
@example(0.9999)
@example(0.99949)
@example(0.9995)
@example(999.6)
@example(9.996)
@example(99.96e-3)
@example(0.00099996)
def test_a_time_is_shown_to_three_digits_in_the_unit_that_they_fit(value: float) -> None:
    for show in TIMES:
        number, unit = read(show(value))
        assert number * UNITS[unit] == pytest.approx(value, rel=0.00501)
        assert number < 1000 or unit == "s", show(value)
        assert len(show(value).split()[0].replace(".", "").lstrip("0")) <= max(3, len(f"{value:.0f}")), show(value)


@given(st.floats(1, 2.0**45))
@example(2.0**20 - 1)
@example(2.0**30 - 1)
@example(1023.9)
def test_a_size_is_shown_in_the_unit_that_its_digits_fit(value: float) -> None:
    for show in SIZES:
        number, unit = read(show(value))
        assert number * UNITS[unit] == pytest.approx(value, rel=0.00501, abs=0.5)
        assert number < 1024 or unit == "GiB", show(value)


@given(st.floats(1e-9, 1e9), st.integers(3, 4))
@example(999.6, 3)
@example(99_999.6, 4)
def test_no_figure_has_an_exponent(value: float, digits: int) -> None:
    shown = plain(value, digits)
    assert re.fullmatch(r"\d+(\.\d+)?", shown)
    assert float(shown) == pytest.approx(value, rel=0.6 * 10 ** (1 - digits))


def test_the_borders_of_units_are_crossed_by_what_is_shown() -> None:
    assert [milliseconds(value) for value in (0.9999, 0.9994, 1.0, 999.6, 0.0)] == [
        "1 s", "999 ms", "1 s", "1000 s", "0 ms",
    ]  # fmt: skip
    assert [seconds(value) for value in (0.9999, 0.00099996, 9.996, 99.96e-3)] == [
        "1.00 s", "1.00 ms", "10.0 s", "100 ms",
    ]  # fmt: skip
    assert (with_bytes(2**20 - 1), with_bytes(1023.0), with_bytes(1023 * 1024)) == ("1 MiB", "1023 bytes", "1023 KiB")
    assert (value_of(1234.6, "ms"), value_of(123456.0, "tokens")) == ("1235 ms", "123456")
    assert COLUMNS["TPOT"][1](1234.5) == "1234 ms"
