"""The measurements before the first one on record: each shape of input until its time is stable."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fourstage.measure.clock import Timing
from fourstage.measure.loop import measure_batch
from fourstage.measure.plan import Planned, batches
from fourstage.stages import (
    Pipeline,
    Sampling,
)

WARMUP_TOKENS = 16  # enough to pass through every kind of step; the rest would only take longer

STABLE_ROUNDS = 3


@dataclass(frozen=True)
class WarmUp:
    """How one shape's warm-up ended."""

    rounds: int
    stable: bool


def warm_up(
    pipeline: Pipeline,
    planned: Sequence[Planned],
    sampling: Sampling,
    timing: Timing,
    batch_size: int,
    limit: int,
    tolerance: float = 0.1,
) -> dict[str, WarmUp]:
    """Run the first batch of each shape of input until its time is stable, `limit` rounds at most, off the record.

    Stable: the last three rounds lie within `tolerance` of their median. A batch
    that fails is skipped for the next of its shape: its error goes on the record when it is measured.
    """
    short = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, WARMUP_TOKENS))
    done: dict[str, WarmUp] = {}
    for batch in batches(planned, batch_size):
        shape = _shape(batch)
        if shape in done and done[shape].rounds:
            continue
        totals: list[float] = []
        while len(totals) < limit and not _stable(totals, tolerance):
            records = measure_batch(pipeline, batch, short, timing)
            if not all(record.ok for record in records):
                break
            totals.append(sum(record.end_to_end_s or 0.0 for record in records))
        done[shape] = WarmUp(len(totals), _stable(totals, tolerance))
    return done


def _shape(batch: Sequence[Planned]) -> str:
    """What a batch's tensors have in common with another's, as far as the dataset tells without reading files."""
    images = sorted(len(item.sample.event_image) for item in batch)
    return f"{len(batch)} samples, listed images {images}"


def _stable(totals: Sequence[float], tolerance: float) -> bool:
    if len(totals) < STABLE_ROUNDS:
        return False
    last = totals[-STABLE_ROUNDS:]
    return max(last) - min(last) <= tolerance * statistics.median(last)
