"""Runs side by side: which are compared, what is told of them, and what is left for machines and for the parent."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fourstage.comparison.effects import RunData
from fourstage.comparison.selection import Words, select_runs
from fourstage.config.schema import SettingError
from fourstage.records.columns import Columns
from fourstage.records.table import write_records
from fourstage.report.build import WORDS as DEFAULTS
from fourstage.report.build import Compared, _excluded, _groups, compare_command, compare_sweep, main, read_runs, slug
from fourstage.stages import SampleRecord, UserError
from fourstage.tracking.reader import RunFacts
from fourstage.tracking.store import Destination
from fourstage.tracking.writer import TrackedRun


def records(seed: int, n: int = 12, **costs: float) -> list[SampleRecord]:
    size, rng, made = np.random.default_rng(7).lognormal(0, 0.3, n), np.random.default_rng([seed, 5]), []
    for i in range(n):
        default = {"load": 0.05, "preprocess": 0.02, "encode": 0.04, "prefill": 0.03, "step": 0.01}
        load, preprocess, encode, prefill, step = rng.lognormal(0, 0.01, 5) * size[i] * list((default | costs).values())
        token_s = (step,) * 4
        decode = prefill + sum(token_s)
        made.append(
            SampleRecord(
                key=f"clip {i}", sample_id=f"{i}", position=i, started_unix_s=float(i), source="png", images=5,
                bytes_read=20_000, load_s=load, preprocess_s=preprocess, encode_s=encode, decode_s=decode,
                prefill_s=prefill, total_s=load + preprocess + encode + decode, token_s=token_s,
                ttft_s=load + preprocess + encode + prefill, text_tokens=40, visual_tokens=577, output_tokens=5,
                peak_memory_bytes=2**30, output="a car", output_ids=(1, 2), question="What is there?",
            )
        )  # fmt: skip
    return made


@pytest.fixture
def where(tmp_path: Path) -> Destination:
    return Destination(f"sqlite:///{tmp_path}/mlruns/mlflow.db", None, "fourstage")


@pytest.fixture(scope="module")
def half_a_sweep(tmp_path_factory: pytest.TempPathFactory) -> Destination:
    """A sweep of which one run finished, and a run beside it."""
    where = Destination(f"sqlite:///{tmp_path_factory.mktemp('half')}/mlruns/mlflow.db", None, "fourstage")
    sweep(where, abc=(records(1), {}, {}), killed=(None, {}, {"fourstage.error": "out of memory"}, "KILLED"))
    store(where, "ab", records(1))
    return where


def store(
    where: Destination,
    name: str,
    made: Sequence[SampleRecord] | None,
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
    status: str = "FINISHED",
) -> str:
    """A run with its records, as a sweep leaves it."""
    checked = {"fourstage.valid": "true", "fourstage.checks_failed": "none"}
    run = TrackedRun.start(where, name, params or {}, checked | (tags or {}))
    if made is not None:
        folder = Path(where.uri.removeprefix("sqlite:///")).parent / f"{run.run_id}.files"
        folder.mkdir()
        write_records(made, folder / "records.parquet")
        run.log_folder(folder)
        run.log_metrics({"total_s.median": float(np.median([r.total_s or 0 for r in made]))})
    run.end(status)
    return run.run_id


def sweep(where: Destination, name: str = "night", **children: Any) -> tuple[str, dict[str, str]]:
    """A parent and its children in order: each the arguments of `store` after the name."""
    tags = {"fourstage.role": "parent", "fourstage.sweep": f"{name}-tag"}
    parent = TrackedRun.start(where, name, {"model": "eventgpt,videollava"}, tags)
    ids = {}
    for job, (child, (made, params, more, *status)) in enumerate(children.items()):
        own = {"mlflow.parentRunId": parent.run_id, "fourstage.sweep": f"{name}-tag", "fourstage.job": str(job)}
        ids[child] = store(where, child, made, params, own | more, *status)
    parent.end("FINISHED")
    return parent.run_id, ids


def command(where: Destination, tmp_path: Path, **words: str) -> Compared:
    return compare_command({**DEFAULTS, "uri": where.uri, "out": str(tmp_path / "out"), **words})


def written(tmp_path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found: dict[str, Any] = json.loads((tmp_path / "out" / "compare.json").read_text(), parse_constant=refuse)
    return found


def test_the_last_sweeps_children_are_compared_in_order_and_the_rest_is_told(where: Destination) -> None:
    sweep(where, "old", a=(records(1), {}, {}), b=(records(2), {}, {}))
    _, ids = sweep(
        where,
        z=(records(1), {}, {}),
        a=(records(2), {}, {}),
        stopped=(records(3), {}, {"fourstage.error": "stopped"}, "KILLED"),
    )
    store(where, "alone", records(1))
    chosen = select_runs(where, Words())
    assert ([run.name for run in chosen.runs], chosen.baseline, chosen.name) == (["z", "a"], 0, "night-tag")
    assert [(item.name, item.run_id, item.why) for item in chosen.left_out] == [
        ("stopped", ids["stopped"], "KILLED: stopped")
    ]


def test_a_sweep_is_known_by_its_tag_its_parents_name_and_its_parents_id(where: Destination) -> None:
    parent, _ = sweep(where, "old", a=(records(1), {}, {}), b=(records(2), {}, {}))
    sweep(where, "new", c=(records(1), {}, {}), d=(records(2), {}, {}))
    for word in ("old-tag", "old", parent):
        chosen = select_runs(where, Words(sweep=word))
        assert [run.name for run in chosen.runs] == ["a", "b"]
        assert chosen.parent is not None
        assert chosen.parent.run_id == parent


def test_of_two_sweeps_of_one_name_and_tag_the_newest_is_compared_alone_and_said(
    where: Destination, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = sweep(where, a=(records(1), {}, {}), b=(records(2), {}, {}))
    second, ids = sweep(where, a=(records(3), {}, {}), b=(records(4), {}, {}))
    for wanted in ("night", "night-tag", second, ""):
        assert {run.run_id for run in select_runs(where, Words(sweep=wanted)).runs} == set(ids.values())
    err = capsys.readouterr().err
    assert err.count(f"2 sweeps are named 'night': the newest is compared, night-tag ({second}); older") == 1
    assert first in err


def test_long_names_that_begin_alike_have_folders_of_their_own() -> None:
    one, other = (slug(f"{'n' * 90}-20261127-120000-{end}") for end in ("aaaaaa", "bbbbbb"))
    assert one != other
    assert len(one) == 80


def test_two_runs_are_found_by_name_or_id_whatever_their_sweep(where: Destination) -> None:
    one, other = store(where, "it's", records(1)), store(where, "b", records(2))
    for baseline, target in (("it's", "b"), (one, other), ("it's", other)):
        chosen = select_runs(where, Words(baseline, target))
        assert [run.run_id for run in chosen.runs] == [one, other]


def test_a_baseline_is_chosen_in_a_sweep_and_put_before_another(where: Destination) -> None:
    _, ids = sweep(where, a=(records(1), {}, {}), b=(records(2), {}, {}))
    store(where, "alone", records(1))
    inside = select_runs(where, Words(baseline="b", sweep="night"))
    assert (inside.runs[inside.baseline].run_id, len(inside.runs)) == (ids["b"], 2)
    outside = select_runs(where, Words(baseline="alone", sweep="night"))
    assert [run.name for run in outside.runs] == ["alone", "a", "b"]


def test_a_filter_of_dotted_names_finds_runs_oldest_first(where: Destination) -> None:
    for name, model, step in (
        ("a", "videollava", 0.01),
        ("b", "eventgpt", 0.01),
        ("c", "videollava", 9.0),
        ("d", "videollava", 0.02),
    ):
        store(where, name, records(1, step=step), {"model.name": model})
    chosen = select_runs(where, Words(filter='params.model.name = "videollava" and metrics.total_s.median < 2'))
    assert [run.name for run in chosen.runs] == ["a", "d"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (Words(baseline="a"), "give both"),
        (Words(baseline="ab", target="missing"), "no finished run 'missing'; there are ab, abc"),
        (Words(baseline="abcde", target="ab"), "did you mean 'abc'?"),
        (Words(baseline="abc", target="abc"), "are the same run"),
        (Words(baseline="abc", target="killed"), "run 'killed' is KILLED: out of memory"),
        (Words(baseline="abc", target="night"), "the parent of a sweep: compare its runs with sweep=night"),
        (Words(sweep="nigth"), "unknown sweep 'nigth'; did you mean 'night'?"),
        (Words(sweep="night"), "one finished run, and a comparison needs two (killed: KILLED: out of memory)"),
        (Words(filter="params.x = 'none'"), "no finished run, and a comparison needs two"),
        (Words(filter="not a filter at all"), "tracking store"),
        (Words(target="abc", sweep="night"), "target= names one run"),
    ],
)
def test_what_cannot_be_compared_is_one_line(half_a_sweep: Destination, words: Words, message: str) -> None:
    with pytest.raises((SettingError, UserError)) as caught:
        select_runs(half_a_sweep, words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_any_sweep_the_command_says_what_to_do(where: Destination) -> None:
    store(where, "alone", records(1))
    with pytest.raises(UserError, match="no sweep in this store: run one with -m"):
        select_runs(where, Words())


def test_the_screen_has_figures_shares_facts_causes_and_what_differs(
    where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(where, "slow", records(1), {"precision": "fp32", "seed": "0"})
    target = [*records(2, step=0.001)[:11], replace(records(2)[11], key="another clip")]
    store(where, "quick", target, {"precision": "bf16", "seed": "0"})
    assert main(["baseline=slow", "target=quick", f"uri={where.uri}", f"out={tmp_path / 'out'}"]) == 0
    out = capsys.readouterr().out
    assert "11 samples pair; 1 succeeded in the baseline only (clip 11); 1 succeeded in the target only (another" in out
    assert re.search(r"TPOT +11 +\d+\.\d+ ms +\d\.\d+ ms .* 0\.\d+ \[0\.\d+, 0\.\d+\] +\d+\.\d+x faster +Improved", out)
    assert re.search(r"tokens out +11 +5 +5 .*as many as", out)
    assert re.search(r"baseline +2\d\.\d % .* decode ", out)
    assert "png read and decoded, 19.5 KiB on disk" in out
    assert re.search(r"the time per token +-.* ms \[.*\] +\d+ %", out)
    assert "quick takes" in out
    assert "precision: fp32, bf16" in out
    assert "seed" not in out
    assert max(map(len, out.splitlines()[:-1])) <= 170


def test_more_runs_have_a_row_each_with_verdict_and_smallest_effect(
    where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(where, a=(records(1), {}, {}), b=(records(2), {}, {}), c=(records(3, step=0.2), {}, {}))
    command(where, tmp_path)
    out = capsys.readouterr().out
    assert "corrected over 2 runs, at 1 %" in out
    assert re.search(r"a \(baseline\) +12", out)
    assert re.search(r"b +12 .* Equivalent .* \d+(\.\d+)? %", out)
    assert re.search(r"c +12 .* slower +Regressed .* \d+(\.\d+)? %", out)
    assert "c takes" in out


def test_an_invalid_baseline_is_refused_and_an_invalid_target_marked(
    where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"fourstage.valid": "false", "fourstage.checks_failed": "no_drift,closed_books"}
    _, ids = sweep(where, bad=(records(1), {}, bad), good=(records(2), {}, {}))
    with pytest.raises(UserError) as caught:
        command(where, tmp_path, baseline="bad", sweep="night")
    assert str(caught.value) == (
        f"bad ({ids['bad']}) is invalid, it failed no_drift, closed_books: against it nothing should be claimed; name "
        "another run with baseline=, or say allow_invalid=true"
    )
    command(where, tmp_path, allow_invalid="true")
    assert "INVALID no_drift, closed_books" in capsys.readouterr().out
    found = command(where, tmp_path)
    assert "the baseline is good: bad before it failed no_drift, closed_books" in found.notes
    out = capsys.readouterr().out
    assert "invalid: bad failed no_drift, closed_books" in out
    assert [run["valid"] for run in written(tmp_path)["comparisons"][0]["runs"]] == [False, True]


def test_a_run_that_was_never_checked_is_no_baseline(where: Destination, tmp_path: Path) -> None:
    run = TrackedRun.start(where, "unchecked", {}, {})
    run.log_results(records(1, n=2))
    run.end("FINISHED")
    store(where, "b", records(2))
    with pytest.raises(UserError, match="is invalid, it was never checked: against it nothing should be claimed"):
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
    assert re.search(r"load .*\(cached\).*cached in the target", out)
    assert "cached in the target: load; filling took 6.00 s, in no stage" in out
    assert "from the cache of frames" in out
    pair = written(tmp_path)["comparisons"][0]["pairs"][0]
    assert (pair["cached"], pair["cache_fill_s"]["target"]) == ({"baseline": [], "target": ["load"]}, 6.0)


def test_a_studys_question_is_answered(where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = {"study": "event_vs_video", "stop": "natural"}
    sweep(
        where,
        e=(records(1), common | {"model.name": "eventgpt"}, {}),
        v=(records(2, load=0.5), common | {"model.name": "videollava"}, {}),
    )
    found = command(where, tmp_path)
    assert found.findings[0].answer == "yes"
    assert "yes  Does loading (stage 1) make more than half of the difference?" in capsys.readouterr().out
    assert written(tmp_path)["command"] == "python -m fourstage.run -m +experiments=event_vs_video"
    assert written(tmp_path)["findings"][0]["answer"] == "yes"
    assert "**Does loading" in found.markdown


def test_a_sweep_is_compared_at_its_end_with_its_first_valid_run(where: Destination, tmp_path: Path) -> None:
    bad = {"fourstage.valid": "false", "fourstage.checks_failed": "no_drift"}
    parent, ids = sweep(where, bad=(records(1), {}, bad), good=(records(2), {}, {}), c=(records(3, step=0.2), {}, {}))
    found = compare_sweep(where, parent, tmp_path / "here")
    comparison = found.parts[0].comparison
    assert comparison.runs[comparison.baseline].run_id == ids["good"]
    assert [path.name for path in found.files] == ["report.html", "report.md", "compare.json"]
    assert all(path.is_file() for path in found.files)
    assert "bad INVALID" in found.markdown
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


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--help"], 0, "by="),
        (["baselin=x"], 2, "did you mean 'baseline'"),
        (["x"], 2, "expected key=value"),
        (["uri=sqlite:///no.db"], 2, "no.db does not exist"),
        (["margin=2"], 2, "margin=2: expected a number between 0 and 1"),
        (["allow_invalid=maybe"], 2, "expected true or false"),
    ],
)
def test_its_words_are_checked(
    argv: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == code
    assert message in capsys.readouterr()[0 if code == 0 else 1]


def test_an_out_that_cannot_be_written_is_one_line(where: Destination, tmp_path: Path) -> None:
    sweep(where, a=(records(1), {}, {}), b=(records(2), {}, {}))
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write into .*taken.*; set out= to another folder"):
        command(where, tmp_path, out=str(tmp_path / "taken"))


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
        groups, told = _groups(runs, named, ("model",), allow_invalid=False)
        assert [(label, [run.name for run in members], first) for label, members, first in groups] == [
            ("precision=bf16", ["model=eventgpt", "model=videollava"], 0)
        ]
        assert told == [
            "not compared at precision=fp32: model=eventgpt (id-eventgpt-fp32) is invalid, it failed no_drift: against "
            "it nothing should be claimed; name another run with baseline=, or say allow_invalid=true"
        ]
    assert len(_groups(runs, None, ("model",), allow_invalid=True)[0]) == 2
    nothing = [replace(run, valid=False, checks_failed=("no_drift",)) for run in runs]
    with pytest.raises(
        UserError, match=r"by=model: not compared at precision=fp32: .*; not compared at precision=bf16"
    ):
        _groups(nothing, None, ("model",), allow_invalid=False)


def test_of_a_groups_runs_with_the_baselines_settings_a_valid_one_is_taken() -> None:
    runs = [data("one", valid=False, model="a"), data("again", model="a"), data("other", model="b")]
    ((_, members, first),), _ = _groups(runs, None, ("model",), allow_invalid=False)
    assert members[first].run_id == "id-again"


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


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ("clip 21", "exclude=clip 21: no sample of these runs has this key; near it are clip 2"),
        ("zebra*", "exclude=zebra*: no sample of these runs has this key; the first of 12 is clip 0"),
        ("x" * 5000, f"exclude={'x' * 79}…: no sample"),
        ("*", "exclude=* leaves no sample of the baseline a"),
    ],
)
def test_an_exclusion_that_leaves_out_nothing_or_all_is_one_line(
    three_runs: Destination, exclude: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"exclude={exclude}", f"uri={three_runs.uri}", "sweep=night"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert len(err) < 400


def test_a_key_that_looks_like_a_glob_is_taken_as_it_is() -> None:
    runs = [replace(data("a"), columns=Columns.of([replace(r, key=key) for r in records(1, n=1)]))
            for key in ("clip [1]", "a,b", "clip 1")]  # fmt: skip
    assert _excluded("clip [1]", runs) == ("clip [1]",)
    assert _excluded("a,b", runs) == ("a,b",)
    assert _excluded("clip ?", runs) == ("clip 1",)


@pytest.fixture(scope="module")
def three_runs(tmp_path_factory: pytest.TempPathFactory) -> Destination:
    """A sweep of two, and runs that share a name."""
    where = Destination(f"sqlite:///{tmp_path_factory.mktemp('three')}/mlruns/mlflow.db", None, "fourstage")
    sweep(where, a=(records(1), {}, {}), b=(records(2), {}, {}))
    store(where, "twin", records(1))
    store(where, "twin", records(2))
    store(where, "torn", records(2))
    store(where, "torn", None, status="FAILED")
    return where


def test_a_name_that_runs_share_is_refused_with_their_ids(three_runs: Destination) -> None:
    for words in (Words("a", "twin"), Words("twin", "a"), Words(baseline="twin", sweep="night")):
        with pytest.raises(SettingError) as caught:
            select_runs(three_runs, words)
        assert re.fullmatch(
            r"2 runs are called 'twin': name one by its id: [0-9a-f]{32} \(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d, FINISHED\), "
            r"[0-9a-f]{32} \(.*, FINISHED\)",
            str(caught.value),
        )
    with pytest.raises(SettingError, match=r"'torn': name one by its id: .*, FAILED\), .*, FINISHED\)"):
        select_runs(three_runs, Words("a", "torn"))


def test_of_many_names_the_first_are_told(where: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [RunFacts(f"{i}", f"run {i:02}", "FINISHED", 0.0, {}, {}, {}) for i in range(30)]
    monkeypatch.setattr("fourstage.tracking.reader.find_runs", lambda *words, **more: [] if len(words) > 1 else runs)
    with pytest.raises(SettingError) as caught:
        select_runs(where, Words("x" * 5000, "b"))
    assert str(caught.value) == (
        f"no finished run '{'x' * 79}…'; there are run 00, run 01, run 02, run 03, run 04 and 25 more"
    )


def column(name: str, values: Any) -> Callable[[Path], None]:
    """Write the file again with another column in place of one."""

    def spoil(path: Path) -> None:
        table = pq.read_table(path)
        pq.write_table(table.set_column(table.schema.get_field_index(name), name, values(table)), path)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.unlink(), "FINISHED without records.parquet"),
        (lambda path: path.write_bytes(b""), "its records.parquet cannot be read: Parquet file size is 0 bytes"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "its records.parquet cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-500] + b"\x0f" * 496 + b"PAR1"), "records.parquet"),
        (lambda path: pq.write_table(pa.table({"a": [1]}), path), "and 25 more: it was not written by this version"),
        (column("key", lambda table: pa.array(range(len(table)))), "column key holds int64, expected string"),
        (column("load_s", lambda table: pa.array(["x"] * len(table))), "column load_s holds string, expected double"),
        (column("token_s", lambda table: pa.array([1.0] * len(table))), "holds double, expected list"),
        (column("batch_size", lambda table: pa.nulls(len(table), pa.int64())), "a record has no batch_size"),
        (column("batch_size", lambda table: pa.array([0] * len(table))), "a batch of 0 samples: expected 1 or more"),
        (column("load_s", lambda table: pa.array([-1.0] * len(table))), "load_s of clip 0 is -1: expected seconds"),
        (column("total_s", lambda table: pa.array([math.inf] * len(table))), "total_s of clip 0 is inf: expected sec"),
    ],
)
def test_records_that_cannot_be_used_leave_their_run_out_with_the_reason(
    where: Destination, tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    runs = []
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        write_records(records(1, n=3), tmp_path / name / "records.parquet")
        runs.append(RunFacts(f"id-{name}", name, "FINISHED", 0.0, {}, {}, {}, str(tmp_path / name)))
    spoil(tmp_path / "bad" / "records.parquet")
    found, _, (left_out,) = read_runs(where, runs, tmp_path)
    assert [run.name for run in found] == ["good"]
    assert (left_out.name, left_out.run_id) == ("bad", "id-bad")
    assert why in left_out.why
    assert left_out.why.isprintable()


def test_a_run_of_settings_that_are_not_known_is_left_out(where: Destination, tmp_path: Path) -> None:
    write_records(records(1, n=3), tmp_path / "records.parquet")
    run = RunFacts("id", "other", "FINISHED", 0.0, {"cache": "everything"}, {}, {}, str(tmp_path))
    _, _, (left_out,) = read_runs(where, [run], tmp_path)
    assert left_out.why == "unknown cache 'everything' in a run's settings; known are none, frames, tensors"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (f"margin={'9' * 5000}", "expected a number between 0 and 1"),
        ("margin=nan", "margin=nan: expected a number between 0 and 1"),
        ("out=a\0b", "contains a NUL byte"),
        ("out=~nobody-of-this-name/x", "no home folder is known for ~nobody-of-this-name"),
        ("out=\ud800", "expected text in UTF-8"),
        ("by=colour", "by=colour: no such setting of these runs"),
        (f"by={'x' * 5000}", "no such setting of these runs"),
    ],
)
def test_a_word_that_means_nothing_is_one_short_line(
    three_runs: Destination, word: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word, f"uri={three_runs.uri}", "sweep=night"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert len(err) < 400
