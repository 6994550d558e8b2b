"""Runs side by side: what is reported of them, and what is left for machines and for the parent."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fourstage.cli.compare import WORDS as DEFAULTS
from fourstage.cli.compare import compare_command, main
from fourstage.config.values import SettingError
from fourstage.report.build import Compared, compare_sweep, slug
from fourstage.stages import UserError
from fourstage.tracking.destination import Destination
from fourstage.tracking.writer import TrackedRun
from tests.stores import in_processes, records, store, sweep


def command(where: Destination, tmp_path: Path, **words: str) -> Compared:
    return compare_command({**DEFAULTS, "uri": where.uri, "out": str(tmp_path / "out"), **words})


def written(tmp_path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found: dict[str, Any] = json.loads((tmp_path / "out" / "compare.json").read_text(), parse_constant=refuse)
    return found


def test_the_screen_has_figures_shares_facts_causes_and_what_differs(
    where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(where, "slow", in_processes(records(1)), {"precision": "fp32", "seed": "0"})
    target = in_processes([*records(2, step=0.001)[:11], replace(records(2)[11], key="another clip")])
    store(where, "quick", target, {"precision": "bf16", "seed": "0"})
    assert main(["baseline=slow", "target=quick", f"uri={where.uri}", f"out={tmp_path / 'out'}"]) == 0
    out = capsys.readouterr().out
    assert "means over 11 paired samples" in out
    assert "Succeeded in fp32 and not in bf16: 1 sample (clip 11); in no figure" in out
    assert "Succeeded in bf16 and not in fp32: 1 sample (another clip); in no figure" in out
    assert re.search(r"TPOT +\d+\.\d+ ms +\d+ µs .* 0\.\d+ \[0\.\d+, 0\.\d+\] +\d+\.\d+x faster +Improved", out)
    assert re.search(r"tokens out +5 tokens +5 tokens .*as many as", out)
    assert re.search(r"decode .*Improved +\d\d\.\d % +\d+\.\d % *\n +bottleneck", out)
    assert re.search(r"load +png +png read and decoded +19\.5 KiB read", out)
    assert re.search(r"the time per token +−.* ms \[.*\] +\d+\.\d %", out)
    assert "bf16 is " in out
    assert re.search(r"precision +fp32 +bf16", out)
    assert "seed" not in out
    assert max(map(len, out.splitlines()[:-1])) <= 170


def test_more_runs_have_a_row_each_with_verdict_and_smallest_effect(
    where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c = (in_processes(made) for made in (records(1), records(2), records(3, step=0.2)))
    sweep(where, a=(a, {}, {}), b=(b, {}, {}), c=(c, {}, {}))
    command(where, tmp_path)
    out = capsys.readouterr().out
    assert re.search(r"a +12 .*\n +baseline ", out)
    assert re.search(r"b +12 .* Equivalent .* \d+(\.\d+)? %", out)
    assert re.search(r"c +12 .* slower +Regressed .* \d+(\.\d+)? %", out)
    assert "c is " in out


def test_an_invalid_baseline_is_refused_and_an_invalid_target_marked(
    where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"fourstage.valid": "false", "fourstage.checks_failed": "no_drift,closed_books"}
    _, ids = sweep(where, bad=(records(1), {}, bad), good=(records(2), {}, {}))
    with pytest.raises(UserError) as caught:
        command(where, tmp_path, baseline="bad", sweep="night")
    assert str(caught.value) == (
        f"bad ({ids['bad']}) is invalid (it failed no_drift, closed_books) and cannot be the baseline; name another "
        "run with baseline=, or set allow_invalid=true"
    )
    command(where, tmp_path, allow_invalid="true")
    out = capsys.readouterr().out
    assert "do not use: The baseline bad is invalid, so do not rely on anything below." in out
    assert "no_drift failed in 1 of 2 runs: bad" in out
    found = command(where, tmp_path)
    assert "the baseline is good, since bad, which comes first, failed no_drift, closed_books" in found.notes
    out = capsys.readouterr().out
    assert "no_drift failed in 1 of 2 runs: bad" in out
    assert [run["valid"] for run in written(tmp_path)["comparisons"][0]["runs"]] == [False, True]


def test_a_run_that_was_never_checked_is_no_baseline(where: Destination, tmp_path: Path) -> None:
    run = TrackedRun.start(where, "unchecked", {}, {})
    run.log_results(records(1, n=2))
    run.end("FINISHED")
    store(where, "b", records(2))
    with pytest.raises(UserError, match=r"is invalid \(it was never checked\) and cannot be the baseline"):
        command(where, tmp_path, baseline="unchecked", target="b")
    found = command(where, tmp_path, baseline="b", target="unchecked")
    assert "invalid: unchecked was never checked" in found.notes
    assert [run["checks_failed"] for run in written(tmp_path)["comparisons"][0]["runs"]] == [[], []]


def test_runs_of_other_data_code_or_machines_are_told(where: Destination, tmp_path: Path) -> None:
    for name, data, machine in (("a", "d1", "m"), ("b", "d2", "m")):
        store(where, name, records(1), {}, {"fourstage.dataset_hash": data, "fourstage.machine": machine})
    notes = command(where, tmp_path, baseline="a", target="b").notes
    assert "these runs are not of one data: d1: a; d2: b" in notes
    assert not any("machine" in note or "code" in note for note in notes)


def test_a_run_whose_records_are_gone_or_damaged_is_left_out(where: Destination, tmp_path: Path) -> None:
    _, ids = sweep(
        where, a=(records(1), {}, {}), gone=(None, {}, {}), broken=(records(1), {}, {}), c=(records(2), {}, {})
    )
    (path,) = (tmp_path / "mlruns" / "artifacts").glob(f"{ids['broken']}/artifacts/records.parquet")
    path.write_bytes(b"not a table")
    found = command(where, tmp_path)
    assert [run.name for run in found.parts[0].comparison.runs] == ["a", "c"]
    assert [item.name for item in found.left_out] == ["gone", "broken"]
    assert "FINISHED without records.parquet" in found.left_out[0].why
    with pytest.raises(UserError, match=r"the baseline gone .* cannot be read: FINISHED without records.parquet"):
        command(where, tmp_path, baseline="gone", sweep="night")


def test_models_are_compared_at_equal_precision(where: Destination, tmp_path: Path) -> None:
    runs = {
        f"{model}-{precision}": (records(i), {"model.name": model, "precision": precision}, {})
        for i, (model, precision) in enumerate(
            (model, precision) for model in ("eventgpt", "videollava") for precision in ("fp32", "bf16", "fp16")
        )
    }
    del runs["eventgpt-fp16"]
    sweep(where, **runs)
    found = command(where, tmp_path, by="model")
    assert [part.label for part in found.parts] == ["precision=fp32", "precision=bf16"]
    for part in found.parts:
        assert [run.name for run in part.comparison.runs] == ["model=eventgpt", "model=videollava"]
    assert any("no run with model=eventgpt at precision=fp16" in note for note in found.notes)
    assert [item["label"] for item in written(tmp_path)["comparisons"]] == ["precision=fp32", "precision=bf16"]
    assert (tmp_path / "out" / "precision=fp32" / "report.html").is_file()
    (part,) = command(where, tmp_path, by="model,precision").parts
    assert part.comparison.runs[1].name == "model=eventgpt precision=bf16"
    with pytest.raises(SettingError, match="by=engine: no such setting"):
        command(where, tmp_path, by="engine")


def test_compare_json_is_strict_the_same_each_time_and_its_contributions_sum_to_the_gap(
    where: Destination, tmp_path: Path
) -> None:
    sweep(where, a=(records(1, n=1), {}, {}), b=(records(2, n=1, step=0.1), {}, {}))
    command(where, tmp_path)
    first = (tmp_path / "out" / "compare.json").read_bytes()
    command(where, tmp_path)
    assert (tmp_path / "out" / "compare.json").read_bytes() == first
    found = written(tmp_path)
    assert found["schema"] == "fourstage.compare/1"
    (pair,) = found["comparisons"][0]["pairs"]
    assert pair["detectable_ratio"] is None  # one sample: none could have been seen
    gap = pair["attribution"]["gap_s"]
    assert (gap["low"], gap["high"]) == (None, None)
    parts = math.fsum(factor["contribution_s"]["estimate"] for factor in pair["attribution"]["factors"])
    assert parts == pytest.approx(gap["estimate"], rel=1e-9)


def test_names_from_outside_are_shown_and_do_nothing(
    where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "[bold]x[/bold]\x1b[31m|<script>alert(1)</script>\nnew"
    sweep(where, a=([replace(r, key=f"{r.key}{evil}") for r in records(1)], {"prompt": evil}, {}),
          b=([replace(r, key=f"{r.key}{evil}") for r in records(2)], {"prompt": "plain"}, {}))  # fmt: skip
    store(where, evil, records(1), {"prompt": evil})
    store(where, "other", records(2), {"prompt": "plain"})
    found = command(where, tmp_path)
    command(where, tmp_path, baseline=evil, target="other")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[bold]x[/bold]␛[31m|<script>" in out
    assert "<script>" not in found.markdown
    assert main([f"baseline={evil}", "target=other", f"uri={where.uri}"]) == 0
    assert "mlruns/compare/bold-x-bold" in capsys.readouterr().out
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("…") == "compare"


def test_a_cached_stage_is_told_as_cached_with_its_filling(
    where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = [replace(r, cached_stages=("load",), cache_fill_s=0.5) for r in records(2, load=0.0001)]
    sweep(where, none=(records(1), {"cache": "none"}, {}), kept=(kept, {"cache": "frames"}, {}))
    command(where, tmp_path)
    out = capsys.readouterr().out
    assert re.search(r"load .*cached in the +cached .*\n +cached +target +no verdict", out)
    assert "Cached in cache=frames (the target): load; filling it took 6.00 s, which is in no stage" in out
    assert "from the cache of frames" in out
    pair = written(tmp_path)["comparisons"][0]["pairs"][0]
    assert (pair["cached"], pair["cache_fill_s"]["target"]) == ({"baseline": [], "target": ["load"]}, 6.0)


def test_a_studys_question_is_answered(where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = {"study": "event_vs_video", "stop": "natural"}
    sweep(
        where,
        e=(in_processes(records(1)), common | {"model.name": "eventgpt"}, {}),
        v=(in_processes(records(2, load=0.5)), common | {"model.name": "videollava"}, {}),
    )
    found = command(where, tmp_path)
    assert found.findings[0].answer == "yes"
    assert "yes  Does loading (stage 1) make more than half of the difference?" in capsys.readouterr().out
    assert written(tmp_path)["command"] == "fourstage run -m +experiments=event_vs_video"
    assert written(tmp_path)["findings"][0]["answer"] == "yes"
    assert "**Does loading" in found.markdown


def test_a_sweep_is_compared_at_its_end_with_its_first_valid_run(where: Destination, tmp_path: Path) -> None:
    bad = {"fourstage.valid": "false", "fourstage.checks_failed": "no_drift"}
    parent, ids = sweep(where, bad=(records(1), {}, bad), good=(in_processes(records(2)), {}, {}),
                        c=(in_processes(records(3, step=0.2)), {}, {}))  # fmt: skip
    found = compare_sweep(where, parent, tmp_path / "here")
    comparison = found.parts[0].comparison
    assert comparison.runs[comparison.baseline].run_id == ids["good"]
    assert [path.name for path in found.files] == ["report.html", "report.md", "compare.json"]
    assert all(path.is_file() for path in found.files)
    assert "**bad** (invalid)" in found.markdown
    assert "Regressed" in found.markdown
    assert found.markdown.count("\n|") == 5


def test_a_sweep_without_a_valid_run_is_compared_and_says_so(where: Destination, tmp_path: Path) -> None:
    bad = {"fourstage.valid": "false", "fourstage.checks_failed": "no_drift"}
    parent, _ = sweep(where, a=(records(1), {}, bad), b=(records(2), {}, bad))
    found = compare_sweep(where, parent, tmp_path / "here")
    assert not found.parts[0].comparison.valid
    assert any("no run of this comparison is valid" in note for note in found.notes)


def test_a_sweep_with_fewer_than_two_results_is_a_line_and_no_error(
    where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, _ = sweep(where, a=(records(1), {}, {}), b=(None, {}, {"fourstage.error": "no memory"}, "FAILED"))
    found = compare_sweep(where, parent, tmp_path / "here")
    assert (found.parts, found.files) == ((), ())
    line = "not compared: one finished run, and a comparison needs two (b: FAILED: no memory)"
    assert found.markdown == f"{line}\n"
    assert line in capsys.readouterr().out
    assert not (tmp_path / "here").exists()
    parent, _ = sweep(where, "lost", a=(records(1), {}, {}), b=(None, {}, {}))
    assert "not compared: lost-tag: 1 run with records" in compare_sweep(where, parent, tmp_path / "here").markdown


def test_an_out_that_cannot_be_written_is_one_line(where: Destination, tmp_path: Path) -> None:
    sweep(where, a=(records(1), {}, {}), b=(records(2), {}, {}))
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write into .*taken.*; set out= to another folder"):
        command(where, tmp_path, out=str(tmp_path / "taken"))


def test_excluded_samples_are_in_no_figure_and_the_report_says_so(where: Destination, tmp_path: Path) -> None:
    slow = [replace(r, total_s=99.0, output="slow") if r.key == "clip 0" else r for r in records(1)]
    sweep(where, a=(slow, {}, {}), b=(records(2), {}, {}))
    found = command(where, tmp_path, exclude="clip 0,clip 1?")
    pair = found.parts[0].comparison.pairs[0]
    total = pair.row("total")
    assert total is not None
    assert (pair.n, total.baseline_mean < 9) == (9, True)
    assert {row.key for row in found.parts[0].texts} == {f"clip {i}" for i in range(1, 10)}
    assert "slow" not in str(found.parts[0].texts)
    line = "3 samples are excluded from every figure: clip 0, clip 10, clip 11"
    assert line in found.notes
    assert line in (tmp_path / "out" / "report.html").read_text()
    assert written(tmp_path)["excluded"] == ["clip 0", "clip 10", "clip 11"]


def test_long_names_that_begin_alike_have_folders_of_their_own() -> None:
    one, other = (slug(f"{'n' * 90}-20261127-120000-{end}") for end in ("aaaaaa", "bbbbbb"))
    assert one != other
    assert len(one) == 80
