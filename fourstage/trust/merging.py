"""The checks of a run's replicates as one list: a check holds for the run only where it holds for each of them.

checks = merge_checks({0: checks_of_first, 1: checks_of_second}, replicates=2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fourstage.records.units import first_few
from fourstage.trust.check import Check

SEVERITY = ("pass", "not possible", "warn", "fail")


def merge_checks(
    each: Mapping[int, Sequence[Check]], replicates: int, failed: Mapping[int, str] | None = None
) -> list[Check]:
    """The checks in their order, each as its worst replicate has it, named; first, whether all were measured.

    `each`: by the replicate's number, from 0. `failed`: why the others have none.
    """
    by_id: dict[str, dict[int, Check]] = {}
    for number, checks in each.items():
        for check in checks:
            by_id.setdefault(check.id, {})[number] = check
    merged = [_worst(found, replicates) for found in by_id.values()]
    if replicates == 1 and not failed:
        return merged
    return [_all_measured(len(each), replicates, failed or {}), *merged]


def _all_measured(done: int, replicates: int, failed: Mapping[int, str]) -> Check:
    """Every replicate was measured to its end."""
    told = [f"replicate {number + 1}: {why}" for number, why in failed.items()]
    return Check(
        "replicates_measured",
        "each replicate was measured to its end, in a process of its own",
        "pass" if done == replicates else "fail",
        done,
        replicates,
        first_few(told, 3, None, "; ") if told else "",
        "were",
        "exactly",
    )


def _worst(found: Mapping[int, Check], replicates: int) -> Check:
    """The check of the replicate with the worst verdict, and of which replicates it is true."""
    severity = max(SEVERITY.index(check.verdict) for check in found.values())
    where = [number for number, check in found.items() if check.verdict == SEVERITY[severity]]
    check = found[where[0]]
    if severity == 0 or len(where) == replicates == 1:
        return check
    numbers = "every replicate" if len(where) == replicates else f"replicate {', '.join(str(n + 1) for n in where)}"
    which = f"in {numbers}" + (f": {check.detail}" if check.detail else "")
    return replace(check, detail=which)
