"""Records as a table: `records.parquet`, one row per measured sample, one column per field of SampleRecord.

While a run goes, its records are a journal of JSON lines too: a killed process leaves it, where a Parquet file
without its end cannot be read.

The file is the raw truth of a run: every figure can be recomputed from it. It also holds three derived
columns for whoever opens it with another tool; reading ignores them. Left out: summaries (`summary.py`)
and where the file goes (`tracking/`).

    write_records(records, Path("records.parquet"))
    assert read_records(Path("records.parquet")) == records
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from fourstage.records.figures import DECODE, ENCODE, LOAD, PREPROCESS, TOKENS_IN, TOTAL, TPOT
from fourstage.records.quality import stored_scores
from fourstage.records.units import first_few
from fourstage.stages import SampleRecord, UserError
from fourstage.text import storable

if TYPE_CHECKING:
    import pyarrow as pa

DERIVED = {TOKENS_IN.field: int, TPOT.field: float, "unaccounted_s": float}
UNITS = ("s", "ms", "tokens", "bytes")
FIELDS = tuple(field.name for field in fields(SampleRecord))
DEFAULTS = {field.name: field.default for field in fields(SampleRecord) if field.default is not MISSING}
REQUIRED = {figure.field for figure in (LOAD, PREPROCESS, ENCODE, DECODE, TOTAL)} | {
    "key", "sample_id", "position", "token_s", "error",
}  # fmt: skip  # without them no figure can be computed; other columns came later than the oldest files
ROWS = 1000  # of a row group, and in memory at once
MOST_NOTES = 20


def schema() -> pa.Schema:
    """One column per field of SampleRecord and the derived ones; a column's metadata names its unit."""
    import pyarrow as pa

    types = get_type_hints(SampleRecord) | DERIVED
    return pa.schema([pa.field(name, _arrow_type(kind), metadata=_metadata(name)) for name, kind in types.items()])


class RecordFile:
    """A records.parquet that grows while a run goes: at most ROWS records are in memory, however many there are.

    with RecordFile(Path("records.parquet")) as file:
        file.append(record)
    first = next(iter(file))
    """

    def __init__(self, path: Path):
        import pyarrow.parquet as pq

        self.path = path
        self.count = self.failed = 0
        self.notes: dict[str, None] = {}  # each once, the first MOST_NOTES of them
        self._schema = schema()
        self._waiting: list[dict[str, object]] = []
        self._scored: list[SampleRecord] = []  # those that wait: they are scored where they are written
        self._writer = pq.ParquetWriter(path, self._schema)

    def append(self, record: SampleRecord) -> None:
        """Take a record; it is written with others, outside whatever is being timed."""
        self._scored.append(record)
        self._waiting.append({name: _value(record, name) for name in self._schema.names})
        if record.role == "sample":
            self.count += 1
            self.failed += not record.ok
        if len(self.notes) < MOST_NOTES:
            self.notes |= dict.fromkeys(storable(record.notes))
        if len(self._waiting) >= ROWS:
            self._write()

    def close(self) -> None:
        """Write what is waiting and the end of the file; only then can it be read."""
        if self._writer.is_open:
            self._write()
            self._writer.close()

    @property
    def closed(self) -> bool:
        """Whether the file is whole."""
        return not self._writer.is_open

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[SampleRecord]:
        """The records of the closed file, in the order in which they came."""
        return iterate_records(self.path)

    def _write(self) -> None:
        import pyarrow as pa

        if self._waiting:
            for row, record in zip(self._waiting, self._scored, strict=True):
                row.update(stored_scores(record))
            self._scored = []
            self._writer.write_table(pa.Table.from_pylist(self._waiting, self._schema))
            self._waiting = []


class Journal:
    """Records as JSON lines. Each is with the operating system when `append` returns: kill -9 takes none of them."""

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def append(self, record: SampleRecord) -> None:
        """Write one record, so that it survives a kill."""
        self._file.write(json.dumps({name: storable(getattr(record, name)) for name in FIELDS}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file, which stays."""
        self._file.close()


def read_journal(path: Path) -> list[SampleRecord]:
    """The whole records of a journal, in order; a last line that was cut short is not one. [] where there is none."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [_record(json.loads(line)) for line in lines[:-1]]


def write_records(records: Iterable[SampleRecord], path: Path) -> None:
    """Write the records as Parquet; None becomes null."""
    with RecordFile(path) as file:
        for record in records:
            file.append(record)


def read_records(path: Path) -> list[SampleRecord]:
    """Read what `write_records` wrote, exactly; see `pieces` for files of older versions and errors."""
    return list(iterate_records(path))


def iterate_records(path: Path) -> Iterator[SampleRecord]:
    """The same, a piece at a time."""
    for batch in pieces(path, FIELDS, ROWS):
        yield from map(_record, batch.to_pylist())


def read_rows(path: Path, rows: NDArray[np.int64]) -> list[SampleRecord]:
    """The records at these rows of the file, ascending, in bounded memory."""
    found: list[SampleRecord] = []
    start = 0
    for batch in pieces(path, FIELDS, ROWS):
        low, high = np.searchsorted(rows, [start, start + len(batch)])
        found += map(_record, batch.take(rows[low:high] - start).to_pylist())
        start += len(batch)
    return found


def pieces(path: Path, names: Sequence[str], rows: int) -> Iterator[Any]:
    """Batches of at most `rows` rows with these columns, in this order.

    A column that an older version did not write holds the field's default, which is null for a measurement. Raises
    UserError where a column of REQUIRED is missing or one has another type.
    """
    import pyarrow.parquet as pq

    # without buffering ahead: a row group may hold a million records
    with pq.ParquetFile(path, pre_buffer=False) as file:
        present = file.schema_arrow.names
        missing = [name for name in names if name not in present]
        if required := [name for name in missing if name in REQUIRED]:
            raise UserError(
                f"{path} has no column {first_few(required, 5)}: not a records.parquet of fourstage; measure again"
            )
        wanted = schema()
        for name in names:
            if name in missing:
                continue
            found = file.schema_arrow.field(name).type
            if not found.equals(wanted.field(name).type):
                raise UserError(
                    f"{path}: column {name} holds {found}, expected {wanted.field(name).type}: "
                    "it was not written by this version of fourstage"
                )
        for batch in file.iter_batches(batch_size=rows, columns=[name for name in names if name in present]):
            yield _filled(batch, names, wanted) if missing else batch


def _filled(batch: Any, names: Sequence[str], wanted: pa.Schema) -> Any:
    """The batch with these columns, those that it does not have with SampleRecord's defaults."""
    import pyarrow as pa

    def column(name: str) -> Any:
        if name in batch.schema.names:
            return batch.column(name)
        default = DEFAULTS[name]
        value = list(default) if isinstance(default, tuple) else default
        return pa.array([value] * len(batch), wanted.field(name).type)

    return pa.RecordBatch.from_arrays([column(name) for name in names], names=list(names))


def unaccounted_s(record: SampleRecord) -> float | None:
    """Seconds of the end-to-end time that no stage claims; None where either time is missing."""
    if record.end_to_end_s is None or record.total_s is None:
        return None
    return record.end_to_end_s - record.total_s


def _value(record: SampleRecord, name: str) -> object:
    return unaccounted_s(record) if name == "unaccounted_s" else storable(getattr(record, name))


def _record(row: dict[str, Any]) -> SampleRecord:
    known = {name: value for name, value in row.items() if name in FIELDS}  # an older version had others
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    return SampleRecord(**values)


def _arrow_type(kind: Any) -> pa.DataType:
    """str, int, float, each also as `X | None` or `tuple[X, ...]`."""
    import pyarrow as pa

    plain = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    if kind in plain:
        return plain[kind]
    inner = plain[next(part for part in get_args(kind) if part in plain)]
    return pa.list_(inner) if getattr(kind, "__origin__", None) is tuple else inner


def _metadata(name: str) -> dict[bytes, bytes] | None:
    """The unit as the name says it: `decode_s`, `tpot_ms`, `text_tokens`, `peak_memory_bytes`, `bytes_read`."""
    words = name.split("_")
    unit = next((word for word in (words[-1], words[0]) if word in UNITS), None)
    return {b"unit": unit.encode()} if unit else None
