"""Runs side by side, so far as a sweep's end shows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fourstage.analysis.pairing import pair, ratio
from fourstage.compare import choose_runs, main
from fourstage.config import SettingError
from fourstage.stages import SampleRecord, UserError
from fourstage.tracking.read import RunFacts
from fourstage.tracking.run import TrackedRun
from fourstage.tracking.store import Destination

RECORD = SampleRecord(
    "a", "a", 0, load_s=1.0, preprocess_s=1.0, encode_s=1.0, decode_s=1.0, total_s=4.0, output_tokens=3
)


def facts(name: str, sweep: str | None = None, job: int = 0, status: str = "FINISHED") -> RunFacts:
    tags = {"fourstage.sweep": sweep, "fourstage.job": str(job)} if sweep else {}
    return RunFacts(f"id-{name}", name, status, 0.0, {}, {}, tags)


def test_a_comparison_is_over_the_samples_that_both_measured() -> None:
    before = [RECORD, replace(RECORD, key="b"), replace(RECORD, key="c", error="broken")]
    after = [replace(RECORD, key="b", total_s=2.0), replace(RECORD, key="c"), replace(RECORD, key="d")]
    paired = pair(before, after)
    assert [(one.key, other.key) for one, other in paired.both] == [("b", "b")]
    assert (paired.only_baseline, paired.only_target) == (("a",), ("c", "d"))
    assert ratio(paired, lambda record: record.total_s) == 0.5


def test_repeats_pair_with_their_own() -> None:
    rounds = [replace(RECORD, repeat=repeat) for repeat in range(3)]
    assert len(pair(rounds, rounds[1:]).both) == 2


def test_a_ratio_of_nothing_is_none() -> None:
    assert ratio(pair([RECORD], [replace(RECORD, key="z")]), lambda record: record.total_s) is None


def test_the_last_sweeps_first_job_is_the_baseline() -> None:
    runs = [facts("b", "new", 1), facts("a", "new", 0), facts("old", "old", 0), facts("alone")]
    assert [run.name for run in choose_runs(runs, "", "", "")] == ["a", "b"]
    assert [run.name for run in choose_runs(runs, "id-alone", "old", "")] == ["alone", "old"]


@pytest.mark.parametrize(
    ("runs", "words", "message"),
    [
        ([facts("a")], ("", "", ""), "no finished sweep"),
        ([facts("a", "s")], ("", "", ""), "a comparison needs two"),
        ([facts("a"), facts("b")], ("a", "", ""), "give both"),
        ([facts("abc"), facts("b")], ("abd", "b", ""), "did you mean 'abc'?"),
        ([facts("a", "s", status="FAILED"), facts("b", "s", 1)], ("", "", ""), "a comparison needs two"),
        ([facts("a", "sweep-1")], ("", "", "sweep-2"), "unknown sweep 'sweep-2'; did you mean 'sweep-1'?"),
    ],
)
def test_what_cannot_be_compared_is_one_line(runs: list[RunFacts], words: tuple[str, str, str], message: str) -> None:
    with pytest.raises((SettingError, UserError), match=message.replace("?", r"\?")):
        choose_runs(runs, *words)


def test_the_screen_has_both_runs_the_ratio_and_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = Destination(f"sqlite:///{tmp_path}/mlflow.db", None, "fourstage")
    for name, total, valid in (("slow", 4.0, "true"), ("quick", 2.0, "false")):
        tags = {"fourstage.valid": valid, "fourstage.checks_failed": "no_drift"}
        run = TrackedRun.start(where, name, {"precision": name, "seed": 0}, tags)
        run.log_results([replace(RECORD, total_s=total)])
        run.end("FINISHED")
    assert main(["baseline=slow", "target=quick", f"uri={where.uri}"]) == 0
    out = capsys.readouterr().out
    assert "quick is 2.00x faster than slow in total, over 1 samples" in out
    assert "0.50x" in out
    assert "precision: slow, quick" in out
    assert "seed" not in out
    assert "invalid quick: no_drift" in out


@pytest.mark.parametrize(
    ("argv", "code"), [(["--help"], 0), (["baselin=x"], 2), (["x"], 2), (["uri=sqlite:///no.db"], 2)]
)
def test_its_words_are_checked(
    argv: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == code
    assert capsys.readouterr()[0 if code == 0 else 1]
