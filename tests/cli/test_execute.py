"""A run and a sweep from Python: what they give back, and what they raise."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fourstage.cli.run import execute
from fourstage.config.values import SettingError
from fourstage.stages import UserError
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import find_runs
from tests.small import SMALL, into, on


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_gives_its_outcome(store: Destination, dataset: Path) -> None:
    before = list(sys.argv)
    done = execute([*into(store), *SMALL, *on(dataset), "dataset.limit=1"])
    (outcome,) = done.outcomes
    assert (done.code, done.sweep, outcome.status, outcome.delivered) == (0, None, "FINISHED", True)
    assert outcome.run_id in {run.run_id for run in find_runs(store)}
    assert Path(outcome.folder, "run.json").is_file()
    assert outcome.metrics["samples_ok"] == 1
    assert sys.argv == before


def test_a_sweep_gives_the_outcome_of_each_job_and_of_none_less(store: Destination, dataset: Path) -> None:
    words = ["-m", "sweep.compare=false", "dataset.limit=1", "device=cpu,cuda:9"]
    done = execute([*into(store), *SMALL, *on(dataset), *words])
    assert [outcome.status for outcome in done.outcomes] == ["FINISHED", "FAILED"]
    assert "cuda" in done.outcomes[1].why
    assert all(outcome.run_id for outcome in done.outcomes)
    assert done.code == 1
    assert done.parent in {run.run_id for run in find_runs(store) if run.tags.get("fourstage.sweep") == done.sweep}


def test_what_the_user_can_mend_is_raised(store: Destination, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="unknown"):
        execute(["model=eventgtp"])
    with pytest.raises(UserError, match="nowhere"):
        execute([*into(store), *SMALL, "dataset=eventgpt_json", f"dataset.root={tmp_path}/nowhere"])
    with pytest.raises(UserError, match="add -m"):
        execute([*into(store), *SMALL, "sweep.resume=true"])


def test_a_second_command_has_nothing_of_the_first(store: Destination, dataset: Path) -> None:
    words = [*into(store), *SMALL, *on(dataset), "dataset.limit=1"]
    first, second = execute(words), execute(words)
    assert len(second.outcomes) == 1
    assert first.outcomes[0].run_id != second.outcomes[0].run_id
