"""Figures as text: times, sizes, ratios and counts are formatted here and nowhere else.

A ratio is target / baseline. Left out: which figures there are (`figures.py`), sentences about them
(`report/wording.py`), and escaping.

    amount(0.0412, "s")                              # "41.2 ms"
    with_limits(Interval(0.0408, 0.0417, 0.0412))    # "41.2 ms [40.8, 41.7]"
    ratio_in_words(0.5)                              # "2.00x faster"
    first_few(["a", "b", "c", "d"], 2)               # "a, b and 2 more"
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fourstage.stats.intervals import Interval

MISSING = "–"  # where a table has no figure
ROUNDING_S = 1e-12  # what is left of equal times when one is subtracted from the other
SAME = {"time": "as long as", "rate": "as fast as", "count": "as many as", "size": "as much as", "score": "as good as"}
MORE_OR_LESS = {
    "time": ("slower", "faster"),
    "rate": ("faster", "slower"),
    "count": ("more", "fewer"),
    "size": ("more", "less"),
    "score": ("higher", "lower"),
}
SCALES = {  # unit → (size in that unit, name), largest first
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "ms": ((1e3, "s"), (1.0, "ms"), (1e-3, "µs")),
    "bytes": ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "bytes")),
}


def seconds(value: float) -> str:
    """`41.2 ms`, `1.84 s`, `0 s`: three digits, in the unit that fits."""
    return amount(value, "s")


def amount(value: float, unit: str) -> str:
    """`41.2 ms`, `1.84 GiB`, `48 tokens`: three digits; times and sizes in the unit that fits.

    NaN is `MISSING`.
    """
    if math.isnan(value):
        return MISSING
    factor, name = _scale(unit, value)
    scaled = value / factor
    whole = unit != "s" and name == unit and scaled == round(scaled)
    # the digits of the rounded value: 9.996 is 10.0, not 10.00
    return f"{scaled:.{0 if whole else _decimals(_rounded(scaled) / 100)}f} {name}".rstrip()


def with_limits(interval: Interval, unit: str = "s") -> str:
    """`41.2 ms [40.8, 41.7]`: as many digits as the limits justify; times and sizes in the unit that fits."""
    low, high, estimate = interval.low, interval.high, interval.estimate
    if unit == "s" and max(map(abs, (low, high, estimate))) < ROUNDING_S:
        low = high = estimate = 0.0
    factor, name = _scale(unit, estimate, low, high)
    half = (high - low) / 2 / factor
    value = estimate / factor
    decimals = _decimals(half if 0 < half < math.inf else abs(value) / 100)
    space = f" {name}" if name else ""
    if not math.isfinite(low) or not math.isfinite(high):
        return minus(f"{value:.{decimals}f}{space} [too few to tell]")
    if not unit and low > 0:  # a ratio: no limit of one reads 0
        return f"{_ratio(value, decimals)} [{_ratio(low, decimals)}, {_ratio(high, decimals)}]"
    return minus(f"{value:.{decimals}f}{space} [{low / factor:.{decimals}f}, {high / factor:.{decimals}f}]")


def _ratio(value: float, decimals: int) -> str:
    """`1.42`, `0.998`, `0.0041`, `19.6`: two decimals or more below 10, never 0."""
    text = f"{value:.{max(decimals, 2)}f}" if value < 10 else plain(value)
    return text if float(text) > 0 else plain(value, 2)


def minus(text: str) -> str:
    """Numbers with minus signs in place of hyphens; none before what rounds to 0."""
    return re.sub(r"-(0(?:\.0+)?)(?![.\d])", r"\1", text).replace("-", "−")


def between(low: float, high: float, unit: str) -> str:
    """`4.90…5.30 ms`: a range, its unit once where both ends have the same."""
    start, end = amount(low, unit), amount(high, unit)
    number, _, name = start.partition(" ")
    return f"{number}…{end}" if name == end.partition(" ")[2] else f"{start}…{end}"


def plain(value: float, digits: int = 3) -> str:
    """`41.2`, `0.5`, `1235`: that many significant digits, all of those before the point, never an exponent."""
    if not math.isfinite(value):
        return str(value)
    short = f"{value:.{digits}g}"
    return f"{value:.0f}" if abs(float(short)) >= 10**digits else format(Decimal(short), "f")


def significant(value: float, digits: int) -> float:
    """A number with that many significant digits, for a page that shows numbers raw: 12.3456 → 12.3."""
    return float(f"{value:.{digits}g}")


def percent(share: float, digits: int = 1) -> str:
    """`12.5 %` of a share from 0 to 1; `MISSING` of NaN."""
    return f"{100 * share:.{digits}f} %" if math.isfinite(share) else MISSING


def ratio_in_words(ratio: float, kind: str = "time") -> str:
    """`2.00x faster`, `1.30x slower`, `as long as`; of counts and sizes `125 % more`, `56 % fewer`.

    Kinds: "time" (less is faster), "rate" (more is faster), "count", "size" and "score". A ratio that rounds to 1.00 is
    no difference. Raises ValueError for another kind.
    """
    if kind not in SAME:
        raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(SAME)}")
    if math.isnan(ratio):
        return "unknown"
    if f"{ratio:.2f}" == "1.00":
        return SAME[kind]
    word = MORE_OR_LESS[kind][ratio < 1]
    if kind in ("count", "size", "score"):
        return f"{100 * abs(ratio - 1):.0f} % {word}"
    if not 0 < ratio < math.inf:
        return f"infinitely {word}"
    return f"{max(ratio, 1 / ratio):.2f}x {word}"


def first_few(names: Sequence[str], most: int = 3, count: int | None = None, separator: str = ", ") -> str:
    """`a, b, c and 4 more`: the first names, and how many more there are; `count`: where `names` are only some."""
    left = (len(names) if count is None else count) - len(names[:most])
    return separator.join(names[:most]) + (f" and {left} more" if left > 0 else "")


def plural(word: str, count: int) -> str:
    """`sample` or `samples`."""
    return word if count == 1 else f"{word}s"


def _scale(unit: str, *values: float) -> tuple[float, str]:
    """The largest unit that the largest value still reaches once it is rounded: 0.9999 s is 1.00 s, not 1000 ms."""
    size = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    scales = SCALES.get(unit, ((1.0, unit),))
    if size == 0:
        return 1.0, unit
    return next((scale for scale in scales if _rounded(size / scale[0]) >= 1), scales[-1])


def _rounded(value: float) -> float:
    return abs(float(f"{value:.3g}"))


def _decimals(uncertainty: float) -> int:
    """So many that the last digit shown is of the size of the uncertainty."""
    if not 0 < uncertainty < math.inf:
        return 0
    return min(max(0, -math.floor(math.log10(uncertainty))), 12)
