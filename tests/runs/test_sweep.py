"""Sweeps: one parent, many runs, nothing lost and nothing done twice."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from fourstage.cli.run import main
from fourstage.cli.sync import main as sync
from fourstage.runs.outcome import Outcome
from fourstage.runs.sweep import summary
from fourstage.stages import SampleRecord
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import RunFacts, children_of, find_runs, run_records
from fourstage.tracking.store import open_store
from fourstage.tracking.writer import PER_SAMPLE
from tests.small import SIZE, SMALL, Run, into, jobs_since, on

WARM = "protocol.warmup=1"  # without warm-up a half-done run is measured anew


@pytest.fixture(autouse=True)
def _noise_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine makes no run of a few tokens invalid here: whether it is measured again depends on that."""
    monkeypatch.setattr("fourstage.trust.checks.times.EXPLAINED_LIMIT", 1e6)
    monkeypatch.setattr("fourstage.trust.checks.times.UNACCOUNTED_LIMIT", 1e6)


def test_a_job_that_ended_without_a_reason_is_listed_without_one() -> None:
    outcomes = {0: Outcome("KILLED", "night"), 1: Outcome("FAILED", "day", why="no such file")}
    assert list(summary("pair", outcomes)) == [
        "sweep pair: 1 killed, 1 failed",
        "  job 0 KILLED night",
        "  job 1 FAILED day: no such file",
    ]


def parent_of(store: Destination, sweep: str = "") -> RunFacts:
    """The newest sweep's parent, or the one of a name."""
    named = f" and attributes.run_name = '{sweep}'" if sweep else ""
    return find_runs(store, f"tags.`fourstage.role` = 'parent'{named}", newest=1)[0]


def artifact(store: Destination, run_id: str, name: str) -> str:
    client, _ = open_store(store)
    return Path(client.download_artifacts(run_id, name)).read_text()


def table(store: Destination, run_id: str, name: str) -> list[dict[str, Any]]:
    found = json.loads(artifact(store, run_id, name))
    return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]


def ids(store: Destination, run: RunFacts) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(record.key, record.repeat, record.output_ids) for record in run_records(store, run.run_id)]


# ---- parent and children ----


def test_a_sweep_is_a_parent_with_a_nested_run_for_each_job(run: Run, store: Destination, dataset: Path) -> None:
    before = len(find_runs(store))
    assert run(*on(dataset), "-m", "model=eventgpt,videollava", "seed=1,2")[0] == 0
    parent, jobs = parent_of(store), jobs_since(store, before)
    assert (parent.name, parent.status) == ("model+seed", "FINISHED")
    assert parent.params["model"] == "eventgpt,videollava"
    assert [job.tags["mlflow.parentRunId"] for job in jobs] == [parent.run_id] * 4
    assert len({job.name for job in jobs}) == 4
    assert [row["state"] for row in table(store, parent.run_id, "jobs.json")] == ["FINISHED"] * 4
    assert all(row["total_s"] > 0 for row in table(store, parent.run_id, "jobs.json"))
    texts = table(store, parent.run_id, "samples.json")  # one row a sample, each run's answer a column
    assert len(texts) == 3
    for job in jobs:
        answers = {record.key: record.output for record in run_records(store, job.run_id)}
        assert {row["sample"]: row[job.name] for row in texts} == answers
    tables = {table["path"] for table in json.loads(parent.tags["mlflow.loggedArtifacts"]) if table["type"] == "table"}
    assert tables == {"jobs.json", "samples.json"}


def test_two_jobs_with_the_same_settings_are_run_once(
    run: Run, store: Destination, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(find_runs(store))
    assert run(*on(dataset), "-m", "seed=1,2,1")[0] == 0
    assert [job.params["seed"] for job in jobs_since(store, before)] == ["1", "2"]
    assert "job 2: not run, the same settings as job 0, run once" in capsys.readouterr().err


def test_a_sweeps_settings_without_a_sweep_are_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sweep.resume=true")[0] == 2
    assert "error: sweep.resume=true is about the runs of a sweep: add -m" in capsys.readouterr().err


def test_sweeps_that_begin_in_one_second_have_names_of_their_own(
    run: Run, store: Destination, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourstage.runs.sweep.time", SimpleNamespace(strftime=lambda _: "20261127-120000"))
    for _ in range(2):
        assert run(*on(dataset), "-m", "seed=1", "sweep.name=twins", "dataset.limit=1")[0] == 0
    names = {run.tags["fourstage.sweep"] for run in find_runs(store, "attributes.run_name = 'twins'")}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            MlflowException("the store broke\nmore"),
            1,
            "error: the sweep cannot begin: MlflowException: the store broke",
        ),
        (OSError(28, "No space left on device"), 2, "error: the sweep cannot begin: OSError: [Errno 28] No space left"),
        (KeyError("ours"), 1, "error: the sweep cannot begin: KeyError: 'ours'"),
    ],
)
def test_a_fault_before_the_first_job_is_said_and_nothing_runs(
    error: Exception,
    code: int,
    line: str,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fault(*_: object) -> None:
        raise error

    monkeypatch.setattr("fourstage.runs.sweep.begin", fault)
    assert run("-m", "seed=1,2")[0] == code
    err = capsys.readouterr().err
    assert line in err
    assert "add -m" not in err
    assert ("Traceback" in err) == isinstance(error, KeyError)  # a fault of ours is told whole


# ---- failing jobs ----


def test_a_job_whose_folder_cannot_be_made_is_a_failed_child_and_the_others_go_on(
    run: Run, store: Destination, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(find_runs(store))
    (tmp_path / "named").mkdir()
    (tmp_path / "named/0").write_text("a file is in the way")
    assert run(*on(dataset), "-m", "seed=1,2", "hydra.sweep.dir=named", "dataset.limit=1")[0] == 1
    bad, good = jobs_since(store, before)
    assert (bad.status, good.status) == ("FAILED", "FINISHED")
    assert "File exists" in bad.tags["fourstage.error"]
    assert "1 failed, 1 finished" in capsys.readouterr().err


def test_a_job_that_can_leave_nothing_stops_no_other(
    run: Run, store: Destination, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fourstage.tracking.folder import RunFolder

    real = RunFolder.begin

    def full(path: Path, *words: Any, **more: Any) -> RunFolder:
        if path.name in ("0", "job-0"):
            raise OSError(28, "No space left on device")
        return real(path, *words, **more)

    monkeypatch.setattr(RunFolder, "begin", full)
    before = len(find_runs(store))
    assert run(*on(dataset), "-m", "seed=1,2", "dataset.limit=1")[0] == 1
    assert [job.params["seed"] for job in jobs_since(store, before)] == ["2"]
    assert "job 0 leaves no run" in capsys.readouterr().err


@pytest.mark.parametrize("isolate", ["false", "true"])
def test_a_failing_job_is_a_failed_child_with_its_traceback_and_the_others_go_on(
    isolate: str, run: Run, store: Destination, dataset: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = len(find_runs(store))
    words = ["-m", "weights=pretrained,demo", f"sweep.isolate={isolate}", "dataset.limit=1"]
    assert run(*on(dataset), *words)[0] == 1
    bad, good = jobs_since(store, before)
    assert (bad.status, good.status) == ("FAILED", "FINISHED")
    assert "UserError" in artifact(store, bad.run_id, "traceback.txt")
    assert "weights.path" in bad.tags["fourstage.error"]
    parent = parent_of(store)
    assert parent.status == "FAILED"
    assert [row["state"] for row in table(store, parent.run_id, "jobs.json")] == ["FAILED", "FINISHED"]
    told = capfd.readouterr().err.strip().splitlines()
    assert any("1 failed, 1 finished" in line for line in told)
    assert any("job 0 FAILED" in line and "weights.path" in line for line in told)


def test_running_out_of_memory_fails_one_job(
    run: Run, store: Destination, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from fourstage.models import loaded as kept

    real = kept.load_pipeline

    def small(config: Any) -> Any:
        if config.precision == "fp32":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 14 GiB")
        return real(config)

    monkeypatch.setattr(kept, "load_pipeline", small)
    before = len(find_runs(store))
    assert run(*on(dataset), "-m", "precision=fp32,bf16")[0] == 1
    bad, good = jobs_since(store, before)
    assert (bad.status, good.status) == ("FAILED", "FINISHED")
    assert "Tried to allocate" in artifact(store, bad.run_id, "traceback.txt")


def test_a_stage_that_raises_leaves_its_traceback(
    run: Run, store: Destination, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fourstage.models.eventgpt import Model as EventGPT

    def broken(*_: object) -> None:
        raise RuntimeError("the tower fell")

    monkeypatch.setattr(EventGPT, "visual_features", broken)
    before = len(find_runs(store))
    assert run(*on(dataset), "-m", "model=eventgpt,videollava")[0] == 1
    bad, good = jobs_since(store, before)
    assert (bad.status, good.status) == ("FAILED", "FINISHED")
    assert "the tower fell" in artifact(store, bad.run_id, "tracebacks.txt")


# ---- one loaded model ----


def test_a_reused_model_gives_the_ids_of_a_fresh_one(run: Run, store: Destination, dataset: Path) -> None:
    before = len(find_runs(store))
    words = [*on(dataset), "temperature=1.0", "max_new_tokens=12"]
    assert run(*words, "-m", "seed=3,4")[0] == 0
    _, reused = jobs_since(store, before)
    assert reused.tags["fourstage.reused_model"] == "true"
    assert reused.metrics["load_model_s"] == 0
    code, fresh = run(*words, "seed=4")
    assert code == 0
    assert fresh is not None
    assert fresh.tags["fourstage.reused_model"] == "false"
    assert ids(store, fresh) == ids(store, reused)


def test_jobs_that_share_a_model_run_one_after_the_other(run: Run, store: Destination, dataset: Path) -> None:
    before = len(find_runs(store))
    assert run(*on(dataset), "-m", "seed=1,2", "model=eventgpt,videollava", "dataset.limit=1")[0] == 0
    made = sorted(jobs_since(store, before), key=lambda facts: facts.started_unix_s)
    assert [facts.params["model.name"] for facts in made] == ["eventgpt", "eventgpt", "videollava", "videollava"]


# ---- resume ----


def test_resume_skips_what_is_finished_and_valid_and_runs_only_what_is_new(
    run: Run, store: Destination, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*on(dataset), "-m", "sweep.name=grows", "dataset.limit=1"]
    assert run(*words, "seed=1,2")[0] == 0
    first = children_of(store, parent_of(store, "grows").run_id)
    capsys.readouterr()
    assert run(*words, "seed=3,1,2", "sweep.resume=true")[0] == 0  # other numbers for the same jobs
    err = capsys.readouterr().err
    assert "job 1: skipped" in err
    assert "job 2: skipped" in err
    after = children_of(store, parent_of(store, "grows").run_id)
    assert sorted(facts.params["seed"] for facts in after) == ["1", "2", "3"]
    assert {facts.run_id for facts in first} < {facts.run_id for facts in after}


def interrupted_after(monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    """Ctrl-C comes when so many samples are on record."""
    from fourstage.records.table import Journal

    real, count = Journal.append, [0]

    def append(self: Journal, record: SampleRecord) -> None:
        real(self, record)
        count[0] += 1
        if count[0] == samples:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", append)


def test_ctrl_c_ends_the_running_job_and_the_sweep_as_killed_and_resume_goes_on_at_the_first_missing_sample(
    run: Run, store: Destination, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*on(dataset), WARM, "-m", "seed=11,12", "sweep.name=stopped", "temperature=1"]
    with monkeypatch.context() as patched:
        interrupted_after(patched, samples=5)  # of six
        assert run(*words)[0] == 130
    parent = parent_of(store, "stopped")
    assert parent.status == "KILLED"
    half, whole = children_of(store, parent.run_id)
    assert (whole.status, half.status) == ("FINISHED", "KILLED")
    assert len(run_records(store, half.run_id)) == 2
    capsys.readouterr()
    assert run(*words, "sweep.resume=true")[0] == 0
    err = capsys.readouterr().err
    assert "job 0: skipped" in err
    assert "2 records are there" in err
    after = {facts.run_id: facts for facts in children_of(store, parent.run_id)}
    assert set(after) == {half.run_id, whole.run_id}
    assert {facts.status for facts in after.values()} == {"FINISHED"}
    assert after[half.run_id].tags["fourstage.continued_at"] == "2"
    records = run_records(store, half.run_id)
    assert [record.position for record in records] == [0, 1, 2]
    code, undisturbed = run(*on(dataset), WARM, "seed=12", "temperature=1")
    assert code == 0
    assert undisturbed is not None
    assert ids(store, undisturbed) == ids(store, after[half.run_id])
    client, _ = open_store(store)
    assert len(client.get_metric_history(half.run_id, "total_s")) == 3  # nothing twice
    assert len(table(store, half.run_id, "samples.json")) == 3


def test_ctrl_c_twice_and_resume_leave_one_value_of_each_figure(
    run: Run, store: Destination, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*on(dataset), WARM, "-m", "seed=13,14", "sweep.name=twice", "sweep.resume=true", "dataset.limit=2"]
    for samples in (1, 1):
        with monkeypatch.context() as patched:
            interrupted_after(patched, samples)
            assert run(*words)[0] == 130
        err = capsys.readouterr().err
        assert "1 killed, 1 not started" in err
        assert "job 1 " not in err  # it is no failure
    assert run(*words)[0] == 0
    client, _ = open_store(store)
    parent = parent_of(store, "twice")
    children = children_of(store, parent.run_id)
    assert [child.status for child in children] == ["FINISHED"] * 2
    for child in (parent, *children):
        for name in child.metrics.keys() - {figure.per_sample for figure in PER_SAMPLE}:
            values = client.get_metric_history(child.run_id, name)
            assert len({value.step for value in values}) == len(values), name
            assert child is parent or len(values) == 1, name
    assert (parent.metrics["jobs_finished"], parent.metrics["jobs_killed"]) == (2, 0)


def test_a_folder_that_holds_another_job_by_now_is_not_gone_on_with(
    run: Run, store: Destination, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*on(dataset), WARM, "-m", "sweep.name=named", "hydra.sweep.dir=named", "dataset.limit=2", "temperature=1"]
    with monkeypatch.context() as patched:
        interrupted_after(patched, 1)
        assert run(*words, "seed=15")[0] == 130
    assert run(*words, "seed=16,15", "sweep.resume=true")[0] == 0
    assert "holds another run by now" in capsys.readouterr().err
    children = children_of(store, parent_of(store, "named").run_id)
    assert sorted((child.params["seed"], child.status) for child in children) == [
        ("15", "FINISHED"), ("16", "FINISHED"),
    ]  # fmt: skip


def test_a_run_that_cannot_go_on_soundly_is_measured_anew_and_says_why(
    run: Run, store: Destination, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*on(dataset), "-m", "seed=21", "sweep.name=cold"]  # no warm-up
    with monkeypatch.context() as patched:
        interrupted_after(patched, samples=2)
        assert run(*words)[0] == 130
    (half,) = children_of(store, parent_of(store, "cold").run_id)
    assert run(*words, "sweep.resume=true")[0] == 0
    assert "a second cold start would lie among its samples" in capsys.readouterr().err
    (anew,) = children_of(store, parent_of(store, "cold").run_id)
    assert anew.run_id != half.run_id
    assert len(run_records(store, anew.run_id)) == 3


def test_batches_go_on_at_a_whole_one(
    run: Run, store: Destination, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*on(dataset), WARM, "-m", "seed=31", "sweep.name=batches", "batch_size=2", "protocol.repeats=2"]
    with monkeypatch.context() as patched:
        interrupted_after(patched, samples=4)  # three of the first round, and half a batch of the second
        assert run(*words)[0] == 130
    capsys.readouterr()
    assert run(*words, "sweep.resume=true")[0] == 0
    assert "3 records are there" in capsys.readouterr().err


def test_a_sweep_whose_data_changed_is_told_and_begins_anew(
    run: Run, store: Destination, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fourstage.data.formats.demo import JSON_NAME

    words = [*on(root), "-m", "seed=1", "sweep.name=data"]
    assert run(*words)[0] == 0
    first = parent_of(store, "data")
    listed = json.loads((root / JSON_NAME).read_text())
    (root / JSON_NAME).write_text(json.dumps(listed[:2]))
    assert run(*words, "sweep.resume=true")[0] == 0
    assert "the dataset changed since sweep data-" in capsys.readouterr().err
    second = parent_of(store, "data")
    assert second.run_id != first.run_id
    assert len(children_of(store, first.run_id)) == 1  # as it was


def test_data_that_changed_at_equal_size_is_a_new_sweep(
    run: Run, store: Destination, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*on(root), "-m", "seed=1", "sweep.name=bytes", "dataset.limit=1"]
    assert run(*words)[0] == 0
    for file in root.glob("event_npy/**/*.npy"):
        file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    assert run(*words, "sweep.resume=true")[0] == 0
    assert "the dataset changed since sweep bytes-" in capsys.readouterr().err
    assert len(find_runs(store, "attributes.run_name = 'bytes'")) == 2


def test_a_sweep_whose_code_changed_is_told_and_begins_anew(
    run: Run, store: Destination, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*on(dataset), "-m", "seed=1", "sweep.name=code", "dataset.limit=1"]
    assert run(*words)[0] == 0
    first = parent_of(store, "code")
    for module in ("fourstage.runs.sweep", "fourstage.runs.takeover", "fourstage.runs.identity"):
        monkeypatch.setattr(f"{module}.code_hash", lambda: "0123456789abcdef")
    assert run(*words, "sweep.resume=true")[0] == 0
    assert "the code changed since sweep code-" in capsys.readouterr().err
    assert parent_of(store, "code").run_id != first.run_id


def test_a_parent_that_was_deleted_in_the_ui_is_told(
    run: Run, store: Destination, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*on(dataset), "-m", "seed=1", "sweep.name=deleted", "dataset.limit=1"]
    assert run(*words)[0] == 0
    gone = parent_of(store, "deleted")
    client, _ = open_store(store)
    client.delete_run(gone.run_id)
    assert run(*words, "sweep.resume=true")[0] == 0
    assert f"mlflow runs restore --run-id {gone.run_id} brings it back" in capsys.readouterr().err
    assert parent_of(store, "deleted").status == "FINISHED"


def test_a_sweep_that_still_runs_is_not_run_beside_itself(
    run: Run, store: Destination, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fourstage.tracking.folder import Process

    words = [*on(dataset), "-m", "seed=1", "sweep.name=busy", "dataset.limit=1"]
    assert run(*words)[0] == 0
    client, _ = open_store(store)
    parent = parent_of(store, "busy")
    client.update_run(parent.run_id, status="RUNNING")
    client.set_tag(parent.run_id, "fourstage.process", str(Process.this()))
    assert run(*words, "sweep.resume=true")[0] == 2
    assert "still runs in" in capsys.readouterr().err


# ---- processes of their own ----


def test_isolated_jobs_have_processes_of_their_own_and_leave_the_same(
    run: Run, store: Destination, dataset: Path
) -> None:
    before = len(find_runs(store))
    words = [*on(dataset), "-m", "seed=5", "dataset.limit=1"]
    assert run(*words, "sweep.isolate=true")[0] == 0
    (apart,) = jobs_since(store, before)
    assert apart.tags["mlflow.parentRunId"] == parent_of(store).run_id
    assert (apart.tags["fourstage.replicates"], apart.tags["fourstage.reused_model"]) == ("1", "false")
    assert run(*words)[0] == 0
    here = max(jobs_since(store, before), key=lambda facts: facts.started_unix_s)
    assert "fourstage.replicates" not in here.tags
    assert ids(store, here) == ids(store, apart)


def test_ctrl_c_reaches_an_isolated_job_and_leaves_no_orphan(store: Destination, dataset: Path, tmp_path: Path) -> None:
    import psutil

    words = ["-m", "seed=1,2", "sweep.isolate=true", "sweep.name=apart", "protocol.repeats=1000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fourstage.run", *into(store), *SMALL, *on(dataset), *words],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    journal = wait_for(lambda: next(tmp_path.glob("mlruns/hydra/*/*/0/replicates/000/journal.jsonl"), None))
    wait_for(lambda: journal.stat().st_size)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(100) == 130
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    parent = parent_of(store, "apart")
    assert parent.status == "KILLED"
    assert [facts.status for facts in children_of(store, parent.run_id)] == ["KILLED"]


def wait_for(look: Any, limit_s: float = 120) -> Any:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"nothing came in {limit_s} s")


# ---- kill -9 ----


@pytest.mark.timeout(600)
def test_a_sweep_killed_at_any_moment_ends_as_an_undisturbed_one_and_sync_has_nothing_to_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = [f"dataset.{key}={getattr(SIZE, key)}" for key in ("seconds", "width", "height")]
    words = ["-m", "temperature=1", "max_new_tokens=4", "protocol=quick", WARM, "dataset.samples=2"]
    words += ["tracking.traces=0", "sweep.compare=false", "protocol.audit=false"]
    found = subprocess.run(
        [sys.executable, "-m", "tests.killed_sweep", *words, *demo],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    killed: dict[str, tuple[str, int]] = json.loads(found.stdout)
    assert len(killed) >= 12
    monkeypatch.chdir(tmp_path)
    assert sync([]) == 0
    err = capsys.readouterr().err
    assert "nothing to send" in err, err
    store = Destination("sqlite:///mlruns/mlflow.db", None, "fourstage")
    with sqlite3.connect("mlruns/mlflow.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert {run.status for run in find_runs(store)} == {"FINISHED"}
    assert len(find_runs(store, "tags.`fourstage.role` = 'parent'")) == 2 + len(killed)
    assert len(children_of(store, parent_of(store, "together").run_id)) == 1  # begun twice at once, run once
    whole = {facts.params["seed"]: facts for facts in children_of(store, parent_of(store, "whole").run_id)}
    assert set(whole) == {"1", "2"}
    client, _ = open_store(store)
    for name, (moment, jobs) in killed.items():
        children = children_of(store, parent_of(store, name).run_id)
        assert sorted(child.params["seed"] for child in children) == ["1", "2"][:jobs], moment
        for child in children:
            assert ids(store, child) == ids(store, whole[child.params["seed"]]), moment
            assert len(client.get_metric_history(child.run_id, "total_s.median")) == 1, moment


# ---- a store with many runs ----


def test_ten_thousand_runs_do_not_slow_a_new_sweep(run: Run, tmp_path: Path, dataset: Path) -> None:
    from fourstage.runs.resume import find_earlier  # noqa: F401  # imported before the clock starts

    full = Destination(f"sqlite:///{tmp_path}/full.db", str(tmp_path / "artifacts"), "fourstage")
    _, experiment = open_store(full)
    words = [*SMALL, *into(full), *on(dataset), "-m", "sweep.name=many", "dataset.limit=1", "tracking.traces=0"]
    words += ["sweep.compare=false"]

    def seconds(seed: int) -> float:
        start = time.perf_counter()
        assert main([*words, f"seed={seed}", "sweep.resume=true"]) == 0
        return time.perf_counter() - start

    seconds(0)
    empty = min(seconds(seed) for seed in (1, 2, 3))
    with sqlite3.connect(tmp_path / "full.db") as database:
        for number in range(10_000):
            run_id = f"{number:032x}"
            database.execute(
                "INSERT INTO runs (run_uuid, name, source_type, user_id, status, start_time, end_time, "
                "lifecycle_stage, artifact_uri, experiment_id) "
                "VALUES (?, ?, 'LOCAL', 'me', 'FINISHED', ?, ?, 'active', ?, ?)",
                (run_id, f"run{number}", number, number + 1, f"{tmp_path}/artifacts/{run_id}", int(experiment)),
            )
            tags = {"fourstage.settings_hash": f"{number:016x}", "fourstage.sweep": "old", "mlflow.parentRunId": "old"}
            database.executemany("INSERT INTO tags (run_uuid, key, value) VALUES (?, ?, ?)",
                                 [(run_id, key, value) for key, value in tags.items()])  # fmt: skip
            database.executemany(
                "INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan) VALUES (?, ?, ?, 0, 0, 0)",
                [(run_id, f"metric{i}", float(i)) for i in range(10)],
            )
    crowded = min(seconds(seed) for seed in (4, 5, 6))
    assert len(find_runs(full)) > 10_000
    assert crowded - empty < 0.5
