"""Columns: the numbers of many records as arrays, for figures over a million of them.

Holds what figures and checks are made of and nothing else: no texts, of the token ids only their count, and of the
decode steps their count and sum. What is missing is NaN. Left out: the figures themselves (`summary.py`); the
whole records (`table.py`).

    columns = Columns.read(Path("records.parquet"))
    np.nanmedian(columns.measured.done.decode_s)  # seconds, over the samples that succeeded
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourstage.records.figures import PEAK_MEMORY, QUALITY, SUMMARISED, TOKENS_OUT, TPOT
from fourstage.records.table import pieces
from fourstage.stages import STAGES, SampleRecord

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Codes = NDArray[np.int32]

# fields of SampleRecord as they are; a number that may be missing is a float, so that it can be NaN
COUNTS = ("position", "repeat", "replicate", "batch_size")
NAMES = ("key", "finish_reason", "source")  # as codes
LISTS = ("token_s", "output_ids", "notes", "cached_stages")  # as their lengths
SECONDS = (*(figure.field for figure in SUMMARISED), "end_to_end_s")
NUMBERS = (
    *SECONDS, TOKENS_OUT.field, PEAK_MEMORY.field, "started_unix_s", "text_tokens", "visual_tokens", "vision_calls",
    "images", "bytes_read", "cached_share", "cache_fill_s", *(figure.field for figure in QUALITY),
)  # fmt: skip
CHUNK = 16384  # records under way at once


@dataclass(frozen=True, eq=False)
class Columns:
    """Records as arrays of one length, in the order of the records; seconds, bytes and counts as in SampleRecord."""

    key_codes: Codes  # into `keys`
    keys: tuple[str, ...]  # each once, in order of appearance
    position: Ints
    repeat: Ints
    replicate: Ints  # which fresh process of the run measured it; 0 in records of older versions
    batch_size: Ints
    started_unix_s: Floats
    load_s: Floats
    preprocess_s: Floats
    encode_s: Floats
    decode_s: Floats
    total_s: Floats
    end_to_end_s: Floats
    prefill_s: Floats
    ttft_s: Floats
    tpot_ms: Floats  # per output token after the first
    text_tokens: Floats
    visual_tokens: Floats
    output_tokens: Floats
    vision_calls: Floats
    peak_memory_bytes: Floats
    images: Floats
    bytes_read: Floats
    cached_share: Floats  # of a sample's files, just before they were read
    cache_fill_s: Floats
    quality_accuracy: Floats  # 0 to 100, as the other scores
    quality_choice: Floats
    quality_chrf: Floats
    quality_bleu: Floats
    quality_rouge_l: Floats
    finish_reason_codes: Codes  # into `finish_reasons`; -1: none
    finish_reasons: tuple[str, ...]
    source_codes: Codes  # into `sources`; -1: none
    sources: tuple[str, ...]
    ok: NDArray[np.bool_]
    is_sample: NDArray[np.bool_]  # by its role; else a sentinel
    noted: NDArray[np.bool_]  # the record has notes
    cached: Ints  # stages, from `load` on, that were served from the run's cache: len(cached_stages)
    ids: Ints  # len(output_ids)
    steps: Ints  # decode steps that were timed: len(token_s)
    token_sum_s: Floats  # their sum; 0.0 where there was none

    @classmethod
    def of(cls, records: Iterable[SampleRecord]) -> Columns:
        """The columns of records, which may come from a generator: only `CHUNK` of them are held at once."""
        known = {name: _Names() for name in NAMES}
        return _assemble(known, _chunks_of(iter(records), known))

    @classmethod
    def read(cls, path: Path) -> Columns:
        """The columns of a records.parquet, a piece at a time. Raises ValueError where columns are missing."""
        known = {name: _Names() for name in NAMES}
        return _assemble(known, _chunks_in(path, known))

    def __len__(self) -> int:
        return len(self.ok)

    @property
    def done(self) -> Columns:
        """Those that succeeded."""
        return self.where(self.ok)

    @property
    def measured(self) -> Columns:
        """The measured samples, without sentinels."""
        return self.where(self.is_sample)

    @property
    def input_tokens(self) -> Floats:
        """Text and visual tokens of the prompt."""
        return self.text_tokens + self.visual_tokens

    @property
    def cached_stages(self) -> tuple[str, ...]:
        """The stages that were served from the run's cache for any of the records."""
        return STAGES[: int(self.cached.max(initial=0))]

    @property
    def calls(self) -> Ints:
        """Which call of the model each record came from, from 0: `batch_size` records in a row from one start."""
        n, size, start = len(self), self.batch_size, self.started_unix_s
        new = (size[1:] != size[:-1]) | (start[1:] != start[:-1])
        starts = np.flatnonzero(np.concatenate([np.ones(min(n, 1), dtype=np.bool_), new]))
        index = np.arange(n) - np.repeat(starts, np.diff(starts, append=n))  # within what started together
        return np.cumsum(index % size == 0) - 1

    def where(self, mask: NDArray[np.bool_]) -> Columns:
        """The records at which the mask is true; codes keep their meaning."""
        if mask.all():
            return self
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays = {name: value[mask] for name, value in values.items() if isinstance(value, np.ndarray)}
        return Columns(**values | arrays)


def joined(parts: Sequence[Columns]) -> Columns:
    """The records of several as one, in their order."""
    values: dict[str, Any] = {}
    for name in NAMES:
        known, codes = _Names(), []
        for part in parts:
            table = np.append(known.code(getattr(part, f"{name}s")), np.int32(-1))  # -1: none, the last
            codes.append(table[getattr(part, f"{name}_codes")])
        values |= {f"{name}_codes": np.concatenate(codes), f"{name}s": tuple(known.seen)}
    for field in fields(Columns):
        if field.name not in values:
            values[field.name] = np.concatenate([getattr(part, field.name) for part in parts])
    return Columns(**values)


class _Names:
    """Names to codes, in order of appearance."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def code(self, names: Iterable[str | None]) -> Codes:
        seen = self.seen
        return np.array([-1 if name is None else seen.setdefault(name, len(seen)) for name in names], dtype=np.int32)


_Chunk = dict[str, NDArray[Any]]
_Known = dict[str, _Names]  # by the fields of NAMES


def _assemble(known: _Known, chunks: Iterator[_Chunk]) -> Columns:
    parts: dict[str, list[NDArray[Any]]] = {name: [array] for name, array in _chunk({}, np.array([])).items()}
    for chunk in chunks:
        for name, array in chunk.items():
            parts[name].append(array)
    # each list goes as its array comes: the peak is one copy and one column
    arrays: dict[str, Any] = {name: np.concatenate(parts.pop(name)) for name in list(parts)}
    return Columns(**arrays | {f"{name}s": tuple(names.seen) for name, names in known.items()})


def _chunk(columns: dict[str, Any], token_s: Floats) -> _Chunk:
    """Arrays of one piece from its plain columns, lists as their lengths, and its decode steps, end to end.

    Without columns, empty ones.
    """

    def array(name: str, kind: type[np.generic]) -> NDArray[Any]:
        return np.asarray(columns.get(name, ()), dtype=kind)

    steps = array("token_s", np.int64)
    owner = np.repeat(np.arange(len(steps)), steps)
    token_sum_s = np.bincount(owner, weights=token_s, minlength=len(steps)).astype(np.float64)
    chunk: _Chunk = {name: array(name, np.float64) for name in NUMBERS}
    chunk |= {name: array(name, np.int64) for name in COUNTS}
    chunk |= {f"{name}_codes": array(name, np.int32) for name in NAMES}
    chunk |= {name: array(name, np.bool_) for name in ("ok", "is_sample")}
    chunk |= {"noted": array("notes", np.int64) > 0, "ids": array("output_ids", np.int64)}
    chunk["cached"] = array("cached_stages", np.int64)
    chunk |= {"steps": steps, "token_sum_s": token_sum_s}
    chunk[TPOT.field] = 1000 * token_sum_s / np.where(steps > 0, steps, np.nan)  # as SampleRecord.tpot_ms has it
    return chunk


def _chunks_of(records: Iterator[SampleRecord], known: _Known) -> Iterator[_Chunk]:
    names = (*COUNTS, *NUMBERS, *NAMES, *LISTS, "error", "role")
    read = attrgetter(*names)
    while rows := [read(record) for record in islice(records, CHUNK)]:
        columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
        token_s = np.array([second for steps in columns["token_s"] for second in steps], dtype=np.float64)
        columns |= {name: [len(values) for values in columns[name]] for name in LISTS}
        columns |= {name: known[name].code(columns[name]) for name in NAMES}
        columns["ok"] = [error is None for error in columns["error"]]
        columns["is_sample"] = [role == "sample" for role in columns["role"]]
        yield _chunk(columns, token_s)


def _chunks_in(path: Path, known: _Known) -> Iterator[_Chunk]:
    def codes(column: Any, names: _Names) -> Codes:
        encoded = column.dictionary_encode()
        table = np.append(names.code(encoded.dictionary.to_pylist()), np.int32(-1))  # null: the last
        indices: Ints = encoded.indices.fill_null(len(table) - 1).to_numpy(zero_copy_only=False)
        return table[indices]

    roles = _Names()
    for batch in pieces(path, [*COUNTS, *NUMBERS, *NAMES, *LISTS, "error", "role"], CHUNK):
        if missing := [name for name in (*COUNTS, "key") if batch.column(name).null_count]:
            raise ValueError(f"{path}: a record has no {' and no '.join(missing)}")
        columns: dict[str, Any] = {
            name: batch.column(name).to_numpy(zero_copy_only=False) for name in (*COUNTS, *NUMBERS)
        }
        token_s = batch.column("token_s").flatten().to_numpy(zero_copy_only=False)
        lengths = {name: batch.column(name).value_lengths().fill_null(0) for name in LISTS}
        columns |= {name: values.to_numpy(zero_copy_only=False) for name, values in lengths.items()}
        columns |= {name: codes(batch.column(name), known[name]) for name in NAMES}
        columns["ok"] = batch.column("error").is_null().to_numpy(zero_copy_only=False)
        columns["is_sample"] = codes(batch.column("role"), roles) == roles.seen.get("sample", -2)
        yield _chunk(columns, token_s)
