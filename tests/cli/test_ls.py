"""`fourstage ls` shows runs and sweeps, newest first, and filters by any setting."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fourstage.cli import ls
from fourstage.comparison.filters import matching
from fourstage.config.values import SettingError
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import RunFacts
from tests.small import Run, finished


def facts(name: str, status: str = "FINISHED", **params: str) -> RunFacts:
    return RunFacts(name, name, status, 0.0, {f"{key}": value for key, value in params.items()}, {}, {})


RUNS = [
    facts("a", temperature="0.0"),
    facts("b", temperature="0.7"),
    facts("night-1", status="FAILED", temperature="0.7"),
]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["a", "b", "night-1"]),
        ({"temperature": "0"}, ["a"]),  # numbers are equal as numbers
        ({"temperature": "0.70", "status": "finished"}, ["b"]),
        ({"name": "night*"}, ["night-1"]),
        ({"name": "none"}, []),
    ],
)
def test_filters_choose_by_any_setting(filters: dict[str, str], names: list[str]) -> None:
    assert [run.name for run in matching(RUNS, filters)] == names


def test_a_sweep_is_listed_once_where_another_one_ran_at_the_same_time() -> None:
    pairs = [("d", "one"), ("c", "two"), ("alone", ""), ("b", "one"), ("a", "two")]  # newest first
    runs = [replace(facts(name), tags={"mlflow.parentRunId": parent} if parent else {}) for name, parent in pairs]
    assert [run.name for run in ls._by_sweep(runs)] == ["d", "b", "c", "a", "alone"]


def test_a_key_that_no_run_has_is_refused() -> None:
    with pytest.raises(SettingError, match="no run has 'temprature'; did you mean 'temperature'"):
        matching(RUNS, {"temprature": "0"})


def test_runs_and_sweeps_are_listed_with_their_figures(
    run: Run, store: Destination, capsys: pytest.CaptureFixture[str]
) -> None:
    single = finished(run("run_name=alone"))
    code, _ = run("-m", "model=eventgpt,videollava", "sweep.name=pair")
    assert code == 0
    capsys.readouterr()
    assert ls.main([f"uri={store.uri}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    where = {name: next(i for i, line in enumerate(lines) if name in line) for name in ("pair", "videollava-", "alone")}
    assert where["pair"] < where["videollava-"] < where["alone"]  # newest first, a sweep's runs under it
    assert single.run_id[:8] in lines[where["alone"]]
    assert " ms " in lines[where["alone"]]
    assert ls.main([f"uri={store.uri}", "model=videollava"]) == 0
    assert "alone" not in capsys.readouterr().out
    assert ls.main([f"uri={store.uri}", "limit=1"]) == 0
    assert capsys.readouterr().out.endswith("2 more: limit=0 shows all\n")
    assert ls.main([f"uri={store.uri}", "model=other"]) == 2
    assert capsys.readouterr().err == "error: no run fits\n"
