"""Runs that differ in their seed alone, as one run with the processes of all.

Left out: which runs these are (`grouping.same_configuration`), and which process measured what
(`run_data.replicate_codes`).

    pool(runs)[0].pooled      # the ids of the runs that are in it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fourstage.comparison.grouping import same_configuration
from fourstage.comparison.run_data import RunData, replicate_codes
from fourstage.records.columns import joined


def pool(runs: Sequence[RunData]) -> list[RunData]:
    """Runs that differ in seed and labels alone as one, whose processes are counted over all; in order of appearance.

    Where all of them are of one configuration nothing is pooled: they are compared with each other.
    """
    groups = same_configuration([run.params for run in runs])
    if not 1 < len(groups) < len(runs):
        return list(runs)
    return [_one([runs[index] for index in group]) for group in groups]


def _one(members: Sequence[RunData]) -> RunData:
    first, *others = members
    if not others:
        return first
    codes = replicate_codes(members)
    parts = [replace(one.columns, replicate=code) for one, code in zip(members, codes, strict=True)]
    return replace(
        first,
        name=f"{first.name} with {len(others)} more seed{'s' * (len(others) > 1)}",
        params={**first.params, "seed": ",".join(dict.fromkeys(one.params.get("seed", "-") for one in members))},
        columns=joined(parts),
        valid=all(one.valid for one in members),
        checks_failed=tuple(dict.fromkeys(name for one in members for name in one.checks_failed)),
        checks_warned=tuple(dict.fromkeys(name for one in members for name in one.checks_warned)),
        pooled=tuple(one.run_id for one in members),
    )
