"""Runs are compared with those that differ in what was asked about and in nothing else."""

from __future__ import annotations

import pytest

from fourstage.comparison.grouping import distinct_names, group_by, same_configuration
from fourstage.comparison.run_data import RunData, replicate_codes
from fourstage.config.values import SettingError
from fourstage.records.columns import Columns
from tests.builders import timed

E = {"model.name": "eventgpt", "model.event_images": "5", "temperature": "0.6", "seed": "0"}
V = {"model.name": "videollava", "model.frames": "8", "temperature": "0.2", "seed": "0"}
RUNS = [model | {"precision": precision} for model in (E, V) for precision in ("fp32", "bf16")]


def test_models_are_compared_at_equal_precision_and_bring_their_own_settings() -> None:
    one, other = group_by(RUNS, ["model"])
    assert (one.label, one.members, one.names) == ("precision=fp32", (0, 2), ("model=eventgpt", "model=videollava"))
    assert (other.label, other.members) == ("precision=bf16", (1, 3))
    assert one.choices == other.choices


def test_precisions_are_compared_within_each_model() -> None:
    groups = group_by(RUNS, ["precision"])
    assert [group.members for group in groups] == [(0, 1), (2, 3)]
    assert [group.label for group in groups] == ["model.name=eventgpt", "model.name=videollava"]


def test_all_that_differs_makes_one_group() -> None:
    (group,) = group_by(RUNS, ["model", "precision"])
    assert (group.label, group.members) == ("", (0, 1, 2, 3))
    assert group.names[3] == "model=videollava precision=bf16"


def test_labels_divide_nothing() -> None:
    runs = [run | {"run_name": str(i), "tracking.uri": str(i), "study": str(i)} for i, run in enumerate(RUNS)]
    assert [group.members for group in group_by(runs, ["model"])] == [(0, 2), (1, 3)]


def test_generation_names_its_settings() -> None:
    runs = [E | {"stop": stop, "max_new_tokens": limit} for stop, limit in (("natural", "512"), ("fixed", "128"))]
    (group,) = group_by(runs, ["generation"])
    assert group.names == ("max_new_tokens=512 stop=natural", "max_new_tokens=128 stop=fixed") or group.names == (
        "stop=natural max_new_tokens=512",
        "stop=fixed max_new_tokens=128",
    )


def test_variants_of_one_model_are_told_apart() -> None:
    runs = [V | {"model.frames": frames} for frames in ("2", "8")] + [E]
    (group,) = group_by(runs, ["model"])
    assert group.names == ("model=videollava model.frames=2", "model=videollava model.frames=8", "model=eventgpt")


@pytest.mark.parametrize(
    ("word", "message"),
    [("precison", "did you mean 'precision'"), ("seed", "do not differ in it; they differ in model.name")],
)
def test_a_word_that_cannot_group_is_one_line(word: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        group_by(RUNS, [word])


def test_runs_of_one_name_are_told_apart_by_what_differs_else_by_their_id() -> None:
    runs = [E | {"stop": "natural"}, E | {"stop": "fixed"}, V, E | {"stop": "fixed"}]
    ids = ["a" * 32, "b" * 32, "c" * 32, "d" * 32]
    names = distinct_names(["x", "x", "y", "x"], runs, ids)
    assert names == ("x (stop=natural)", "x (stop=fixed bbbbbbbb)", "y", "x (stop=fixed dddddddd)")


def test_runs_that_differ_in_the_seed_and_labels_alone_are_one_configuration() -> None:
    runs = [E, V, E | {"seed": "1", "run_name": "again", "replicates": "3"}, E | {"precision": "bf16"}]
    assert same_configuration(runs) == ((0, 2), (1,), (3,))


def test_a_replicate_is_a_process_of_a_run_and_runs_of_one_process_share_theirs() -> None:
    def run(run_id: str, process: str, *replicates: int) -> RunData:
        columns = Columns.of([timed("a", replicate=replicate) for replicate in replicates])
        fresh = {"fourstage.replicates": "2"} if 1 in replicates else {}
        return RunData(run_id, run_id, {}, {"fourstage.process": process} | fresh, {}, columns)

    runs = [run("a", "host 1@1.0", 0, 0, 1, 1), run("b", "host 1@1.0", 0, 1), run("c", "host 2@1.0", 0)]
    runs += [run("d", "host 2@1.0", 0), run("e", "host 3@1.0", 0)]
    assert [list(codes) for codes in replicate_codes(runs)] == [[0, 0, 1, 1], [2, 3], [4], [4], [5]]
