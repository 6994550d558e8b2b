"""Columns: the numbers of many records as arrays, for figures over a million of them.

Holds what figures are made of and nothing else: no texts, no token ids, and of the decode steps only their
count and sum. What is missing is NaN. Left out: the figures themselves (`statistics.py`) and the exact
records (`records.py`), which whoever needs a text or a single decode step reads.

    columns = Columns.read(Path("records.parquet"))
    np.nanmedian(columns.done.decode_s)  # seconds, over the samples that succeeded
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

from fourstage.stages import SampleRecord

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Codes = NDArray[np.int32]

# fields of SampleRecord as they are; a number that may be missing is a float, so that it can be NaN
COUNTS = ("position", "repeat", "batch_size")
SECONDS = ("load_s", "preprocess_s", "encode_s", "decode_s", "total_s", "end_to_end_s", "prefill_s", "ttft_s")
NUMBERS = (*SECONDS, "text_tokens", "visual_tokens", "output_tokens", "vision_calls", "peak_memory_bytes", "images")
CHUNK = 16384  # records under way at once


@dataclass(frozen=True, eq=False)
class Columns:
    """Records as arrays of one length, in the order of the records; seconds, bytes and counts as in SampleRecord."""

    key_codes: Codes  # into `keys`
    keys: tuple[str, ...]  # each once, in order of appearance
    position: Ints
    repeat: Ints
    batch_size: Ints
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
    finish_reason_codes: Codes  # into `finish_reasons`; -1: none
    finish_reasons: tuple[str, ...]
    ok: NDArray[np.bool_]
    steps: Ints  # decode steps that were timed: len(token_s)
    token_sum_s: Floats  # their sum; 0.0 where there was none

    @classmethod
    def of(cls, records: Iterable[SampleRecord]) -> Columns:
        """The columns of records, which may come from a generator: only `CHUNK` of them are held at once."""
        return _assemble(_chunks_of(iter(records)))

    @classmethod
    def read(cls, path: Path) -> Columns:
        """The columns of a records.parquet, a piece at a time. Raises ValueError where columns are missing."""
        return _assemble(_chunks_in(path))

    def __len__(self) -> int:
        return len(self.ok)

    @property
    def done(self) -> Columns:
        """Those that succeeded."""
        return self.where(self.ok)

    @property
    def input_tokens(self) -> Floats:
        return self.text_tokens + self.visual_tokens

    def where(self, mask: NDArray[np.bool_]) -> Columns:
        """The records at which the mask is true; codes keep their meaning."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays = {name: value[mask] for name, value in values.items() if isinstance(value, np.ndarray)}
        return Columns(**values | arrays)


class _Names:
    """Names to codes, in order of appearance."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def code(self, names: Iterable[str | None]) -> Codes:
        seen = self.seen
        return np.array([-1 if name is None else seen.setdefault(name, len(seen)) for name in names], dtype=np.int32)


_Chunk = dict[str, NDArray[Any]]
_Source = tuple[_Names, _Names, Iterator[_Chunk]]  # keys, finish reasons, arrays by the names of Columns


def _assemble(source: _Source) -> Columns:
    keys, reasons, chunks = source
    parts: dict[str, list[NDArray[Any]]] = {name: [array] for name, array in _chunk({}, [], np.array([])).items()}
    for chunk in chunks:
        for name, array in chunk.items():
            parts[name].append(array)
    # each list goes as its array comes: the peak is one copy and one column
    arrays: dict[str, Any] = {name: np.concatenate(parts.pop(name)) for name in list(parts)}
    return Columns(**arrays, keys=tuple(keys.seen), finish_reasons=tuple(reasons.seen))


def _chunk(columns: dict[str, Any], lengths: Sequence[int] | Ints, token_s: Floats) -> _Chunk:
    """Arrays of one piece from its plain columns and its decode steps, end to end; without columns, empty ones."""
    steps = np.asarray(lengths, dtype=np.int64)
    owner = np.repeat(np.arange(len(steps)), steps)
    token_sum_s = np.bincount(owner, weights=token_s, minlength=len(steps)).astype(np.float64)
    chunk: _Chunk = {name: np.asarray(columns.get(name, ()), dtype=np.float64) for name in NUMBERS}
    chunk |= {name: np.asarray(columns.get(name, ()), dtype=np.int64) for name in COUNTS}
    codes = ("key_codes", "finish_reason_codes")
    chunk |= {name: np.asarray(columns.get(name, ()), dtype=np.int32) for name in codes}
    chunk["ok"] = np.asarray(columns.get("ok", ()), dtype=np.bool_)
    chunk["steps"] = steps
    chunk["token_sum_s"] = token_sum_s
    # as SampleRecord.tpot_ms has it
    after_first = np.where((chunk["output_tokens"] >= 2) & (steps > 0), chunk["output_tokens"] - 1, np.nan)
    chunk["tpot_ms"] = 1000 * token_sum_s / after_first
    return chunk


def _chunks_of(records: Iterator[SampleRecord]) -> _Source:
    keys, reasons = _Names(), _Names()
    names = (*COUNTS, *NUMBERS, "key", "finish_reason", "error", "token_s")
    read = attrgetter(*names)

    def chunks() -> Iterator[_Chunk]:
        while rows := [read(record) for record in islice(records, CHUNK)]:
            columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
            columns["key_codes"] = keys.code(columns["key"])
            columns["finish_reason_codes"] = reasons.code(columns["finish_reason"])
            columns["ok"] = [error is None for error in columns["error"]]
            token_s = np.array([second for steps in columns["token_s"] for second in steps], dtype=np.float64)
            yield _chunk(columns, [len(steps) for steps in columns["token_s"]], token_s)

    return keys, reasons, chunks()


def _chunks_in(path: Path) -> _Source:
    import pyarrow.parquet as pq

    keys, reasons = _Names(), _Names()
    names = [*COUNTS, *NUMBERS, "key", "finish_reason", "error", "token_s"]
    present = pq.read_schema(path).names
    if missing := [name for name in names if name not in present]:
        raise ValueError(
            f"{path} lacks the columns {', '.join(missing)}: it was not written by this version of fourstage"
        )

    def codes(column: Any, known: _Names) -> Codes:
        encoded = column.dictionary_encode()
        table = np.append(known.code(encoded.dictionary.to_pylist()), np.int32(-1))  # null: the last
        indices: Ints = encoded.indices.fill_null(len(table) - 1).to_numpy(zero_copy_only=False)
        return table[indices]

    def chunks() -> Iterator[_Chunk]:
        # without buffering ahead: a row group may hold a million records
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=CHUNK, columns=names):
                columns: dict[str, Any] = {
                    name: batch.column(name).to_numpy(zero_copy_only=False) for name in (*COUNTS, *NUMBERS)
                }
                columns["key_codes"] = codes(batch.column("key"), keys)
                columns["finish_reason_codes"] = codes(batch.column("finish_reason"), reasons)
                columns["ok"] = batch.column("error").is_null().to_numpy(zero_copy_only=False)
                token_s = batch.column("token_s")
                lengths = token_s.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
                yield _chunk(columns, lengths, token_s.flatten().to_numpy(zero_copy_only=False))

    return keys, reasons, chunks()
