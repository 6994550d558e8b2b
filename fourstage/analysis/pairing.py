"""Pairing two runs sample by sample: a comparison is over the samples that both measured, and says so.

paired = pair(baseline_records, target_records)
len(paired.both), paired.only_baseline, paired.only_target
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fourstage.stages import SampleRecord


@dataclass(frozen=True)
class Paired:
    """Records of the same sample and repeat in two runs, and the keys that found no partner."""

    both: tuple[tuple[SampleRecord, SampleRecord], ...]
    only_baseline: tuple[str, ...]
    only_target: tuple[str, ...]


def pair(baseline: Sequence[SampleRecord], target: Sequence[SampleRecord]) -> Paired:
    """Pair successful records by key and repeat, in the baseline's order. Failed ones pair with nothing."""
    left = {(record.key, record.repeat): record for record in baseline if record.ok}
    right = {(record.key, record.repeat): record for record in target if record.ok}
    return Paired(
        both=tuple((record, right[place]) for place, record in left.items() if place in right),
        only_baseline=tuple(key for key, repeat in left if (key, repeat) not in right),
        only_target=tuple(key for key, repeat in right if (key, repeat) not in left),
    )


def ratio(paired: Paired, read: Callable[[SampleRecord], float | None]) -> float | None:
    """target / baseline of the means over the pairs where both have a value; None where none has."""
    values = [
        (before, after)
        for one, other in paired.both
        if (before := read(one)) is not None and (after := read(other)) is not None
    ]
    total = sum(before for before, _ in values)
    return sum(after for _, after in values) / total if total else None
