"""One judgement a row, and the words that follow from it.

A table's rows, its colours and the sentence below it all come from the same `Judgement`, so that they cannot
contradict each other. Left out: how effects are estimated (replicates.py).

    total, decode = judge([log_ratio(a, b), log_ratio(c, d)])       # Holm over the two
    total.verdict, total.text                                       # Verdict.REGRESSED, "1.10x slower"
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from fourstage.stats.replicates import Effect

ALPHA = 0.05


class Verdict(StrEnum):
    """What can be claimed of the target against the baseline."""

    IMPROVED = "Improved"
    REGRESSED = "Regressed"
    DIFFERENT = "Different"  # of a figure of which neither direction is better, such as tokens
    EQUIVALENT = "Equivalent"
    INCONCLUSIVE = "Inconclusive"
    NOT_REPLICATED = "Not replicated"
    INVALID = "Invalid run"  # one of the runs failed a check: shown, and never a claim


WORDS = {  # kind: (a ratio above 1, below 1, which of them is better)
    "time": ("slower", "faster", "below"),
    "rate": ("higher", "lower", "above"),
    "size": ("larger", "smaller", "below"),
    "count": ("more", "fewer", ""),
    "score": (
        "higher",
        "lower",
        "above",
    ),  # 0 to 100: its "logarithms" are hundredths, so that it is compared by points
}

CLAIMS = (Verdict.IMPROVED, Verdict.REGRESSED, Verdict.DIFFERENT)


@dataclass(frozen=True, eq=False)
class Judgement:
    """The verdict on one row, its p-values after the correction, and its words."""

    effect: Effect
    kind: str  # of WORDS
    verdict: Verdict
    p_value: float  # of no difference, corrected over the family
    p_equivalent: float  # of a difference of the margin or more, corrected
    rows: int  # of the family
    alpha: float

    @property
    def detectable_ratio(self) -> float:
        """The smallest slow-down that this row would have shown at Holm's first and strictest level."""
        return self.effect.detectable(self.alpha / self.rows)

    @property
    def word(self) -> str:
        """`faster`, `slower`, `higher`, ... where the verdict claims a difference; else ""."""
        if self.verdict not in CLAIMS:
            return ""
        above, below, _ = WORDS[self.kind]
        return above if self.effect.log > 0 else below

    @property
    def text(self) -> str:
        """`1.10x slower`, `equal within 2 %`, `no detectable difference`, `not replicated`."""
        if self.verdict in CLAIMS and self.kind == "score":
            return f"{100 * abs(self.effect.log):.3g} points {self.word}"
        if self.verdict in CLAIMS:
            return f"{times(math.exp(min(abs(self.effect.log), 700.0)))} {self.word}"
        if self.verdict is Verdict.EQUIVALENT:
            return f"equal within {100 * self.effect.margin:.3g} {'points' if self.kind == 'score' else '%'}"
        return {Verdict.INVALID: "no claim, a run is invalid", Verdict.NOT_REPLICATED: "not replicated"}.get(
            self.verdict, "no detectable difference"
        )

    @property
    def sentence(self) -> str:
        """The text, with the interval, and with what would be needed or seen where nothing is claimed."""
        effect = self.effect
        if self.kind == "score":
            numbers = f"{100 * effect.log:+.3g} points [±{100 * effect.half_width:.3g}]"
        elif not math.isfinite(effect.half_width):
            numbers = (
                f"ratio {effect.ratio:.3g}, no interval from {effect.samples} samples in {effect.clusters} clusters"
            )
        else:
            low, high = f"{effect.low:.3g}", f"{effect.high:.3g}"
            numbers = f"ratio {effect.ratio:.3g} [{low}, {high}]"
        if effect.known_floor and self.verdict is not Verdict.INVALID:
            numbers += ", by a noise floor from earlier runs"
        if self.verdict is Verdict.NOT_REPLICATED:
            return (
                f"{self.text}: {numbers} over the samples of one process a side at least; "
                "measure each configuration in several processes, five for a start"
            )
        if self.verdict is Verdict.INCONCLUSIVE and math.isfinite(self.detectable_ratio):
            share = 100 * (self.detectable_ratio - 1)
            return (
                f"{self.text}: {numbers}; a ratio of {self.detectable_ratio:.3g} ({share:.2g} %) would have been seen"
            )
        return f"{self.text}: {numbers}"


def judge(
    effects: Sequence[Effect], kinds: Sequence[str] | str = "time", alpha: float = ALPHA
) -> tuple[Judgement, ...]:
    """Judge a family of rows.

    Kinds are "time" and "size" (less is better), "rate" and "score" (more is better) and "count" (neither).

    Not replicated: a side has one process and no floor is known; such rows are not of the family. Equivalent: the
    ratio lies within the margin either way by two one-sided tests, be it different or not. Else Improved, Regressed
    or Different where the test of no difference rejects, else Inconclusive. Both tests are at `alpha` after Holm's
    correction over the rows (Scandinavian Journal of Statistics 6, 1979), which holds however the rows depend on each
    other.
    Raises ValueError for an unknown kind, another number of kinds than effects, or an alpha out of range.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies between 0 and 1, not at {alpha:g}")
    each = [kinds] * len(effects) if isinstance(kinds, str) else list(kinds)
    if len(each) != len(effects):
        raise ValueError(f"{len(effects)} effects have {len(each)} kinds; each needs one")
    if unknown := sorted(set(each) - set(WORDS)):
        raise ValueError(f"unknown kind {unknown[0]!r}; choose one of {', '.join(WORDS)}")
    family = [place for place, effect in enumerate(effects) if effect.replicated]
    different = dict(zip(family, holm([effects[i].p_value for i in family]), strict=True))
    equivalent = dict(zip(family, holm([effects[i].p_equivalent for i in family]), strict=True))
    judged = []
    for place, (effect, kind) in enumerate(zip(effects, each, strict=True)):
        p, q = different.get(place, math.nan), equivalent.get(place, math.nan)
        better = WORDS[kind][2]
        if not effect.replicated:
            verdict = Verdict.NOT_REPLICATED
        elif q <= alpha:
            verdict = Verdict.EQUIVALENT
        elif p > alpha:
            verdict = Verdict.INCONCLUSIVE
        elif not better:
            verdict = Verdict.DIFFERENT
        else:
            verdict = Verdict.IMPROVED if (effect.log < 0) == (better == "below") else Verdict.REGRESSED
        judged.append(Judgement(effect, kind, verdict, p, q, max(len(family), 1), alpha))
    return tuple(judged)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values after Holm's correction, in the given order."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def times(factor: float) -> str:
    """`1.10x`; more decimals where the factor is close to 1, so that it never reads 1.00x."""
    if factor >= 10:
        return f"{factor:.3g}x"
    decimals = 2
    while decimals < 6 and factor - 1 < 10.0**-decimals * 2:
        decimals += 1
    return f"{factor:.{decimals}f}x"
