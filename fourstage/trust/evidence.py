"""What the checks look at: records, what was planned and asked for, audits, and the device's limits.

    Evidence.read(Path("records.parquet"), planned=planned, expected=expected)

Left out: how it is gathered after a run (`gather.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fourstage.measure.warm_up import WarmUp
from fourstage.records.columns import Columns, Ints
from fourstage.records.table import read_rows
from fourstage.stages import SampleRecord
from fourstage.trust.audits import Audits
from fourstage.trust.roofline import Shares

SAMPLED = 1000  # records that are looked at with their texts and ids
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Expected:
    """What the composed configuration asked for, as far as records can show it."""

    precision: str
    dtype: str  # of the loaded parameters
    sources: tuple[str, ...]  # that may have been read
    images: int  # that reach the model from a sample
    batch_size: int
    max_new_tokens: int
    stop: str
    num_beams: int
    context: int  # rows of the model
    io: str = "as_is"  # what the page cache was to hold: "cold", "warm"
    target_half_width: float | None = None  # of the mean total, as a share
    cached_stages: tuple[str, ...] = ()  # that the run's cache was to serve
    seed: int | None = None  # of the run, from which each sample's is derived; None: not known
    end_ids: tuple[int, ...] = ()  # tokens that end an answer; none: not known
    parameters: tuple[str, ...] = ()  # how loaded parts differ from what was asked for, before and after the run


@dataclass(frozen=True)
class Evidence:
    """Everything that the checks look at.

    Evidence.read(Path("records.parquet"), planned=planned, expected=expected)
    """

    columns: Columns  # measured samples, without sentinels
    sampled: Sequence[SampleRecord]  # whole, at most SAMPLED of them, evenly spread over the run
    planned: Sequence[tuple[str, int]]  # key and repeat of each measurement that was to be made
    expected: Expected
    detokenise: Callable[[tuple[int, ...]], str] | None = None
    audits: Audits | None = None
    no_audits: str = "audits are off (protocol.audit=false)"
    shares: Shares | None = None
    warm_up: Mapping[str, WarmUp] = field(default_factory=dict)  # by shape of input
    busy: float | None = None  # share of all processors that others used during the measurement
    listed: tuple[str, ...] | None = None  # keys of the dataset, read again; None: not read
    no_listed: str = "the dataset was not read again"
    no_shares: str = "the device's peaks were not measured"

    @classmethod
    def of(cls, records: Sequence[SampleRecord], **rest: Any) -> Evidence:
        """Evidence on records in memory; `rest` are the other fields."""
        every = Columns.of(records)
        return cls(every.measured, [records[row] for row in _spread(every)], **rest)

    @classmethod
    def read(cls, path: Path, **rest: Any) -> Evidence:
        """The same on a records.parquet, which may hold a million of them: numbers first, then the sampled rows."""
        every = Columns.read(path)
        return cls(every.measured, read_rows(path, _spread(every)), **rest)

    @cached_property
    def done(self) -> Columns:
        """The records that succeeded."""
        return self.columns.done


def _spread(every: Columns) -> Ints:
    """Rows of at most SAMPLED measured records: whole calls of the model, evenly spread over the run."""
    run = np.flatnonzero(every.is_sample)
    if len(run) <= SAMPLED:
        return run
    calls, measured = every.measured.calls, every.measured
    number = max(1, SAMPLED // int(measured.batch_size.max()))
    chosen = np.linspace(0, calls[-1], min(number, int(calls[-1]) + 1)).round().astype(np.int64)
    return run[np.isin(calls, chosen)]
