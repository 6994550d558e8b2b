"""Quality is scored where there is a reference."""

from __future__ import annotations

import pytest

from fourstage.records.quality import quality
from fourstage.stages import SampleRecord


def record(output: str, reference: str, error: str | None = None) -> SampleRecord:
    return SampleRecord("k", "k", 0, output=output, reference=reference, error=error)


def test_the_reference_itself_scores_100_and_other_words_less() -> None:
    assert quality([record("A red car.", "A red car.")])["quality.chrf"] == pytest.approx(100)
    near, far = quality([record("A red van.", "A red car.")]), quality([record("xyz", "A red car.")])
    assert 0 <= far["quality.chrf"] < near["quality.chrf"] < 100


def test_samples_without_a_reference_and_failed_ones_are_left_out() -> None:
    scored = quality([record("a", "a"), record("b", ""), record("c", "x", error="broken")])
    assert scored["quality.references"] == 1


def test_no_reference_no_figure() -> None:
    assert quality([record("a", "")]) == {}


def test_an_empty_answer_is_scored_as_nothing() -> None:
    assert quality([record("", "A red car.")])["quality.chrf"] == 0
