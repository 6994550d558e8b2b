"""A run as the statistics take it: one cell for each process and sample, of every figure that is compared.

Left out: pairing keys for what needs them (`pairing.py`), and the statistics (`stats/replicates.py`).

    measured = cells(run.columns).measured(COMPARISON.index(TOTAL), clusters)    # stats.replicates.Measured, or None
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fourstage.records.columns import Columns
from fourstage.records.figures import COMPARISON, TOKENS_PER_S
from fourstage.stats.clusters import Floats
from fourstage.stats.replicates import Measured


@dataclass(frozen=True, eq=False)
class Cells:
    """Means over the repeats of a sample in a process, of the logarithms and of the values; NaN where nothing was
    measured, and where it was 0: a ratio of 0 is none."""

    keys: tuple[str, ...]  # of the samples that succeeded
    logs: Floats  # [figures of COMPARISON, processes, keys]
    means: Floats  # the same

    @cached_property
    def place(self) -> dict[str, int]:
        """Where each key is."""
        return {key: i for i, key in enumerate(self.keys)}

    def measured(self, figure: int, clusters: Mapping[str, Hashable]) -> Measured | None:
        """One figure over the keys that `clusters` names; None where none of them has it."""
        logs, means = self.logs[figure], self.means[figure]
        there = [i for i, key in enumerate(self.keys) if key in clusters and not np.isnan(logs[:, i]).all()]
        if not there:
            return None
        names = tuple(self.keys[i] for i in there)
        rows = ~np.isnan(logs[:, there]).all(axis=1)
        return Measured.of_cells(
            logs[rows][:, there], means[rows][:, there], names, {name: clusters[name] for name in names}
        )


def cells(columns: Columns) -> Cells:
    """The cells of a run's successful samples; sentinels and failures are in none."""
    done = columns.measured.done
    processes, rows = np.unique(done.replicate, return_inverse=True)
    codes, first, keys = np.unique(done.key_codes, return_index=True, return_inverse=True)
    shape = (len(processes), len(codes))
    place = rows.reshape(-1) * len(codes) + keys.reshape(-1)
    logs, means = (np.full((len(COMPARISON), *shape), np.nan) for _ in range(2))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for number, figure in enumerate(COMPARISON):
            values = done.output_tokens / done.decode_s if figure is TOKENS_PER_S else getattr(done, figure.field)
            score = figure.kind == "score"  # of 0 to 100, compared by points: a hundredth stands for its logarithm
            there = np.isfinite(values) & ((values > 0) | score)
            counts = np.bincount(place[there], minlength=shape[0] * shape[1]).reshape(shape)
            for found, of in ((logs, values[there] / 100 if score else np.log(values[there])), (means, values[there])):
                sums = np.bincount(place[there], weights=of, minlength=shape[0] * shape[1]).reshape(shape)
                np.divide(sums, counts, out=found[number], where=counts > 0)
    order = np.argsort(first, kind="stable")  # of the keys' first success
    return Cells(tuple(done.keys[code] for code in codes[order]), logs[:, :, order], means[:, :, order])


def sequence_of(key: str) -> str:
    """The video sequence of a sample, the first part of its key: clips of one drive overlap and are alike."""
    return key.split("/", 1)[0]
