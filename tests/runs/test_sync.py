"""What a store does not take is kept and delivered later: nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from fourstage.cli.run import main
from fourstage.cli.sync import main as sync
from fourstage.records.table import Journal, write_records
from fourstage.stages import SampleRecord, UserError
from fourstage.tracking.deliver import announce, deliver
from fourstage.tracking.destination import Destination
from fourstage.tracking.folder import Process, RunFolder
from fourstage.tracking.reader import children_of, find_runs, run_records
from fourstage.tracking.store import open_store
from fourstage.tracking.writer import TrackedRun
from tests.servers import free_port, mlflow_server
from tests.small import SMALL, Run, on
from tests.tracking.test_writer import RECORDS


def folder_of(path: Path, store: Destination, name: str = "kept") -> RunFolder:
    """A run that ended, as it lies on disk before the store has heard of it."""
    made = RunFolder.begin(path, store, name, {"seed": 1}, {"fourstage.valid": "true"}, traces=2)
    made.change(dataset={"name": "demo", "digest": "0123", "source": "/data", "samples": 3})
    made.add_metrics({"total_s.median": 2.5})
    made.add_file("config.yaml", "seed: 1\n")
    write_records(RECORDS, made.records)
    made.end("FINISHED")
    return made


def check_whole(store: Destination, name: str, ids: int = 1) -> None:
    """The store has the run once, with each thing once."""
    client, experiment = open_store(store)
    found = find_runs(store, f"attributes.run_name = '{name}'")
    assert len(found) == ids
    for run in found:
        assert run.status == "FINISHED"
        assert "fourstage.undelivered" not in run.tags
        assert [m.value for m in client.get_metric_history(run.run_id, "total_s.median")] == [2.5]
        assert len(client.get_metric_history(run.run_id, "stage4_decode_s")) == 2
        assert run_records(store, run.run_id) == RECORDS
        assert {"config.yaml", "records.parquet", "samples.json", "plots"} <= {
            file.path for file in client.list_artifacts(run.run_id)
        }
        assert len(client.get_run(run.run_id).inputs.dataset_inputs) == 1
        traces = client.search_traces(locations=[experiment], run_id=run.run_id)
        assert sorted(len(trace.data.spans) for trace in traces) == [6, 6]


SENT = ("params", "tags", "metrics", "dataset", "folder", "samples", "results", "traces")


@pytest.mark.parametrize("step", [*(f"log_{what}" for what in SENT), "end"])
def test_a_delivery_that_broke_off_anywhere_is_completed_by_the_next(
    step: str, store: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = folder_of(tmp_path / "run", store, f"broken-{step}")
    real = getattr(TrackedRun, step)

    def done_and_lost(self: TrackedRun, *words: Any, **more: Any) -> None:
        real(self, *words, **more)
        raise UserError("the answer was lost")

    with monkeypatch.context() as patched:
        patched.setattr(TrackedRun, step, done_and_lost)
        with suppress(UserError):  # traces alone are no reason to stop
            deliver(made)
    deliver(RunFolder.open(made.path))
    check_whole(store, f"broken-{step}")
    assert RunFolder.open(made.path).state.delivered


def test_a_run_whose_creation_was_not_answered_is_found_again(
    store: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = folder_of(tmp_path / "run", store, "unanswered")
    real = TrackedRun.start

    def lost(*words: Any) -> None:
        real(*words)
        raise UserError("the answer was lost")

    with monkeypatch.context() as patched:
        patched.setattr(TrackedRun, "start", lost)
        with pytest.raises(UserError):
            announce(made)
    assert RunFolder.open(made.path).state.run_id is None
    deliver(RunFolder.open(made.path))
    check_whole(store, "unanswered")


def test_sync_delivers_once_and_says_what_it_did(
    store: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_of(tmp_path / "hydra/day/time/0", store, "late")
    assert sync([f"folder={tmp_path}/hydra"]) == 0
    assert "sent late (FINISHED) as run" in capsys.readouterr().err
    assert sync([f"folder={tmp_path}/hydra"]) == 0
    assert "nothing to send" in capsys.readouterr().err
    check_whole(store, "late")


def test_sync_ends_a_run_whose_process_died_with_what_it_had(
    store: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = RunFolder.begin(tmp_path / "0", store, "dead", {"seed": 1}, {}, traces=0)
    announce(made)
    journal = Journal(made.journal)
    for record in RECORDS[:2]:
        journal.append(record)
    journal.close()
    with made.journal.open("a") as file:
        file.write('{"key": "cut sho')  # kill -9 came here
    assert sync([f"folder={tmp_path}"]) == 0
    assert "still goes on" in capsys.readouterr().err
    assert find_runs(store, "attributes.run_name = 'dead'")[0].status == "RUNNING"
    made.change(process=replace(Process.this(), started_unix_s=1.0))
    assert sync([f"folder={tmp_path}"]) == 0
    (run,) = find_runs(store, "attributes.run_name = 'dead'")
    assert (run.status, run.tags["fourstage.valid"]) == ("KILLED", "false")
    assert run_records(store, run.run_id) == RECORDS[:2]


def test_sync_sends_what_the_replicates_of_a_dead_run_had(store: Destination, tmp_path: Path) -> None:
    made = RunFolder.begin(tmp_path / "0", store, "replicated", {"seed": 1}, {}, traces=0)
    announce(made)
    for number, count in ((0, 2), (1, 1)):  # the second was measuring
        own = RunFolder.begin(made.replicate(number), store, f"replicate {number}", {}, {}, traces=0, delivered=True)
        journal = Journal(own.journal)
        for position, record in enumerate(RECORDS[:count]):
            journal.append(replace(record, position=position, replicate=number))
        journal.close()
    made.change(process=replace(Process.this(), started_unix_s=1.0))
    assert sync([f"folder={tmp_path}"]) == 0
    (run,) = find_runs(store, "attributes.run_name = 'replicated'")
    assert run.status == "KILLED"
    assert [(r.position, r.replicate) for r in run_records(store, run.run_id)] == [(0, 0), (1, 0), (2, 1)]
    assert not find_runs(store, "attributes.run_name LIKE 'replicate %'")  # a replicate is no run of its own


@pytest.mark.parametrize(
    ("words", "message"),
    [(["folder=nowhere"], "no folder nowhere"), (["foldr=x"], "did you mean 'folder'?"), (["x"], "expected key=value")],
)
def test_a_wrong_word_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sync(words) == 2
    err = capsys.readouterr().err.strip()
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_server_that_goes_away_in_the_middle_disturbs_no_measurement_and_gets_all_later(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    backend = f"sqlite:///{tmp_path}/server.db"
    server = mlflow_server(backend, tmp_path, port)
    where = Destination(server.__enter__(), None, "fourstage")
    real, stopped = Journal.append, list[bool]()

    def append(self: Journal, record: SampleRecord) -> None:
        real(self, record)
        if not stopped:
            stopped.append(True)
            server.__exit__(None, None, None)

    monkeypatch.setattr(Journal, "append", append)
    words = ["-m", "tracking=server", f"tracking.uri={where.uri}", *on(dataset), *SMALL, "seed=1,2"]
    assert main(words) == 3
    out, err = capsys.readouterr()
    assert err.count("fourstage sync sends it") >= 3  # both jobs and the parent
    assert out.count("3 ok, 0 failed") == 2
    assert sync(["folder=mlruns/hydra"]) == 3  # it is still away
    with mlflow_server(backend, tmp_path, port):
        assert sync(["folder=mlruns/hydra"]) == 0
        (parent,) = find_runs(where, "tags.`fourstage.role` = 'parent'")
        assert parent.status == "FINISHED"
        children = children_of(where, parent.run_id)
        assert sorted(child.params["seed"] for child in children) == ["1", "2"]
        for child in children:
            assert child.status == "FINISHED"
            assert len(run_records(where, child.run_id)) == 3
        assert sync(["folder=mlruns/hydra"]) == 0
        assert len(find_runs(where)) == 3


def test_what_is_damaged_or_foreign_is_a_line_each_and_the_others_are_sent(
    store: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = folder_of(tmp_path / "h/whole", store, "beside")
    text = (whole.path / "run.json").read_text()
    damaged = {
        "cut": text[: len(text) // 2],
        "empty": "",
        "foreign": '{"name": "another program"}',
        "list": "[1, 2]",
        "number": text.replace('"started_ms": ', '"started_ms": "late", "old": '),
        "types": json.dumps(json.loads(text) | {"started_ms": None}),
        "binary": "\0\1",
    }
    for name, content in damaged.items():
        (tmp_path / "h" / name).mkdir()
        (tmp_path / "h" / name / "run.json").write_text(content)
    (tmp_path / "h/folder/run.json").mkdir(parents=True)
    table = folder_of(tmp_path / "h/table", store, "no-table")
    table.records.write_bytes(b"PAR1")
    assert sync([f"folder={tmp_path}/h"]) == 3
    told = capsys.readouterr().err.splitlines()
    for name in (*damaged, "folder", "table"):
        assert sum(f"h/{name}" in line for line in told) == 1, name
    assert told[-1] == "1 sent, 9 could not be sent"
    check_whole(store, "beside")


def test_a_process_that_died_before_its_first_sample_leaves_a_killed_run_without_records(
    store: Destination, tmp_path: Path
) -> None:
    made = RunFolder.begin(tmp_path / "0", store, "early", {"seed": 1}, {}, traces=0)
    announce(made)
    made.journal.touch()
    made.records.write_bytes(b"PAR1")  # as a file of records begins
    made.change(process=replace(Process.this(), started_unix_s=1.0))
    assert sync([f"folder={tmp_path}"]) == 0
    (run,) = find_runs(store, "attributes.run_name = 'early'")
    assert run.status == "KILLED"


def test_a_job_that_its_sweep_measured_again_is_not_sent(
    store: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = {"mlflow.parentRunId": "p", "fourstage.identity": "i", "fourstage.settings_hash": "s"}
    lost = RunFolder.begin(tmp_path / "lost", store, "lost", {}, tags, traces=0)
    journal = Journal(lost.journal)
    journal.append(RECORDS[0])
    journal.close()
    lost.change(process=replace(Process.this(), started_unix_s=1.0))
    again = RunFolder.begin(tmp_path / "again", store, "again", {}, tags, traces=0)
    again.end("FINISHED")
    deliver(again)
    assert sync([f"folder={tmp_path}"]) == 0
    assert f"its sweep measured this job again, as run {again.state.run_id}" in capsys.readouterr().err
    assert [run.name for run in children_of(store, "p")] == ["again"]


def test_a_folder_whose_run_goes_on_in_another_process_is_not_taken(store: Destination, tmp_path: Path) -> None:
    made = RunFolder.begin(tmp_path, store, "busy", {}, {}, traces=0)
    parent = psutil.Process(os.getppid())
    made.change(process=Process(platform.node(), parent.pid, parent.create_time()))
    with pytest.raises(UserError, match="is the folder of busy, which still runs in"):
        RunFolder.begin(tmp_path, store, "second", {}, {}, traces=0)
    assert RunFolder.open(tmp_path).state.name == "busy"


WRITE = """
import sys
from pathlib import Path
from tests.runs.test_sync import folder_of
from fourstage.tracking.deliver import deliver
from fourstage.tracking.destination import Destination
where = Destination(sys.argv[1], None, "fourstage")
for i in range(3):
    deliver(folder_of(Path(sys.argv[2]) / str(i), where, "crowd"))
"""


def test_four_processes_that_create_and_fill_one_sqlite_store_lose_nothing(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, uri, str(tmp_path / str(i))], cwd=Path(__file__).parents[2])
        for i in range(4)
    ]
    assert [writer.wait(200) for writer in writers] == [0] * 4
    check_whole(Destination(uri, None, "fourstage"), "crowd", ids=12)


def test_a_single_run_without_its_store_is_refused_and_leaves_no_folder(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no database")
    assert main([*SMALL, f"tracking.uri=sqlite:///{tmp_path}/file"]) == 2
    assert not list(tmp_path.glob("mlruns/hydra/**/run.json"))
