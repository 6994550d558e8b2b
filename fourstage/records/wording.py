"""Numbers in words: ratios, and values with their limits, the same in every table and sentence.

A ratio is target / baseline. Left out: which number is told, and escaping for where it is shown.

    in_words(0.5)                                    # "2.00x faster"
    with_limits(Interval(0.0408, 0.0417, 0.0412))    # "41.2 ms [40.8, 41.7]"
"""

from __future__ import annotations

import math
from decimal import Decimal

from fourstage.stats.intervals import Interval

ROUNDING_S = 1e-12  # what is left of equal times when they are taken from each other
AS_MUCH = {"time": "as long as", "rate": "as fast as", "count": "as many as", "size": "as much as"}


def in_words(ratio: float, kind: str = "time") -> str:
    """`2.00x faster`, `1.30x slower`, `as long as`; of counts and sizes `125 % more`, `56 % fewer`.

    Kinds: "time" (less is faster), "rate" (more is faster), "count" and "size". A ratio that rounds to 1.00 is none.
    """
    if kind not in AS_MUCH:
        raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(AS_MUCH)}")
    if math.isnan(ratio):
        return "unknown"
    word = direction(ratio, kind)
    if word == AS_MUCH[kind]:
        return word
    if kind in ("count", "size"):
        return f"{100 * abs(ratio - 1):.0f} % {word}"
    if not 0 < ratio < math.inf:
        return f"infinitely {word}"
    return f"{max(ratio, 1 / ratio):.2f}x {word}"


def direction(ratio: float, kind: str = "time") -> str:
    """faster or slower, more or fewer (of sizes: less), or as much."""
    if math.isnan(ratio):
        return "unknown"
    if f"{ratio:.2f}" == "1.00":
        return AS_MUCH[kind]
    more, less = {
        "time": ("slower", "faster"),
        "rate": ("faster", "slower"),
        "count": ("more", "fewer"),
        "size": ("more", "less"),
    }[kind]
    return more if ratio > 1 else less


def with_limits(interval: Interval, unit: str = "s") -> str:
    """`41.2 ms [40.8, 41.7]`: as many digits as the limits allow; seconds and bytes in the unit that fits."""
    low, high, estimate = interval.low, interval.high, interval.estimate
    if unit == "s" and max(map(abs, (low, high, estimate))) < ROUNDING_S:
        low = high = estimate = 0.0
    factor, name = _scale(estimate, low, high, unit)
    half = (high - low) / 2 / factor
    value = estimate / factor
    decimals = _decimals(half if 0 < half < math.inf else abs(value) / 100)
    space = f" {name}" if name else ""
    if not math.isfinite(low) or not math.isfinite(high):
        return f"{value:.{decimals}f}{space} [too few to tell]"
    return f"{value:.{decimals}f}{space} [{low / factor:.{decimals}f}, {high / factor:.{decimals}f}]"


def seconds(value: float) -> str:
    """`41.2 ms`, `1.84 s`, `0 s`: three digits in the unit that fits."""
    return amount(value, "s")


def amount(value: float, unit: str) -> str:
    """`41.2 ms`, `1.84 GiB`, `48 tokens`: three digits, seconds and bytes in the unit that fits."""
    factor, name = _scale(value, value, value, unit)
    scaled = value / factor
    whole = name == unit != "s" and scaled == round(scaled)
    # of what the digits round to: 9.996 is 10.0, not 10.00
    return f"{scaled:.{0 if whole else _decimals(_rounded(scaled) / 100)}f} {name}".rstrip()


def plain(value: float, digits: int = 3) -> str:
    """`41.2`, `0.5`, `1235`: so many significant digits, all of those before the point, and never an exponent."""
    if not math.isfinite(value):
        return str(value)
    short = f"{value:.{digits}g}"
    return f"{value:.0f}" if abs(float(short)) >= 10**digits else format(Decimal(short), "f")


def at_least(value: float, border: float, digits: int = 3) -> bool:
    """Whether a value reaches a unit once it is rounded: 0.9999 s is shown as 1 s, not as 1000 ms."""
    return abs(float(f"{value / border:.{digits}g}")) >= 1


def _rounded(value: float) -> float:
    return abs(float(f"{value:.3g}"))


def _scale(estimate: float, low: float, high: float, unit: str) -> tuple[float, str]:
    size = max((abs(value) for value in (estimate, low, high) if math.isfinite(value)), default=0.0)
    scales = {
        "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
        "bytes": ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "bytes")),
    }.get(unit, ((1.0, unit),))
    if size == 0:
        return scales[0]
    return next((scale for scale in scales if at_least(size, scale[0])), scales[-1])


def _decimals(uncertainty: float) -> int:
    """So many that the last digit shown is of the size of the uncertainty."""
    if not 0 < uncertainty < math.inf:
        return 0
    return min(max(0, -math.floor(math.log10(uncertainty))), 12)
