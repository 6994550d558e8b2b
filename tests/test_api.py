"""fourstage in a notebook: the cells of a session, in order."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest

import fourstage
from tests.small import SMALL

HERE = [*SMALL, "dataset.samples=3", "dataset.seconds=0.4", "dataset.width=96", "dataset.height=64"]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> list[fourstage.Run]:
    """A folder to work in, with the runs of one sweep in its store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        runs = fourstage.sweep("model=eventgpt,videollava", "sweep.compare=false", *HERE)
    return runs


def test_a_sweep_gives_its_runs_in_order(notebook: list[fourstage.Run]) -> None:
    assert [run.params["model.name"] for run in notebook] == ["eventgpt", "videollava"]
    assert [run.status for run in notebook] == ["FINISHED", "FINISHED"]
    assert f"id='{notebook[0].id}'" in repr(notebook[0])


def test_a_run_has_metrics_records_and_checks(notebook: list[fourstage.Run]) -> None:
    run = notebook[0]
    assert run.metrics["samples_ok"] == 3
    assert "total_s" not in run.metrics  # the last sample's
    records = run.records
    assert len(records) == 3
    assert records.attrs["units"]["encode_s"] == "s"
    stages = records[["load_s", "preprocess_s", "encode_s", "decode_s"]].sum(axis=1)
    assert stages.tolist() == pytest.approx(records["total_s"].tolist())
    assert run.metrics["total_s.median"] == pytest.approx(records["total_s"].median(), rel=1e-3)  # four digits
    checks = run.checks.set_index("id")
    assert checks.loc["something_succeeded", "verdict"] == "pass"
    assert run.valid == (not (checks["verdict"] == "fail").any())


def test_two_runs_are_compared_and_show_themselves(notebook: list[fourstage.Run]) -> None:
    found = fourstage.compare(*notebook)
    assert found.verdict in ("Improved", "Regressed", "Equivalent", "Inconclusive", "Not replicated")
    estimate, low, high = found.ratio
    assert low <= estimate <= high or math.isinf(low)
    means = [run.records["total_s"].mean() for run in notebook]
    assert found.figures.loc["total", ["baseline", "target"]].tolist() == pytest.approx(means)
    assert found.figures.attrs["units"]["total"] == "s"
    assert found.headline in repr(found)
    page = found._repr_html_()
    assert page.startswith("<iframe srcdoc=")
    assert "&lt;table" in page  # the page is inside, escaped


def test_runs_are_found_by_their_settings(notebook: list[fourstage.Run]) -> None:
    where = {"uri": notebook[0].destination.uri}
    assert [run.id for run in fourstage.find(**where)] == [run.id for run in reversed(notebook)]  # newest first
    assert [run.id for run in fourstage.find(model="eventgpt", temperature=0, **where)] == [notebook[0].id]
    assert fourstage.find(model="other", **where) == []
    with pytest.raises(fourstage.UserError, match="no run has 'modle'; did you mean 'model'"):
        fourstage.find(modle="eventgpt", **where)


def test_what_cannot_be_used_is_a_user_error(
    notebook: list[fourstage.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fourstage.UserError, match="unknown setting 'temprature'"):
        fourstage.run("temprature=0")
    with pytest.raises(fourstage.UserError, match="-m is a sweep"):
        fourstage.run("-m", "seed=0,1")
    with pytest.raises(fourstage.UserError, match="the same run"):
        fourstage.compare(notebook[0], notebook[0])


def test_a_failed_run_is_given_with_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.json").write_text('[{"id": "a", "event_data": "a.npy"}]')
    run = fourstage.run("dataset=eventgpt_json", f"dataset.root={tmp_path}", "dataset.file=empty.json", *SMALL)
    assert (run.status, run.valid) == ("FAILED", False)
    assert run.records["error"].str.contains("a.npy").all()


def test_a_functions_name_survives_its_modules_import() -> None:
    for name in ("run", "compare"):
        importlib.import_module(f"fourstage.{name}")
        assert callable(getattr(fourstage, name))
