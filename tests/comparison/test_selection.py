"""Which runs a comparison is of: the last sweep, a named one, two runs, or what a search finds."""

from __future__ import annotations

import re

import pytest

from fourstage.comparison.selection import Words, select_runs
from fourstage.config.values import SettingError
from fourstage.stages import UserError
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import RunFacts
from tests.stores import records, store, sweep


@pytest.fixture(scope="module")
def half_a_sweep(tmp_path_factory: pytest.TempPathFactory) -> Destination:
    """A sweep of which one run finished, and a run beside it."""
    where = Destination(f"sqlite:///{tmp_path_factory.mktemp('half')}/mlruns/mlflow.db", None, "fourstage")
    sweep(where, abc=(records(1), {}, {}), killed=(None, {}, {"fourstage.error": "out of memory"}, "KILLED"))
    store(where, "ab", records(1))
    return where


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


def test_the_beginning_of_an_id_names_a_run(three_runs: Destination) -> None:
    runs = select_runs(three_runs, Words(sweep="night")).runs
    short = [run.run_id[:8] for run in runs]
    chosen = select_runs(three_runs, Words(baseline=short[0], target=short[1]))
    assert [run.run_id for run in chosen.runs] == [run.run_id for run in runs[:2]]
    chosen = select_runs(three_runs, Words(sweep="night", baseline=short[1]))
    assert (chosen.runs[chosen.baseline].run_id, len(chosen.runs)) == (runs[1].run_id, len(runs))
    with pytest.raises(SettingError, match="no finished run 'abcde'"):
        select_runs(three_runs, Words(baseline="abcde", target=short[1]))  # too short for an id


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
