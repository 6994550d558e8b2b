"""A baseline is valid unless that is waived; groups without one are reported and the others compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fourstage.comparison.baseline import choose_baselines
from fourstage.comparison.exclusion import excluded_keys
from fourstage.comparison.run_data import RunData
from fourstage.records.columns import Columns
from fourstage.stages import UserError
from tests.stores import records


def data(name: str, valid: bool = True, **params: str) -> RunData:
    failed = () if valid else ("no_drift",)
    return RunData(f"id-{name}", name, params, {}, {}, Columns.of(records(1, n=2)), valid, failed)


def test_groups_without_a_valid_baseline_are_told_and_the_others_compared() -> None:
    runs = [
        data(f"{model}-{precision}", valid=(model, precision) != ("eventgpt", "fp32"), model=model, precision=precision)
        for model in ("eventgpt", "videollava")
        for precision in ("fp32", "bf16")
    ]
    for named in (None, "id-eventgpt-bf16"):
        groups, told = choose_baselines(runs, named, ("model",), allow_invalid=False)
        assert [(label, [run.name for run in members], first) for label, members, first in groups] == [
            ("precision=bf16", ["model=eventgpt", "model=videollava"], 0)
        ]
        assert told == [
            "not compared at precision=fp32: model=eventgpt (id-eventgpt-fp32) is invalid (it failed no_drift) and "
            "cannot be the baseline; name another run with baseline=, or set allow_invalid=true"
        ]
    assert len(choose_baselines(runs, None, ("model",), allow_invalid=True)[0]) == 2
    nothing = [replace(run, valid=False, checks_failed=("no_drift",)) for run in runs]
    with pytest.raises(
        UserError, match=r"by=model: not compared at precision=fp32: .*; not compared at precision=bf16"
    ):
        choose_baselines(nothing, None, ("model",), allow_invalid=False)


def test_of_a_groups_runs_with_the_baselines_settings_a_valid_one_is_taken() -> None:
    runs = [data("one", valid=False, model="a"), data("again", model="a"), data("other", model="b")]
    ((_, members, first),), _ = choose_baselines(runs, None, ("model",), allow_invalid=False)
    assert members[first].run_id == "id-again"


def test_a_key_that_looks_like_a_glob_is_taken_as_it_is() -> None:
    runs = [replace(data("a"), columns=Columns.of([replace(r, key=key) for r in records(1, n=1)]))
            for key in ("clip [1]", "a,b", "clip 1")]  # fmt: skip
    assert excluded_keys("clip [1]", runs) == ("clip [1]",)
    assert excluded_keys("a,b", runs) == ("a,b",)
    assert excluded_keys("clip ?", runs) == ("clip 1",)
