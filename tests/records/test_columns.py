"""Columns hold what the records hold, from memory and from the file, and a large file needs little."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fourstage.records.columns import CHUNK, Columns
from fourstage.records.summary import summarise_run
from fourstage.records.table import ROWS, read_rows, schema, write_records
from fourstage.stages import SampleRecord
from tests.builders import timed

RECORD = timed(
    token_s=(0.1, 0.2, 1 / 7), decode_s=2.0, total_s=2.6, end_to_end_s=2.625, text_tokens=10, visual_tokens=90,
    finish_reason="stop", vision_calls=1, peak_memory_bytes=2**35 + 1, prompt="What?", output_ids=(1, 2, 3, 4),
)  # fmt: skip
FAILED = SampleRecord(key="b", sample_id="b", position=1, error="no such file: b.npy", error_stage="load")
CUT = replace(RECORD, key="c", position=2, finish_reason="length", token_s=(), output_tokens=1, batch_size=2)
CUT = replace(CUT, source="npy", output_ids=(1,), notes=("frames repeat",))
AGAIN = replace(
    RECORD,
    cached_stages=("load",),
    cache_fill_s=0.5,
    position=3,
    repeat=1,
    load_s=None,
    token_s=(0.25,),
    output_tokens=2,
)
RECORDS = [RECORD, FAILED, CUT, AGAIN]


def same(one: Columns, other: Columns) -> bool:
    for field in fields(Columns):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, field.name
            np.testing.assert_array_equal(left, right, err_msg=field.name)
        else:
            assert left == right, field.name
    return True


def read(records: Sequence[SampleRecord], folder: Path) -> Columns:
    write_records(records, folder / "records.parquet")
    return Columns.read(folder / "records.parquet")


def test_the_file_gives_the_columns_of_the_records(tmp_path: Path) -> None:
    assert same(Columns.of(RECORDS), read(RECORDS, tmp_path))


def test_more_records_than_one_piece_holds_are_whole_and_in_order(tmp_path: Path) -> None:
    many = [
        replace(RECORDS[n % 4], key=f"clip {n % 700}", position=n, finish_reason=("stop", "length", None)[n % 3])
        for n in range(2 * CHUNK + 5)
    ]
    columns = Columns.of(record for record in many)
    assert same(columns, read(many, tmp_path))
    assert [columns.keys[code] for code in columns.key_codes] == [record.key for record in many]
    assert columns.position.tolist() == list(range(len(many)))
    assert columns.finish_reasons == ("stop", "length")
    assert columns.finish_reason_codes[:3].tolist() == [0, 1, -1]


def test_columns_hold_the_fields_of_the_records() -> None:
    columns = Columns.of(RECORDS)
    own = {"steps", "token_sum_s", "ids", "noted", "is_sample", "cached"}
    own |= {"key_codes", "keys", "finish_reason_codes", "finish_reasons", "source_codes", "sources"}
    for name in {field.name for field in fields(Columns)} - own:
        values = [getattr(record, name) for record in RECORDS]
        expected = [np.nan if value is None else value for value in values]
        np.testing.assert_allclose(getattr(columns, name), expected, rtol=1e-15, err_msg=name)
    np.testing.assert_array_equal(columns.input_tokens, [100, np.nan, 100, 100])
    assert columns.keys == ("a", "b", "c")
    assert columns.key_codes.tolist() == [0, 1, 2, 0]
    assert columns.sources == ("png", "npy")
    assert columns.source_codes.tolist() == [0, -1, 1, 0]
    assert columns.ids.tolist() == [4, 0, 1, 4]
    assert columns.noted.tolist() == [False, False, True, False]
    assert columns.cached.tolist() == [0, 0, 0, 1]
    assert (columns.cached_stages, columns.where(columns.repeat == 0).cached_stages) == (("load",), ())
    assert columns.steps.tolist() == [3, 0, 0, 1]
    np.testing.assert_allclose(columns.token_sum_s, [sum(RECORD.token_s), 0, 0, 0.25])


def test_what_is_missing_is_nan_and_never_zero() -> None:
    columns = Columns.of([FAILED])
    for name in ("decode_s", "tpot_ms", "output_tokens", "peak_memory_bytes", "images"):
        assert np.isnan(getattr(columns, name)).all(), name
    assert columns.finish_reason_codes.tolist() == [-1]


def test_done_are_those_that_succeeded() -> None:
    done = Columns.of(RECORDS).done
    assert len(done) == 3
    assert done.ok.all()
    assert done.position.tolist() == [0, 2, 3]
    assert [done.keys[code] for code in done.key_codes] == ["a", "c", "a"]


def test_measured_are_those_that_are_no_sentinel(tmp_path: Path) -> None:
    records = [replace(RECORD, role="sentinel"), *RECORDS]
    assert same(Columns.of(records), read(records, tmp_path))
    assert Columns.of(records).measured.position.tolist() == [0, 1, 2, 3]
    assert len(Columns.of(records[:1]).measured) == 0


def test_some_rows_are_read_whole(tmp_path: Path) -> None:
    many = [replace(RECORDS[n % 4], position=n, output=f"text {n}") for n in range(2 * ROWS + 5)]
    write_records(many, tmp_path / "records.parquet")
    rows = np.array([0, 1, ROWS - 1, ROWS, 2 * ROWS + 4])
    assert read_rows(tmp_path / "records.parquet", rows) == [many[row] for row in rows]
    assert read_rows(tmp_path / "records.parquet", rows[:0]) == []


def test_calls_are_what_started_together_in_batches() -> None:
    sizes, starts = [2, 2, 2, 2, 2, 1, 1, 3, 3], [5, 5, 5, 5, 6, 7, 7, 8, 8]
    records = [replace(RECORD, batch_size=n, started_unix_s=s) for n, s in zip(sizes, starts, strict=True)]
    assert Columns.of(records).calls.tolist() == [0, 0, 1, 1, 2, 3, 4, 5, 5]
    assert Columns.of([]).calls.tolist() == []


def test_no_records_are_empty_columns(tmp_path: Path) -> None:
    assert len(Columns.of([])) == 0
    assert len(Columns.of([]).done) == 0
    assert same(Columns.of([]), read([], tmp_path))


def test_records_and_columns_give_the_same_metrics(tmp_path: Path) -> None:
    assert summarise_run(RECORDS) == summarise_run(read(RECORDS, tmp_path))


def test_a_file_without_columns_is_refused_by_their_names(tmp_path: Path) -> None:
    write_records(RECORDS, tmp_path / "full.parquet")
    table = pq.read_table(tmp_path / "full.parquet").drop_columns(["decode_s", "error"])
    pq.write_table(table, tmp_path / "less.parquet")
    with pytest.raises(ValueError, match="has no column decode_s, error"):
        Columns.read(tmp_path / "less.parquet")


def test_a_large_run_is_summarised_in_seconds_and_little_memory(tmp_path: Path) -> None:
    n, steps = 200_000, 8
    write_synthetic(tmp_path / "records.parquet", n, steps)
    arrow, default = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(arrow)
    began = time.monotonic()
    try:
        columns = Columns.read(tmp_path / "records.parquet")
        metrics = summarise_run(columns)
    finally:
        pa.set_memory_pool(default)
    assert time.monotonic() - began < 10  # 0.5 s on two cores
    assert metrics["samples_ok"] == n
    assert metrics["stage4_decode_s.median"] == pytest.approx(1.0, rel=0.01)
    assert metrics["tpot_ms"] == pytest.approx(20.0)

    # tracing makes it slow, so a second time; the texts alone are 400 MB
    tracemalloc.start()
    try:
        summarise_run(Columns.read(tmp_path / "records.parquet"))
        _, traced = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    held = 24 * 8 * n
    assert traced < 4 * held
    assert 0 < arrow.max_memory() < 100e6


def write_synthetic(path: Path, n: int, steps: int) -> None:
    """Records with 2 kB of text each, in one row group, as `write_records` makes them."""
    rng = np.random.default_rng(0)
    values = {name: pa.nulls(n, kind) for name, kind in zip(schema().names, schema().types, strict=True)}
    values |= {
        "key": pa.array(np.char.add("clip ", (np.arange(n) % 5000).astype(str))),
        "position": pa.array(np.arange(n)),
        "repeat": pa.array(np.arange(n) // 5000),
        "replicate": pa.array(np.zeros(n, dtype=np.int64)),
        "batch_size": pa.array(np.ones(n, dtype=np.int64)),
        "decode_s": pa.array(np.exp(rng.normal(0, 0.2, n))),
        "output_tokens": pa.array(np.full(n, steps + 1)),
        "token_s": pa.ListArray.from_arrays(np.arange(0, n * steps + 1, steps), np.full(n * steps, 0.02)),
        "prompt": pa.DictionaryArray.from_arrays(np.arange(n) % 50, [f"{i} " * 350 for i in range(50)]).cast("string"),
        "output": pa.DictionaryArray.from_arrays(np.arange(n) % 50, [f"{i} " * 350 for i in range(50)]).cast("string"),
    }
    table = pa.table({name: values[name].cast(schema().field(name).type) for name in schema().names}, schema())
    pq.write_table(table, path)
