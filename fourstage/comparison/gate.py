"""Should a build pipeline stop? A comparison judged by the conditions that the user names.

gate = judge(["regressed", "invalid"], [("", comparison)], runs, left_out)
gate.failed, gate.reasons     # True, ("videollava: total Regressed against eventgpt, 1.31x slower",)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fourstage.records.figures import TOTAL
from fourstage.stats.verdicts import Verdict

if TYPE_CHECKING:
    from fourstage.comparison.effects import Comparison
    from fourstage.comparison.run_data import RunData
    from fourstage.comparison.selection import LeftOut

REGRESSED, INVALID = "regressed", "invalid"
CONDITIONS = (REGRESSED, INVALID)


@dataclass(frozen=True)
class Gate:
    """The conditions, and why they fail the comparison; without conditions it always passes."""

    fail_on: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()  # targets whose total the comparison cannot judge, so that the gate says nothing

    @property
    def failed(self) -> bool:
        """Whether anything that was asked for in `fail_on` was found."""
        return bool(self.reasons)


def judge(
    fail_on: Sequence[str],
    comparisons: Sequence[tuple[str, Comparison]],
    runs: Sequence[RunData],
    left_out: Sequence[LeftOut] = (),
) -> Gate:
    """Judge the comparisons, each with the label of its group.

    `regressed`: the verdict on a target's total is Regressed. `invalid`: one of `runs`, which are all that were read,
    is invalid, or a run was left out since it cannot be compared.
    """
    reasons, unjudged = list[str](), list[str]()
    if REGRESSED in fail_on:
        for label, comparison in comparisons:
            group = f"{label}: " if label else ""
            for pair in comparison.pairs:
                total = pair.row(TOTAL.heading)
                if total is not None and total.verdict == Verdict.REGRESSED:
                    against = f"total {total.verdict} against {pair.baseline_name}"
                    reasons.append(f"{group}{pair.target_name}: {against}, {total.text}")
                elif total is None or total.verdict in (None, Verdict.NOT_REPLICATED, Verdict.INVALID):
                    unjudged.append(f"{group}{pair.target_name}: {total.text if total else 'no common sample'}")
    if INVALID in fail_on:
        reasons += [f"{run.name} is invalid: it {run.fault}" for run in runs if not run.valid]
        reasons += [f"{item.name} is not compared: {item.why}" for item in left_out]
    return Gate(tuple(fail_on), tuple(reasons), tuple(unjudged))
