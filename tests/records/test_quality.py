"""Quality is scored where there is something to score against, and badly where an answer deserves it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fourstage.records.columns import Columns
from fourstage.records.quality import quality, scores
from fourstage.records.table import read_records, write_records
from fourstage.stages import SampleRecord

SCENE = json.dumps(
    {
        "time": "night", "road": "left", "people": 0, "light": {"direction": "left", "speed": "slow"},
        "vehicles": [{"kind": "car", "colour": "red", "direction": "ahead"}],
    }
)  # fmt: skip
OPEN = "What are the key elements in this scene?"
GOOD = "The key elements in this scene at night are a road that bends to the left, a red car and a board."


def record(output: str, reference: str, error: str | None = None) -> SampleRecord:
    return SampleRecord("k", "k", 0, output=output, reference=reference, error=error)


def of_scene(output: str, question: str = OPEN) -> SampleRecord:
    return replace(record(output, GOOD), question=question, attributes=SCENE)


@pytest.mark.parametrize("name", ["chrf", "bleu", "rouge_l"])
def test_the_reference_itself_scores_100_and_other_words_less(name: str) -> None:
    assert quality([record("A red car drives.", "A red car drives.")])[f"quality.{name}"] == pytest.approx(100)
    near, far = quality([record("A red van.", "A red car.")]), quality([record("xyz", "A red car.")])
    assert 0 <= far[f"quality.{name}"] < near[f"quality.{name}"] < 100


def test_samples_without_a_reference_and_failed_ones_are_left_out() -> None:
    scored = quality([record("a", "a"), record("b", ""), record("c", "x", error="broken")])
    assert scored["quality.references"] == 1


def test_no_reference_no_figure() -> None:
    assert quality([record("a", "")]) == {}


def test_an_empty_answer_is_scored_as_nothing() -> None:
    assert {name: score for name, score in quality([record("", "A red car.")]).items() if score} == {
        "quality.references": 1
    }


def test_a_true_description_has_every_fact_right() -> None:
    found = quality([of_scene(GOOD)])
    assert found["quality.accuracy"] == 100
    assert found["quality.accuracy.colour"] == found["quality.accuracy.people"] == 100
    assert "quality.accuracy.motion" not in found  # neither asked nor stated


@pytest.mark.parametrize("bad", ["", OPEN, "a red car " * 30, "The The The The The The The The"])
def test_answers_that_end_at_once_repeat_or_copy_score_as_badly_as_they_deserve(bad: str) -> None:
    good, found = scores(of_scene(GOOD)), scores(of_scene(bad))
    assert found["accuracy"] == 0
    assert all(found[name] < good[name] / 2 for name in ("chrf", "bleu", "rouge_l"))


def test_a_multiple_choice_is_scored_where_a_sample_has_options() -> None:
    sample = replace(record("B) two", ""), options=("one", "two"), answer="B")
    assert quality([sample, replace(sample, output="A"), record("A", "")])["quality.choice"] == 50
    assert "choice" not in scores(replace(sample, answer="C"))


def test_another_datasets_attributes_are_not_scored() -> None:
    for attributes in ("", "{}", "[1]", '{"time": 3, "road": 1, "vehicles": 2, "people": 1, "light": 0}'):
        assert "accuracy" not in scores(
            replace(record("It is night.", ""), question="Is it night?", attributes=attributes)
        )


def test_scores_are_written_with_the_records(tmp_path: Path) -> None:
    write_records([of_scene(GOOD), of_scene(""), record("a", "")], tmp_path / "records.parquet")
    found = read_records(tmp_path / "records.parquet")
    assert [one.quality_accuracy for one in found] == [100, 0, None]
    columns = Columns.read(tmp_path / "records.parquet")
    assert columns.quality_accuracy.tolist()[:2] == [100, 0]
    assert columns.quality_chrf[0] > columns.quality_chrf[1] == 0
