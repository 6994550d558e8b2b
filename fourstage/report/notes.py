"""Notes: what a reader must know beside the figures, one line each.

Left out: remarks on one comparison's figures (`remarks.py`).

    faults(runs)      # ["invalid: eventgpt failed no_caching"]
    doubts(runs)      # ["these runs are not of one machine: …"]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fourstage.records.units import first_few

if TYPE_CHECKING:
    from fourstage.comparison.run_data import RunData
    from fourstage.comparison.selection import LeftOut

SAME = {  # what makes runs comparable, by the tag that has it
    "fourstage.dataset_hash": "data",
    "fourstage.code_hash": "code",
    "fourstage.machine": "machine",
}
MOST_KEYS = 12
MOST_VALUES = 4


def excluded_note(keys: Sequence[str]) -> list[str]:
    """Which samples are in no figure; nothing where all are."""
    if not keys:
        return []
    samples = "1 sample is" if len(keys) == 1 else f"{len(keys)} samples are"
    return [f"{samples} excluded from every figure: {first_few(keys, MOST_KEYS)}"]


def left_out_notes(left_out: Sequence[LeftOut]) -> list[str]:
    """Each run that was asked for and is not compared, with the reason."""
    return [f"left out: {item.name} ({item.run_id}): {item.why}" for item in left_out]


def faults(runs: Sequence[RunData]) -> list[str]:
    """Runs that are invalid, and runs with warnings."""
    invalid = [f"invalid: {run.name} {run.fault}" for run in runs if not run.valid]
    return invalid + [f"warned: {run.name}: {', '.join(run.checks_warned)}" for run in runs if run.checks_warned]


def doubts(runs: Sequence[RunData]) -> list[str]:
    """What speaks against the comparison as a whole: no valid run, runs of different data, code or machines."""
    notes = ["no run of this comparison is valid: nothing should be claimed"] if not any(r.valid for r in runs) else []
    for tag, what in SAME.items():
        by_value: dict[str, list[str]] = {}
        for run in runs:
            by_value.setdefault(run.tags.get(tag, "unknown"), []).append(run.name)
        if len(by_value) > 1:
            groups = [f"{value}: {first_few(names)}" for value, names in by_value.items()]
            notes.append(f"these runs are not of one {what}: {first_few(groups, MOST_VALUES, separator='; ')}")
    return notes
