"""Noise floors: how far processes of one configuration differ on a machine, from the runs that its store has.

Every run with two replicates or more has measured it, as a comparison or by `fourstage aa`. A floor is of one machine,
model, weights, precision, engine and what else decides the work of a stage (ALIKE). Left out: the statistics
(`stats/replicates.py`) and what is claimed with a floor.

    known = known_floors(destination, machine, params)        # None: nobody measured it here
    known.floors["decode_s"].spread()                         # 0.031: two processes differ by up to 3.1 %
    known.origin(time.time())                                 # "12 processes of 3 runs, the last 2 hours ago"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from fourstage.records.columns import Columns
from fourstage.records.figures import DECODE, OF_STAGE, PREFILL, TOTAL, TPOT, TTFT
from fourstage.records.units import plural
from fourstage.stages import UserError
from fourstage.stats.replicates import Floor, Measured, floor, pooled

if TYPE_CHECKING:
    from fourstage.tracking.destination import Destination

FLOORED = (*OF_STAGE, PREFILL, TOTAL, TTFT, TPOT)
# settings that a floor's runs share; a setting that a run of an older version does not have is another
ALIKE = (
    "model.name", "weights.name", "weights.size", "precision", "engine.name", "device", "batch_size", "cache",
    "threads",
)  # fmt: skip
NEWEST = 20  # runs that are pooled, at most


@dataclass(frozen=True, eq=False)
class Processes:
    """What the replicates of one run show: its floors, and how long a process takes."""

    floors: Mapping[str, Floor]  # by the figure's field
    sample_s: float  # mean end-to-end time of a sample
    beyond_s: float | None  # of a process beyond its samples; None: not known
    samples: int  # that a process measured


@dataclass(frozen=True, eq=False)
class KnownFloors:
    """The floors of several runs, pooled."""

    floors: Mapping[str, Floor]
    runs: int
    processes: int
    newest_unix_s: float
    sample_s: float
    beyond_s: float | None

    def origin(self, now_unix_s: float) -> str:
        """What they were measured from, and how long ago: `12 processes of 3 runs, the last 2 hours ago`."""
        runs = f"{self.runs} {plural('run', self.runs)}"
        last = "" if self.runs == 1 else "the last "
        return f"{self.processes} processes of {runs}, {last}{_ago(now_unix_s - self.newest_unix_s)}"


def known_floors(destination: Destination, machine: str, params: Mapping[str, str]) -> KnownFloors | None:
    """The floors that the store knows for a run with these params on a machine (its tag `fourstage.machine`).

    From its newest valid runs with two replicates or more that are ALIKE. None where it has none. Raises UserError
    where the store cannot be read.
    """
    from fourstage.tracking.reader import find_equal, records_file

    also = "attributes.status = 'FINISHED' and tags.`fourstage.valid` = 'true' and tags.`fourstage.replicates` != '1'"
    runs = [
        run
        for run in find_equal(destination, "tags.`fourstage.machine`", machine, also)
        if all(run.params.get(key, "-") == str(params.get(key, "-")) for key in ALIKE)
    ][:NEWEST]
    found: list[Processes] = []
    with TemporaryDirectory() as folder:
        for run in runs:
            try:
                found.append(processes(Columns.read(records_file(destination, run, Path(folder)))))
            except (UserError, ValueError, OSError):  # without records, or damaged: a comparison of it says so
                continue
    found = [one for one in found if one.floors]
    if not found:
        return None
    floors = {
        figure.field: pooled(measured)
        for figure in FLOORED
        if (measured := [one.floors[figure.field] for one in found if figure.field in one.floors])
    }
    beyond = [one.beyond_s for one in found if one.beyond_s is not None]
    return KnownFloors(
        floors,
        len(found),
        sum(max(one.replicates for one in own.floors.values()) for own in found),
        max(run.started_unix_s for run in runs),
        float(np.mean([one.sample_s for one in found])),
        min(beyond, default=None),
    )


def known_floor(destination: Destination, machine: str, params: Mapping[str, str], figure: str) -> Floor | None:
    """The floor of one figure, by its field such as `decode_s`; None where nobody measured it here."""
    known = known_floors(destination, machine, params)
    return None if known is None else known.floors.get(figure)


def processes(columns: Columns) -> Processes:
    """What the replicates of a run show; no floors for a run with one."""
    done = columns.measured.done
    floors: dict[str, Floor] = {}
    for figure in FLOORED:
        values = getattr(done, figure.field)
        there = values > 0  # NaN is not
        if len(np.unique(done.replicate[there])) > 1:
            floors[figure.field] = floor(Measured(values[there], done.replicate[there], done.key_codes[there]))
    ends, starts = [], []
    for number in np.unique(done.replicate):
        own = done.where(done.replicate == number)
        starts.append(float(own.started_unix_s.min()))
        ends.append(float((own.started_unix_s + own.end_to_end_s).max()))
    between = [start - end for end, start in zip(ends, starts[1:], strict=False) if start > end]
    samples = round(len(done) / max(len(starts), 1))
    sample_s = float(done.end_to_end_s.mean()) if len(done) else 0.0
    return Processes(floors, sample_s, min(between, default=None), samples)


def in_words(floors: Mapping[str, Floor], figures: Sequence[str] = (TOTAL.field, DECODE.field)) -> str:
    """`two processes of the same configuration differ by up to 3.1 % in decode, 2 % in total`."""
    headings = {figure.field: figure.heading for figure in FLOORED}
    parts = [f"{percent(floors[name].spread())} in {headings[name]}" for name in figures if name in floors]
    return f"two processes of the same configuration differ by up to {', '.join(parts)}"


def percent(share: float) -> str:
    """`3.1 %`: two digits."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def _ago(seconds: float) -> str:
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{(n := int(seconds / size))} {plural(word, n)} ago"
    return "just now"
