"""Records as a table: `records.parquet`, one row per measured sample, one column per field of SampleRecord.

The file is the raw truth of a run: every figure can be recomputed from it. It also holds three derived
columns for whoever opens it with another tool; reading ignores them. Left out: summaries (`statistics.py`)
and where the file goes (`tracking/`).

    write_records(records, Path("records.parquet"))
    assert read_records(Path("records.parquet")) == records
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from fourstage.stages import SampleRecord

if TYPE_CHECKING:
    import pyarrow as pa

DERIVED = {"input_tokens": int, "tpot_ms": float, "unaccounted_s": float}
UNITS = ("s", "ms", "tokens", "bytes")


def schema() -> pa.Schema:
    """One column per field of SampleRecord and the derived ones; a column's metadata names its unit."""
    import pyarrow as pa

    types = get_type_hints(SampleRecord) | DERIVED
    return pa.schema([pa.field(name, _arrow_type(kind), metadata=_metadata(name)) for name, kind in types.items()])


def write_records(records: Sequence[SampleRecord], path: Path) -> None:
    """Write the records as Parquet; None becomes null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = schema().names
    table = pa.Table.from_pylist([{name: _value(record, name) for name in names} for record in records], schema())
    pq.write_table(table, path)


def read_records(path: Path) -> list[SampleRecord]:
    """Read what `write_records` wrote, exactly. Raises ValueError where columns are missing."""
    import pyarrow.parquet as pq

    names = [field.name for field in fields(SampleRecord)]
    present = pq.read_schema(path).names
    if missing := [name for name in names if name not in present]:
        raise ValueError(
            f"{path} lacks the columns {', '.join(missing)}: it was not written by this version of fourstage"
        )
    rows = pq.read_table(path, columns=names).to_pylist()
    return [SampleRecord(**{name: _as_tuple(value) for name, value in row.items()}) for row in rows]


def unaccounted_s(record: SampleRecord) -> float | None:
    """Seconds of the end-to-end time that no stage claims; None where either time is missing."""
    if record.end_to_end_s is None or record.total_s is None:
        return None
    return record.end_to_end_s - record.total_s


def _value(record: SampleRecord, name: str) -> object:
    return unaccounted_s(record) if name == "unaccounted_s" else getattr(record, name)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


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
