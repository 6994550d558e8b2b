"""Result files in the store: one run for each model, comparable, checked, and never twice by accident."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fourstage.cli import compare
from fourstage.cli.ingest import main
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import RunFacts, find_runs, run_records
from tests.legacy_files import lists, nested, prefixed


@pytest.fixture
def where(tmp_path: Path) -> Destination:
    return Destination(f"sqlite:///{tmp_path}/mlflow.db", None, "fourstage")


def written(folder: Path, document: Any, name: str = "march.json") -> str:
    path = folder / name
    path.write_text(json.dumps(document))
    return f"file={path}"


def by_model(where: Destination) -> dict[str, RunFacts]:
    return {run.params["model.name"]: run for run in find_runs(where)}


def artifact(where: Destination, run: RunFacts, name: str) -> Any:
    folder = Path(where.uri.removeprefix("sqlite:///")).parent / "artifacts"
    return json.loads((folder / run.run_id / "artifacts" / name).read_text())


def test_each_model_of_a_file_is_a_checked_run_that_compare_finds(
    where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([written(tmp_path, nested()), f"uri={where.uri}"]) == 0
    out = capsys.readouterr().out
    assert "layout nested with eventgpt, videollava; times are seconds (eventgpt takes" in out
    assert "4 is prefill, 5 is decode steps" in out
    runs = by_model(where)
    assert set(runs) == {"eventgpt", "videollava"}
    for job, run in enumerate(runs[model] for model in ("eventgpt", "videollava")):
        assert run.status == "FINISHED"
        assert run.name == f"{run.params['model.name']}-march"
        tags = {key.removeprefix("fourstage."): value for key, value in run.tags.items()}
        assert (tags["ingested"], tags["layout"], tags["unit"], tags["job"]) == ("true", "nested", "s", str(job))
        assert (tags["valid"], tags["checks_failed"], tags["checks_warned"]) == ("true", "none", "none")
        assert tags["sweep"] == f"march-{tags['file_hash'][:8]}"
        assert run.metrics["samples_ok"] == 20
        assert run.metrics["input_tokens.mean"] == {"eventgpt": 640, "videollava": 2100}[run.params["model.name"]]
        assert artifact(where, run, "checks.json")["valid"] is True
        assert artifact(where, run, "legacy.json")["stage_of"]["4"] == "prefill"
        records = run_records(where, run.run_id)
        assert len(records) == 20
        assert run.metrics["stage1_load_s.mean"] == pytest.approx(sum(r.load_s or 0 for r in records) / 20)
    assert compare.main([f"uri={where.uri}"]) == 0
    out = capsys.readouterr().out
    assert "baseline  eventgpt  " in out
    assert "Not replicated: videollava against eventgpt, ratio " in " ".join(out.split())
    assert "over 20 paired samples" in " ".join(out.split())


def test_a_file_that_is_there_is_told_and_not_taken_in_twice(
    where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [written(tmp_path, lists()), f"uri={where.uri}"]
    assert main(words) == 0
    ids = {run.run_id for run in find_runs(where)}
    capsys.readouterr()
    assert main(words) == 0
    out = capsys.readouterr().out
    assert {run.run_id for run in find_runs(where)} == ids
    assert all(run_id in out for run_id in ids)
    assert "again=true" in out
    # content counts, not the name
    assert main([written(tmp_path, lists(), "copy.json"), words[1]]) == 0
    assert {run.run_id for run in find_runs(where)} == ids
    assert main([*words, "again=true"]) == 0
    runs = find_runs(where)
    assert len(runs) == 4
    assert len({run.tags["fourstage.sweep"] for run in runs}) == 2


def test_what_an_interrupted_recording_left_out_is_added(
    where: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fourstage.tracking.writer import TrackedRun

    words = [written(tmp_path, lists()), f"uri={where.uri}"]
    logged = TrackedRun.log_results

    def interrupt(self: TrackedRun, *rest: Any) -> None:
        if self.name.startswith("videollava"):
            raise KeyboardInterrupt
        logged(self, *rest)

    monkeypatch.setattr(TrackedRun, "log_results", interrupt)
    assert main(words) == 130
    assert {run.name: run.status for run in find_runs(where)} == {
        "eventgpt-march": "FINISHED",
        "videollava-march": "KILLED",
    }
    monkeypatch.undo()
    assert main(words) == 0
    runs = find_runs(where)
    assert sorted((run.name, run.status) for run in runs) == [
        ("eventgpt-march", "FINISHED"),
        ("videollava-march", "FINISHED"),
        ("videollava-march", "KILLED"),
    ]


def test_a_fault_of_the_store_ends_the_run_as_failed(
    where: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fourstage.stages import UserError
    from fourstage.tracking.writer import TrackedRun

    def full(*_: Any) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(TrackedRun, "log_results", full)
    assert main([written(tmp_path, lists()), f"uri={where.uri}"]) == 1
    assert "the disk is full; not all of the run was recorded" in capsys.readouterr().err
    assert {run.status for run in find_runs(where)} == {"FAILED"}


def test_a_faulty_file_is_kept_and_shown_as_invalid(
    where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = prefixed()
    rows[4]["egpt_token_ids"] = [338, 263, 2]
    assert main([written(tmp_path, rows), f"uri={where.uri}", "name=night"]) == 0
    run = by_model(where)["eventgpt"]
    assert run.name == "eventgpt-night"
    assert run.tags["fourstage.valid"] == "false"
    assert "counts_are_the_ids" in run.tags["fourstage.checks_failed"].split(",")
    assert run.metrics["generate_s.median"] > 0
    assert not any(name.startswith(("stage3", "stage4", "ttft", "tpot")) for name in run.metrics)
    assert compare.main([f"uri={where.uri}"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"the baseline is \S+, since eventgpt, which comes first, failed counts_are_the_ids", out)
    assert "eventgpt-night" in (text := " ".join(out.split()))
    assert "Do not rely on this: eventgpt is invalid" in text, text


def test_a_model_without_any_result_is_a_failed_run(where: Destination, tmp_path: Path) -> None:
    document = lists()
    for row in document["videollava_results"]:
        row["stage1_time"] = None
    assert main([written(tmp_path, document), f"uri={where.uri}"]) == 1
    runs = by_model(where)
    assert (runs["eventgpt"].status, runs["videollava"].status) == ("FINISHED", "FAILED")
    assert "something_succeeded" in runs["videollava"].tags["fourstage.checks_failed"]
    assert runs["videollava"].metrics["samples_failed"] == 20


@pytest.mark.parametrize(
    ("document", "code", "message"),
    [
        ([], 1, "march.json: no results: the file is an empty list"),
        ([row | {"egpt_time": None, "llava_time": None} for row in prefixed()], 1, "no results: all 40 failed, the"),
        ({"results": [], "errors": [{"error": "oom"}] * 52}, 1, "52 errors and not one measured sample"),
        ({"a": 1}, 2, "march.json: unknown layout: the keys at its top are a; known are"),
        (lists(scale=50.0), 2, "add unit=s or unit=ms"),
    ],
)
def test_what_cannot_be_taken_in_is_one_line_and_leaves_no_run(
    document: Any, code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([written(tmp_path, document), f"uri=sqlite:///{tmp_path}/mlflow.db"]) == code
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which file? file=results.json"),
        (["results.json"], "'results.json' is not a setting: expected key=value with one of file, unit"),
        (["fil=x"], "unknown setting 'fil'; did you mean 'file'?"),
        (["file=none.json"], "file=none.json does not exist; expected a regular file"),
        (["file=."], "file=. is a folder; expected a regular file"),
        (["file=binary.json"], "binary.json: no UTF-8 at byte 0"),
        (["file=ok.json", "unit=h"], "unit=h: expected unit=s or unit=ms"),
        (["file=ok.json", "again=yes"], "again=yes: expected again=true or again=false"),
        (["file=ok.json", "uri=none://x"], "none://x"),
    ],
)
def test_its_words_are_checked(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe[]")
    (tmp_path / "ok.json").write_text(json.dumps(lists()))
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ")


def test_help_is_the_modules_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "fourstage ingest file=results.json unit=ms" in capsys.readouterr().out


@pytest.mark.real
def test_the_real_file_becomes_two_runs(shared: Path, where: Destination, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"file={shared / 'legacy' / 'bench_3stage_example.json'}", f"uri={where.uri}"]) == 0
    runs = by_model(where)
    event, video = runs["eventgpt"], runs["llava-1.5-7b-hf"]
    assert event.metrics["stage1_load_s.mean"] == pytest.approx(0.0205655, abs=1e-7)
    assert video.metrics["stage1_load_s.mean"] == pytest.approx(0.7606489, abs=1e-7)
    assert (event.tags["fourstage.valid"], video.tags["fourstage.valid"]) == ("false", "true")
    assert event.tags["fourstage.checks_failed"] == "counts_are_the_ids"
    assert event.metrics["output_tokens.mean"] == pytest.approx(45.3)
