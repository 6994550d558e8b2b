"""`fourstage aa` measures the noise floor; `fourstage plan` says from it what a comparison will need."""

from __future__ import annotations

import re

import pytest

from fourstage.cli.app import main
from fourstage.runs import replicates
from fourstage.runs.replicate import measure_replicate
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import find_runs
from tests.small import SMALL, into, on


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicates, "run_fresh", measure_replicate)


@pytest.fixture(autouse=True)
def _noise_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("EXPLAINED_LIMIT", "UNACCOUNTED_LIMIT", "DRIFT_LIMIT"):
        monkeypatch.setattr(f"fourstage.trust.checks.times.{limit}", 1e6)


def test_aa_prints_the_floor_and_plan_plans_with_it(
    store: Destination, dataset: object, tmp_path: object, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(str(tmp_path))
    words = [*into(store), *SMALL, *on(dataset)]  # type: ignore[arg-type]
    assert main(["plan", "effect=3%", *words]) == 2
    assert "no noise floor is known for these settings on" in capsys.readouterr().err
    assert main(["aa", *words, "replicates=3"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"on this machine, two processes of the same configuration differ by up to .* % in total", shown)
    assert "(3 processes)" in shown
    assert "3 processes: two processes of the same configuration differ by up to" in shown  # as every such run says
    (run,) = find_runs(store)
    assert (run.params["replicates"], run.tags["fourstage.replicates"]) == ("3", "3")
    assert main(["plan", "effect=0.5", *words]) == 0
    plan = capsys.readouterr().out
    assert "to find a difference of 50 % in 80 of 100 comparisons:" in plan
    assert "from 3 processes of 1 run, just now on" in plan
    assert re.search(r"two configurations take about .* fourstage run -m .*replicates=\d+|cannot be found", plan)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["aa", "-m", "seed=1,2"], "fourstage aa measures one configuration: leave -m out"),
        (["aa", "replicates=1"], "one process shows no difference between processes"),
        (["plan"], "effect='': expected a share above 0, such as 3% or 0.03"),
        (["plan", "effect=3%", "power=1"], "power='1': expected a share above 0 below 1, such as 0.8"),
        (["plan", "effect=3%", "modle=eventgpt"], "modle"),
        (["run", "replicates=0"], "replicates=0: expected a whole number from 1 up to 1000"),
        (["run", "threads=0"], "threads=0: expected a whole number from 1 up to 1024"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
