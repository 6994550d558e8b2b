"""Which run is the baseline, in which groups: an invalid run is none unless that is allowed.

Left out: dividing settings into groups (`grouping.py`).

    groups, notes = choose_baselines(runs, None, ["model"], allow_invalid=False)
    groups[0]      # ("precision=bf16", [RunData, …], 0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fourstage.comparison.selection import brief
from fourstage.records.units import first_few
from fourstage.stages import UserError

if TYPE_CHECKING:
    from fourstage.comparison.run_data import RunData


def choose_baselines(
    runs: Sequence[RunData], named: str | None, by: Sequence[str], allow_invalid: bool
) -> tuple[list[tuple[str, list[RunData], int]], list[str]]:
    """The groups that can be compared, each with its baseline's index, and notes on the others and on the choice.

    Without a named baseline, it is the first run with which any group can be compared. Raises UserError where there
    is none.
    """
    tried = [i for i, run in enumerate(runs) if named is None or named in (run.run_id, *run.pooled)]
    reasons: list[str] = []
    for baseline in tried:
        notes: list[str] = []
        found = []
        for label, members, candidates in _divide(runs, baseline, by, notes):
            if allowed := [index for index in candidates if members[index].valid or allow_invalid]:
                found.append((label, members, allowed[0]))
                continue
            where = f" at {label}" if label else ""
            notes.append(f"not compared{where}: {_refusal(members[candidates[0]])}")
        if found:
            if baseline and named is None:
                notes.insert(0, f"the baseline is {runs[baseline].name}, since {_passed_over(runs[:baseline])}")
            return found, notes
        reasons = reasons or notes
    if by:
        raise UserError(f"by={brief(','.join(by))}: {'; '.join(reasons)}")
    first = _refusal(runs[tried[0]])
    raise UserError(first if named or len(tried) < 2 else f"no run of these is valid: {first}")


def _passed_over(runs: Sequence[RunData]) -> str:
    """Why none of the runs before the baseline is it."""
    invalid = [f"{run.name}, which comes first, {run.fault}" for run in runs if not run.valid]
    return first_few(invalid, separator="; ") if invalid else "the runs before it have nothing to be compared with"


def _refusal(run: RunData) -> str:
    return (
        f"{run.name} ({run.run_id}) is invalid (it {run.fault}) and cannot be the baseline; name another run with "
        "baseline=, or set allow_invalid=true"
    )


def _divide(
    runs: Sequence[RunData], baseline: int, by: Sequence[str], unmatched: list[str]
) -> list[tuple[str, list[RunData], list[int]]]:
    """The groups to compare: label, runs, and the indexes of the runs that can be the baseline.

    Why a run or a group is not compared is appended to `unmatched`. In each group the baseline is a run with the
    baseline's own values of the chosen settings.
    """
    if not by:
        return [("", list(runs), [baseline])]
    from fourstage.comparison.grouping import distinct_names, group_by

    groups = group_by([run.params for run in runs], by)
    wanted = next(
        (choice, name)
        for group in groups
        for index, choice, name in zip(group.members, group.choices, group.names, strict=True)
        if index == baseline
    )
    found = []
    order = list(dict.fromkeys(choice for group in groups for choice in group.choices))
    for group in groups:
        together = sorted(range(len(group.members)), key=lambda i: order.index(group.choices[i]))
        members = [runs[group.members[i]] for i in together]
        names = distinct_names(
            [group.names[i] for i in together], [run.params for run in members], [run.run_id for run in members]
        )
        members = [replace(run, name=name) for run, name in zip(members, names, strict=True)]
        same = [index for index, i in enumerate(together) if group.choices[i] == wanted[0]]
        if baseline in group.members:
            same = [[run.run_id for run in members].index(runs[baseline].run_id)]
        where = f" at {group.label}" if group.label else ""
        if not same:
            unmatched.append(f"no run with {wanted[1]}{where}: {', '.join(names)} there is compared with nothing")
        elif len(members) < 2:
            unmatched.append(f"only {names[0]}{where}: nothing to compare it with")
        else:
            found.append((group.label, members, same))
    return found
