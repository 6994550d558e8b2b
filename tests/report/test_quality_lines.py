"""The lines of quality and of answers at the end of a run."""

from __future__ import annotations

from fourstage.records.columns import Columns
from fourstage.report.run_table import answer_line, quality_line
from fourstage.stages import SampleRecord


def record(number: int, accuracy: float | None) -> SampleRecord:
    return SampleRecord(
        f"k{number}", "k", number, output="A red car. " * 40, question="What is there?", reference="A red van.",
        quality_accuracy=accuracy,
    )  # fmt: skip


def test_a_score_has_its_mean_its_interval_within_0_and_100_and_its_n() -> None:
    line = quality_line(Columns.of([record(n, 100.0 * (n < 11)) for n in range(12)]))
    assert "accuracy 91.7 %" in line
    assert "n=12" in line
    low, high = line.partition("[")[2].partition("bold")[2].partition("\\[")[2].partition("]")[0].split(", ")
    assert 0 <= float(low) < 91.7 < float(high) <= 100


def test_without_scores_there_is_no_line() -> None:
    assert quality_line(Columns.of([record(0, None)])) == ""


def test_an_answer_and_its_reference_are_on_one_line() -> None:
    line = answer_line(record(0, None), width=120)
    assert "\n" not in line
    assert "A red car." in line
    assert "reference: A red van." in line
    assert len(line) < 180
