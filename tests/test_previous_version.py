"""A store that version 0.1.0 made is read, listed, searched and compared.

`previous_store.tar.xz` holds the dump of its SQLite file (`{ROOT}` for the folder) and its artifacts: a sweep of both
models, two demo samples each, of 2026-11-27.
"""

from __future__ import annotations

import json
import sqlite3
import tarfile
from pathlib import Path

import pytest

import fourstage
from fourstage.cli.app import main

MODELS = ("eventgpt", "videollava")


@pytest.fixture
def uri(tmp_path: Path) -> str:
    root = tmp_path / "mlruns"
    with tarfile.open(Path(__file__).with_name("previous_store.tar.xz")) as packed:
        packed.extractall(root, filter="data")
    database = sqlite3.connect(root / "mlflow.db")
    database.executescript((root / "store.sql").read_text(encoding="utf-8").replace("{ROOT}", str(root)))
    database.close()
    return f"sqlite:///{root / 'mlflow.db'}"


def test_its_runs_are_found_by_settings_and_read(uri: str) -> None:
    runs = fourstage.find(uri=uri, sweep="before*")
    assert [run.params["model.name"] for run in runs] == ["videollava", "eventgpt"]  # newest first
    for run in runs:
        assert run.tags["fourstage.sweep"].startswith("before")
        assert run.status == "FINISHED"
        assert list(run.records["output_tokens"]) == [4, 4]
        assert run.records["total_s"].median() == pytest.approx(run.metrics["total_s.median"])
        assert len(run.checks) == 20
    assert [(run.valid, run.tags["fourstage.checks_failed"]) for run in runs] == [
        (False, "tokens_explain_time"),
        (True, "none"),
    ]
    (only,) = fourstage.find(uri=uri, model="eventgpt", valid=True)
    assert only.id == runs[1].id


def test_its_sweep_and_runs_are_listed(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", f"uri={uri}"]) == 0
    shown = capsys.readouterr().out
    assert [name in shown for name in ("before", *(f"{model}-demo-fp32-greedy" for model in MODELS))] == [True] * 3


def test_its_sweep_is_compared_with_figures_checks_and_settings(uri: str, tmp_path: Path) -> None:
    assert main(["compare", f"uri={uri}", "sweep=before", f"out={tmp_path / 'out'}"]) == 0
    found = json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))
    assert len(found["comparisons"]) == 1
    assert found["left_out"] == []
    baseline, target = reversed(fourstage.find(uri=uri))
    compared = fourstage.compare(baseline, target)
    assert compared.figures.loc["total", "n"] == 2
    expected = target.records["total_s"].mean() / baseline.records["total_s"].mean()
    assert compared.figures.loc["total", "target"] / compared.figures.loc["total", "baseline"] == pytest.approx(
        expected
    )
    assert "<html" in compared.html()
