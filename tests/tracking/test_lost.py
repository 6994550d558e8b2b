"""What is deleted, locked or full while runs go on costs no more than it must, and one line."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fourstage.cli.run import main
from fourstage.cli.sync import main as sync
from fourstage.records.table import Journal
from fourstage.stages import SampleRecord
from fourstage.tracking.deliver import announce, deliver
from fourstage.tracking.destination import Destination
from fourstage.tracking.folder import RunFolder
from fourstage.tracking.patience import AWAY
from fourstage.tracking.reader import PENDING, children_of, find_runs, run_records
from fourstage.tracking.store import open_store
from fourstage.tracking.writer import TrackedRun
from tests.runs.test_sync import folder_of
from tests.small import SMALL, on
from tests.tracking.test_writer import RECORDS

LOCAL = Destination("sqlite:///mlruns/mlflow.db", None, "fourstage")
QUICK = ["sweep.compare=false", *SMALL]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    os.environ.pop(AWAY, None)


@pytest.fixture
def local(store: Destination, tmp_path: Path) -> Destination:
    """A store in mlruns/ that is there already: making one takes seconds."""
    (tmp_path / "mlruns").mkdir()
    shutil.copy(store.uri.removeprefix("sqlite:///"), tmp_path / "mlruns" / "mlflow.db")
    return LOCAL


@pytest.fixture
def at_first_record(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Do something when the first record of all is written."""

    def plant(action: Callable[[], None]) -> None:
        real, done = Journal.append, list[bool]()

        def append(self: Journal, record: SampleRecord) -> None:
            real(self, record)
            if not done:
                done.append(True)
                action()

        monkeypatch.setattr(Journal, "append", append)

    return plant


def test_a_folder_deleted_during_a_run_is_one_line_and_later_jobs_are_delivered(
    local: Destination,
    dataset: Path,
    at_first_record: Callable[[Callable[[], None]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    at_first_record(lambda: shutil.rmtree("mlruns"))
    assert main(["-m", "seed=1,2", *on(dataset), *QUICK]) == 1
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("error")]
    assert line.endswith("was deleted during the run, and its records with it; run it again")
    (later,) = find_runs(local, "params.seed = '2'")
    assert later.status == "FINISHED"
    assert len(run_records(local, later.run_id)) == 3


def test_a_database_deleted_during_a_sweep_gets_its_runs_and_their_parent_anew(
    local: Destination, dataset: Path, at_first_record: Callable[[Callable[[], None]], None]
) -> None:
    at_first_record(lambda: Path("mlruns/mlflow.db").unlink())
    assert main(["-m", "seed=1,2", *on(dataset), *QUICK]) == 0
    (parent,) = find_runs(local, "tags.`fourstage.role` = 'parent'")
    assert [run.status for run in find_runs(local)] == ["FINISHED"] * 3
    assert sorted(run.params["seed"] for run in children_of(local, parent.run_id)) == ["1", "2"]


def test_a_run_that_the_store_lost_before_it_was_sent_is_made_anew(local: Destination, tmp_path: Path) -> None:
    made = folder_of(tmp_path / "runs" / "0", local, "lost")
    first = announce(made).run_id
    Path("mlruns/mlflow.db").unlink()
    assert sync(["folder=runs"]) == 0
    (run,) = find_runs(local)
    assert (run.name, run.status) == ("lost", "FINISHED")
    assert run.run_id != first
    assert run_records(local, run.run_id) == RECORDS


def test_a_job_whose_parent_the_store_never_had_brings_it(local: Destination, tmp_path: Path) -> None:
    open_store(local)
    parent = RunFolder.begin(tmp_path / "sweep", local, "sweep", {}, {"fourstage.role": "parent"}, 0)
    for number in range(2):
        job = folder_of(tmp_path / "sweep" / str(number), local, f"job {number}")
        job.change(parent=str(parent.path))
        job.add_tags({"mlflow.parentRunId": f"{PENDING}{parent.state.token}"})
        deliver(job)
    parent.end("FINISHED")
    deliver(parent)
    (found,) = find_runs(local, "tags.`fourstage.role` = 'parent'")
    assert found.status == "FINISHED"
    assert sorted(run.name for run in children_of(local, found.run_id)) == ["job 0", "job 1"]
    assert len(children_of(local, f"{PENDING}{parent.state.token}")) == 2


def test_a_run_over_a_locked_database_is_measured_and_kept(
    local: Destination, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = sqlite3.connect("mlruns/mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert main([*on(dataset), *SMALL, "tracking.wait_s=1"]) == 3
    out, err = capsys.readouterr()
    assert "3 ok, 0 failed" in out
    assert len(err.splitlines()) == 2
    assert "permissions" not in err
    holder.execute("ROLLBACK")
    holder.close()
    assert sync([]) == 0
    assert [run.status for run in find_runs(local)] == ["FINISHED"]


def test_a_run_by_a_clock_before_1970_says_so_once_and_is_delivered(
    local: Destination, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 4e9)
    assert main([*on(dataset), *SMALL]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "1970" in line]
    assert line.startswith("warning: this machine's clock is before 1970: its times are not stored; ")
    (run,) = find_runs(local)
    assert (run.status, run.tags["fourstage.clock"]) == ("FINISHED", "before 1970: its times are not stored")
    assert len(run_records(local, run.run_id)) == 3


def test_a_server_that_answers_everything_with_success_does_not_count_as_delivered(
    local: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = folder_of(tmp_path / "runs" / "0", local, "swallowed")
    monkeypatch.setattr(TrackedRun, "end", lambda *_: None)
    assert sync(["folder=runs"]) == 3
    assert not RunFolder.open(made.path).state.delivered
    assert made.records.exists()
