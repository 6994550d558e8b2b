"""What a run wrote can be read back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fourstage.stages import SampleRecord, UserError
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import find_runs, run_records
from fourstage.tracking.writer import TrackedRun

# mlflow 3.17 with SQLAlchemy 2.1, while it is imported
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

RECORDS = [
    SampleRecord(key="a", sample_id="a", position=0, load_s=0.1, decode_s=1 / 3, token_s=(0.1, 0.2), output_tokens=3),
    SampleRecord(key="b", sample_id="b", position=1, error="broken", error_stage="load"),
]


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Destination:
    """Three runs, a second of MLflow's clock apart or not: `one` finished, `two` failed, `three` still running."""
    destination = Destination(f"sqlite:///{tmp_path_factory.mktemp('runs')}/mlflow.db", None, "study")
    for name, precision in (("one", "bf16"), ("two", "fp16"), ("three", "bf16")):
        run = TrackedRun.start(destination, name, {"precision": precision}, {"fourstage.valid": "true"})
        run.log_metrics({"total_s.mean": 1.5})
        if name == "one":
            run.log_results(RECORDS)
            run.end("FINISHED")
        if name == "two":
            run.end("FAILED")
        time.sleep(0.01)  # the order of runs is by milliseconds
    return destination


def test_runs_come_newest_first(destination: Destination) -> None:
    assert [run.name for run in find_runs(destination)] == ["three", "two", "one"]
    assert [run.name for run in find_runs(destination, newest=2)] == ["three", "two"]
    assert find_runs(destination, newest=0) == []


def test_the_facts_of_a_run_are_those_written(destination: Destination) -> None:
    run = find_runs(destination)[-1]
    assert run.status == "FINISHED"
    assert run.params == {"precision": "bf16"}
    assert run.metrics == {"total_s.mean": 1.5}
    assert run.tags["fourstage.valid"] == "true"
    assert abs(run.started_unix_s - time.time()) < 600


def test_runs_can_be_filtered(destination: Destination) -> None:
    found = find_runs(destination, "params.precision = 'bf16' AND attributes.status = 'FINISHED'")
    assert [run.name for run in found] == ["one"]


def test_a_filter_that_cannot_be_understood_is_one_line(destination: Destination) -> None:
    with pytest.raises(UserError) as caught:
        find_runs(destination, "precision is bf16")
    assert "\n" not in str(caught.value)


def test_records_are_read_back_exactly(destination: Destination) -> None:
    assert run_records(destination, find_runs(destination)[-1].run_id) == RECORDS


def test_a_run_without_records_says_so(destination: Destination) -> None:
    running = find_runs(destination, newest=1)[0]
    with pytest.raises(UserError, match=r"is RUNNING and has no records\.parquet"):
        run_records(destination, running.run_id)


def test_an_unknown_run_says_so(destination: Destination) -> None:
    with pytest.raises(UserError, match="Run with id=0000 not found"):
        run_records(destination, "0000")


def test_a_missing_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        find_runs(Destination(f"sqlite:///{tmp_path}/mlflow.db", None, "study"))
