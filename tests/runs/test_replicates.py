"""Replicates: fresh processes of one configuration, in turn with those of others, and what they leave is one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fourstage.records.columns import Columns
from fourstage.records.summary import summarise_run
from fourstage.runs import replicates
from fourstage.runs.replicate import measure_replicate
from fourstage.runs.replicates import Request
from fourstage.tracking.reader import RunFacts, children_of, find_runs, run_file, run_records, run_samples
from fourstage.tracking.store import Destination, open_store
from tests.small import SMALL, Run, into, jobs_since, on


@pytest.fixture(autouse=True)
def _noise_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourstage.trust.checks.times.EXPLAINED_LIMIT", 1e6)
    monkeypatch.setattr("fourstage.trust.checks.times.UNACCOUNTED_LIMIT", 1e6)
    monkeypatch.setattr("fourstage.trust.checks.times.DRIFT_LIMIT", 1e6)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Measure replicates in this process, which saves the imports; those in `dying` leave nothing, as after kill -9."""
    began: list[int] = []

    def replace(*dying: int, before: Callable[[int], None] = lambda _: None) -> list[int]:
        def measured(request: Request) -> int:
            began.append(request.number)
            before(request.number)
            return -9 if request.number in dying else measure_replicate(request)

        monkeypatch.setattr(replicates, "run_fresh", measured)
        return began

    return replace


def test_processes_take_turns_and_leave_one_run_for_each_configuration(
    run: Run, store: Destination, dataset: Path
) -> None:
    before = len(find_runs(store))
    words = [*on(dataset), "-m", "model=eventgpt,videollava", "replicates=2", "dataset.limit=2", "tracking.traces=9"]
    assert run(*words)[0] == 0
    made = jobs_since(store, before)
    records = {facts.params["model.name"]: run_records(store, facts.run_id) for facts in made}
    turns = [(r.started_unix_s, model, r.replicate) for model, of_run in records.items() for r in of_run]
    assert list(dict.fromkeys((model, replicate) for _, model, replicate in sorted(turns))) == [
        ("eventgpt", 0), ("videollava", 0), ("videollava", 1), ("eventgpt", 1),
    ]  # fmt: skip
    for facts in made:
        own = records[facts.params["model.name"]]
        assert [(r.position, r.replicate, r.repeat) for r in own] == [(0, 0, 0), (1, 0, 0), (2, 1, 0), (3, 1, 0)]
        assert [r.output_ids for r in own[:2]] == [r.output_ids for r in own[2:]]
        summary = summarise_run(Columns.of(own))
        assert facts.metrics["total_s.median"] == pytest.approx(summary["total_s.median"], rel=1e-3)
        assert [row["replicate"] for row in run_samples(store, facts.run_id)] == [0, 0, 1, 1]
        client, experiment = open_store(store)
        traced = client.search_traces(locations=[experiment], run_id=facts.run_id)
        assert len(traced) == 2  # of one replicate
        assert (facts.metrics["samples_ok"], facts.tags["fourstage.replicates"]) == (4, "2")
        for number in range(2):
            machine = json.loads(run_file(store, facts, f"replicates/{number:03d}/environment.json"))
            assert machine["torch_threads"] == json.loads(run_file(store, facts, "environment.json"))["torch_threads"]
            assert json.loads(run_file(store, facts, f"replicates/{number:03d}/checks.json"))["checks"]


def checks_of(store: Destination, facts: RunFacts) -> dict[str, dict[str, Any]]:
    return {check["id"]: check for check in json.loads(run_file(store, facts, "checks.json"))["checks"]}


def test_a_replicate_that_fails_is_on_the_record_and_the_others_are_measured(
    run: Run, store: Destination, dataset: Path, here: Callable[..., list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    here(1)
    code, facts = run(*on(dataset), "replicates=3", "dataset.limit=1")
    assert facts is not None
    assert (code, facts.status, facts.tags["fourstage.valid"]) == (1, "FAILED", "false")
    assert [record.replicate for record in run_records(store, facts.run_id)] == [0, 2]
    why = "replicate 2 of 3: its process ended with -9"
    assert facts.tags["fourstage.replicates_failed"] == why
    assert f"error: {why}" in capsys.readouterr().err
    measured = checks_of(store, facts)["replicates_measured"]
    assert (measured["verdict"], measured["value"], measured["limit"]) == ("fail", 2, 3)


def test_a_resumed_sweep_measures_the_missing_replicates_only(
    run: Run, store: Destination, dataset: Path, here: Callable[..., list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*on(dataset), "-m", "seed=3", "replicates=3", "sweep.name=missing", "dataset.limit=1"]
    here(1)
    assert run(*words)[0] == 1
    began = here()
    began.clear()
    assert run(*words, "sweep.resume=true")[0] == 0
    assert began == [1]
    assert "2 replicates are there" in capsys.readouterr().err
    (facts,) = children_of(store, parent_of(store, "missing").run_id)
    assert (facts.status, facts.tags["fourstage.replicates"]) == ("FINISHED", "3")
    assert facts.tags["fourstage.replicates_failed"] == "none"
    assert [record.replicate for record in run_records(store, facts.run_id)] == [0, 1, 2]


def test_more_replicates_are_measured_anew_and_as_many_are_skipped(
    run: Run, store: Destination, dataset: Path, here: Callable[..., list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*on(dataset), "-m", "seed=4", "sweep.name=more", "dataset.limit=1", "sweep.resume=true"]
    began = here()
    assert run(*words, "replicates=2")[0] == 0
    assert run(*words, "replicates=2")[0] == 0
    assert began == [0, 1]
    assert run(*words, "replicates=3")[0] == 0
    assert began == [0, 1, 0, 1, 2]
    assert "has 2 replicates, 3 are asked for: measured anew" in capsys.readouterr().err


def test_a_replicate_of_other_code_is_no_part_of_the_run(
    run: Run, store: Destination, dataset: Path, here: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    began = here()
    monkeypatch.setattr(replicates, "code_changed", lambda _: len(began) > 1)  # while the second was measured
    code, facts = run(*on(dataset), "replicates=3", "dataset.limit=1")
    assert facts is not None
    assert (code, facts.status, began) == (1, "FAILED", [0, 1])
    assert [record.replicate for record in run_records(store, facts.run_id)] == [0]
    assert "replicate 2 of 3: the code that measures changed" in facts.tags["fourstage.replicates_failed"]


def test_ctrl_c_keeps_the_records_of_the_replicates_so_far(
    run: Run, store: Destination, dataset: Path, here: Callable[..., list[int]]
) -> None:
    def interrupt(number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt

    here(before=interrupt)
    code, facts = run(*on(dataset), "replicates=3", "dataset.limit=2")
    assert facts is not None
    assert (code, facts.status) == (130, "KILLED")
    assert [record.replicate for record in run_records(store, facts.run_id)] == [0, 0]


def test_kill_9_in_the_second_replicate_leaves_the_first_to_the_resumed_sweep(
    run: Run, store: Destination, dataset: Path, tmp_path: Path, here: Callable[..., list[int]]
) -> None:
    words = [*on(dataset), "-m", "seed=5", "replicates=2", "sweep.name=struck", "dataset.limit=1"]
    command = [sys.executable, "-m", "fourstage.run", *into(store), *SMALL, "sweep.compare=false", *words]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    second = wait_for(lambda: next(tmp_path.glob("mlruns/hydra/*/*/0/replicates/001/run.json"), None))
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    child = int(json.loads(second.read_text())["process"]["pid"])
    wait_for(lambda: not alive(child))  # it ends with the process that asked
    (first,) = [json.loads(line) for line in (second.parents[1] / "000/journal.jsonl").read_text().splitlines()]
    began = here()
    assert run(*words, "sweep.resume=true")[0] == 0
    assert began == [1]
    (facts,) = children_of(store, parent_of(store, "struck").run_id)
    records = run_records(store, facts.run_id)
    assert [record.replicate for record in records] == [0, 1]
    assert records[0].started_unix_s == first["started_unix_s"]


def parent_of(store: Destination, sweep: str) -> RunFacts:
    return find_runs(store, f"tags.`fourstage.role` = 'parent' and attributes.run_name = '{sweep}'", newest=1)[0]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(look: Callable[[], Any], limit_s: float = 120) -> Any:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError(f"nothing came in {limit_s} s")
