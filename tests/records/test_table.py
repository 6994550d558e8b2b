"""The table of records keeps everything."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fourstage.records.columns import Columns
from fourstage.records.table import FIELDS, REQUIRED, read_records, read_rows, schema, write_records
from fourstage.stages import SampleRecord

FULL = SampleRecord(
    key="a/b.npy",
    sample_id="7",
    position=3,
    repeat=1,
    replicate=2,
    role="sentinel",
    batch_size=2,
    seed=2**40,
    started_unix_s=1760000000.123456,
    cached_share=0.25,
    cached_stages=("load", "preprocess"),
    cache_fill_s=0.0125,
    source="png",
    images=5,
    image_indices=(0, 1, 2, 3, 4),
    clip_length=9,
    bytes_read=12345,
    notes=("one frame repeated", "ünïcode ✓"),
    load_s=0.1 + 0.2,
    preprocess_s=1e-9,
    encode_s=1 / 3,
    decode_s=2.5,
    total_s=3.0,
    end_to_end_s=3.25,
    prefill_s=0.5,
    ttft_s=1.0,
    token_s=(0.1, 0.2, 1 / 7),
    text_tokens=11,
    visual_tokens=582,
    output_tokens=4,
    finish_reason="stop",
    vision_calls=1,
    peak_memory_bytes=2**35,
    gpu_clock_mhz=1980,
    gpu_power_w=431.5,
    gpu_temperature_c=61,
    gpu_throttle=("sw_power_cap",),
    question="What?",
    prompt="USER: <event>\nWhat?",
    output="A car.",
    output_ids=(1, 2, 3, 2),
    reference="A red car.",
    attributes='{"time": "day"}',
    options=("one", "two"),
    answer="A",
    quality_accuracy=50.0,
    quality_choice=100.0,
    quality_chrf=41.5,
    quality_bleu=20.25,
    quality_rouge_l=30.5,
)
FAILED = SampleRecord(key="c", sample_id="8", position=4, error="no such file: c.npy", error_stage="load")


def test_what_is_written_is_read_back_exactly(tmp_path: Path) -> None:
    write_records([FULL, FAILED], tmp_path / "records.parquet")
    assert read_records(tmp_path / "records.parquet") == [FULL, FAILED]


def test_every_field_is_filled_in_this_test() -> None:
    untouched = {f.name for f in fields(SampleRecord) if getattr(FULL, f.name) == f.default}
    assert untouched == {"error", "error_stage"}


def test_no_records_are_a_table_without_rows(tmp_path: Path) -> None:
    write_records([], tmp_path / "records.parquet")
    assert read_records(tmp_path / "records.parquet") == []


def test_none_stays_null_and_is_never_zero(tmp_path: Path) -> None:
    write_records([FAILED], tmp_path / "records.parquet")
    row = pq.read_table(tmp_path / "records.parquet").to_pylist()[0]
    assert row["decode_s"] is None
    assert row["input_tokens"] is None
    assert row["tpot_ms"] is None
    assert row["unaccounted_s"] is None
    assert row["token_s"] == []


def test_nan_is_not_null(tmp_path: Path) -> None:
    write_records([replace(FULL, encode_s=math.nan)], tmp_path / "records.parquet")
    encode_s = read_records(tmp_path / "records.parquet")[0].encode_s
    assert encode_s is not None
    assert math.isnan(encode_s)


def test_derived_columns_are_in_the_file(tmp_path: Path) -> None:
    write_records([FULL], tmp_path / "records.parquet")
    row = pq.read_table(tmp_path / "records.parquet").to_pylist()[0]
    assert row["input_tokens"] == 593
    assert row["tpot_ms"] == FULL.tpot_ms
    assert row["unaccounted_s"] == 0.25


def test_units_are_in_the_schema_of_the_file(tmp_path: Path) -> None:
    write_records([FULL], tmp_path / "records.parquet")
    written = pq.read_schema(tmp_path / "records.parquet")
    unit = {name: (written.field(name).metadata or {}).get(b"unit") for name in written.names}
    assert unit["decode_s"] == unit["token_s"] == unit["started_unix_s"] == unit["unaccounted_s"] == b"s"
    assert unit["tpot_ms"] == b"ms"
    assert unit["visual_tokens"] == unit["input_tokens"] == b"tokens"
    assert unit["peak_memory_bytes"] == unit["bytes_read"] == b"bytes"
    assert unit["key"] is None


def test_every_field_has_a_column() -> None:
    assert set(schema().names) == {f.name for f in fields(SampleRecord)} | {"input_tokens", "tpot_ms", "unaccounted_s"}


def test_a_file_without_a_column_that_every_figure_needs_is_refused_by_its_name(tmp_path: Path) -> None:
    write_records([FULL], tmp_path / "full.parquet")
    table = pq.read_table(tmp_path / "full.parquet").drop_columns(["decode_s", "seed", "error"])
    pq.write_table(table, tmp_path / "less.parquet")
    with pytest.raises(ValueError, match="has no column decode_s, error: not a"):
        read_records(tmp_path / "less.parquet")


def test_columns_that_an_older_version_did_not_write_hold_their_defaults(tmp_path: Path) -> None:
    later = [name for name in FIELDS if name not in REQUIRED]
    write_records([FULL, FULL], tmp_path / "full.parquet")
    pq.write_table(pq.read_table(tmp_path / "full.parquet").drop_columns(later), tmp_path / "old.parquet")
    defaults = {f.name: f.default for f in fields(SampleRecord) if f.name in later}
    expected = replace(FULL, **defaults)
    assert read_records(tmp_path / "old.parquet") == [expected, expected]
    assert read_rows(tmp_path / "old.parquet", np.array([1])) == [expected]
    columns = Columns.read(tmp_path / "old.parquet")
    assert columns.is_sample.all()
    assert np.isnan(columns.output_tokens).all()
    assert columns.total_s.tolist() == [FULL.total_s] * 2
