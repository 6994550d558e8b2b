"""Runs whose records cannot be used are left out, with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fourstage.comparison.reading import first_records, read_runs
from fourstage.records.columns import Columns
from fourstage.records.table import write_records
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import RunFacts
from tests.builders import timed
from tests.stores import records


def test_of_repeats_the_first_that_succeeded_is_read_and_sentinels_never(tmp_path: Path) -> None:
    made = [
        timed("a", output="watching", role="sentinel"),
        timed("a", error="broken", error_stage="load"),
        timed("a", output="second", repeat=1),
        timed("a", output="third", repeat=2),
        timed("b", error="broken", error_stage="load"),
    ]
    write_records(made, path := tmp_path / "records.parquet")
    found = first_records(Columns.read(path), ["a", "b", "gone"], path)
    assert [(record.key, record.output) for record in found] == [("a", "second"), ("b", None)]


def column(name: str, values: Any) -> Callable[[Path], None]:
    """Write the file again with another column in place of one."""

    def spoil(path: Path) -> None:
        table = pq.read_table(path)
        pq.write_table(table.set_column(table.schema.get_field_index(name), name, values(table)), path)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.unlink(), "FINISHED without records.parquet"),
        (lambda path: path.write_bytes(b""), "its records.parquet cannot be read: Parquet file size is 0 bytes"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "its records.parquet cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-500] + b"\x0f" * 496 + b"PAR1"), "records.parquet"),
        (lambda path: pq.write_table(pa.table({"a": [1]}), path), "has no column position, load_s, "),
        (column("key", lambda table: pa.array(range(len(table)))), "column key holds int64, expected string"),
        (column("load_s", lambda table: pa.array(["x"] * len(table))), "column load_s holds string, expected double"),
        (column("token_s", lambda table: pa.array([1.0] * len(table))), "holds double, expected list"),
        (column("batch_size", lambda table: pa.nulls(len(table), pa.int64())), "a record has no batch_size"),
        (column("batch_size", lambda table: pa.array([0] * len(table))), "a batch of 0 samples: expected 1 or more"),
        (column("load_s", lambda table: pa.array([-1.0] * len(table))), "load_s of clip 0 is -1: expected seconds"),
        (column("total_s", lambda table: pa.array([math.inf] * len(table))), "total_s of clip 0 is inf: expected sec"),
    ],
)
def test_records_that_cannot_be_used_leave_their_run_out_with_the_reason(
    where: Destination, tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    runs = []
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        write_records(records(1, n=3), tmp_path / name / "records.parquet")
        runs.append(RunFacts(f"id-{name}", name, "FINISHED", 0.0, {}, {}, {}, str(tmp_path / name)))
    spoil(tmp_path / "bad" / "records.parquet")
    found, _, (left_out,) = read_runs(where, runs, tmp_path)
    assert [run.name for run in found] == ["good"]
    assert (left_out.name, left_out.run_id) == ("bad", "id-bad")
    assert why in left_out.why
    assert left_out.why.isprintable()


def test_a_run_of_settings_that_are_not_known_is_left_out(where: Destination, tmp_path: Path) -> None:
    write_records(records(1, n=3), tmp_path / "records.parquet")
    run = RunFacts("id", "other", "FINISHED", 0.0, {"cache": "everything"}, {}, {}, str(tmp_path))
    _, _, (left_out,) = read_runs(where, [run], tmp_path)
    assert left_out.why == "unknown cache 'everything' in a run's settings; known are none, frames, tensors"
