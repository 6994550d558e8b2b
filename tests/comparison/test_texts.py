"""Answers stand side by side, whole, with what differs marked and counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourstage.comparison.texts import agreement, compare_texts, mark
from fourstage.stages import SampleRecord


def record(key: str, output: str | None, ids: tuple[int, ...] = (), repeat: int = 0, **more: object) -> SampleRecord:
    values: dict[str, object] = {
        "key": key, "sample_id": key, "position": 0, "repeat": repeat, "output": output, "output_ids": ids,
        "output_tokens": len(ids), "question": "What?", "prompt": "USER: What?", "reference": "A car.",
    }  # fmt: skip
    return SampleRecord(**values | more)  # type: ignore[arg-type]


WORDS = st.text(alphabet="ab .\n<&é", max_size=40)


@settings(deadline=None, max_examples=200)
@given(WORDS, WORDS)
def test_spans_hold_both_texts_whole(one: str, other: str) -> None:
    spans = mark(one, other)
    assert "".join(span.text for span in spans if span.kind != "added") == one
    assert "".join(span.text for span in spans if span.kind != "removed") == other


def test_differences_are_marked_by_words() -> None:
    spans = mark("A red car turns left.", "A red truck turns.")
    assert [(span.text, span.kind) for span in spans] == [
        ("A red", "same"),
        (" car", "removed"),
        (" truck", "added"),
        (" turns", "same"),
        (" left", "removed"),
        (".", "same"),
    ]


def test_the_shared_prefix_is_counted_in_tokens_of_the_longer_answer() -> None:
    found = agreement(record("a", "A car.", (1, 2, 3)), record("a", "A cart here.", (1, 2, 9, 3, 4)))
    assert not found.exact
    assert found.prefix_tokens == 2
    assert found.prefix_share == pytest.approx(2 / 5)
    assert 0 < found.chrf < 100


def test_an_answer_that_goes_on_shares_all_of_the_shorter_one() -> None:
    found = agreement(record("a", "A car", (1, 2)), record("a", "A car turns", (1, 2, 3, 4)))
    assert (found.prefix_tokens, found.prefix_share) == (2, 0.5)


def test_equal_answers_agree_in_every_figure_also_where_both_are_empty() -> None:
    for text, ids in (("A car.", (1, 2)), ("", ())):
        found = agreement(record("a", text, ids), record("a", text, ids))
        assert found.exact
        assert found.prefix_share == 1.0
        assert found.chrf == 100.0


def test_an_empty_answer_against_words_agrees_in_nothing() -> None:
    for one, other in (("", "A car."), ("A car.", "")):
        assert agreement(record("a", one), record("a", other)).chrf == 0.0


def test_each_run_answers_in_its_column_and_the_baseline_has_no_agreement() -> None:
    rows = compare_texts(
        [
            ("one", [record("a", "A car.", (1, 2)), record("b", "Rain.", (5,))]),
            ("two", [record("b", "Rain.", (5,), finish_reason="length"), record("a", "A truck.", (1, 3))]),
        ]
    )
    assert [row.key for row in rows] == ["a", "b"]
    first, second = rows[0].answers
    assert first is not None
    assert second is not None
    assert (first.run, first.text, first.tokens, first.agreement) == ("one", "A car.", 2, None)
    assert second.agreement is not None
    assert second.agreement.prefix_tokens == 1
    assert {span.kind for span in second.spans} == {"same", "added", "removed"}
    assert (rows[0].question, rows[0].reference, second.prompt) == ("What?", "A car.", "USER: What?")
    again = rows[1].answers[1]
    assert again is not None
    assert again.agreement is not None
    assert again.agreement.exact
    assert again.finish_reason == "length"


def test_a_failed_answer_is_told_and_agrees_with_nothing() -> None:
    failed = record("a", None, error="no such file: a.npy", error_stage="load")
    (row,) = compare_texts([("one", [record("a", "A car.")]), ("two", [failed])])
    answer = row.answers[1]
    assert answer is not None
    assert (answer.error, answer.agreement, answer.spans) == ("no such file: a.npy", None, ())
    (row,) = compare_texts([("one", [failed]), ("two", [record("a", "A car.")])])
    assert row.answers[1] is not None
    assert row.answers[1].agreement is None
    assert [(span.text, span.kind) for span in row.answers[1].spans] == [("A car.", "same")]


def test_a_sample_that_a_run_lacks_leaves_its_column_empty() -> None:
    (row,) = compare_texts([("one", [record("a", "A car.")]), ("two", [record("z", "Rain.")])])
    assert row.answers[1] is None
