"""One judgement a row: words and verdict never contradict each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourstage.stats.replicates import Effect, Floor, Measured, log_ratio
from fourstage.stats.simulation import Study, draw
from fourstage.stats.verdicts import CLAIMS, WORDS, Verdict, holm, judge, times

FLOOR = Floor(0.02, 8.0, math.nan, 9, 10)


def sides(made: Study, seed: int) -> list[Measured]:
    both = draw(made, 1, np.random.default_rng(seed))
    rows, columns = np.divmod(np.arange(made.replicates * made.samples), made.samples)
    return [Measured(np.exp(logs[0]).ravel(), rows, columns, made.codes[columns]) for logs in both]


def effect(ratio: float = 1.0, replicates: int = 5, process: float = 0.005, seed: int = 1, **more: object) -> Effect:
    target, baseline = sides(Study(replicates, 10, process, noise=0.01, ratio=ratio), seed)
    return log_ratio(target, baseline, **more)  # type: ignore[arg-type]


values = st.floats(1e-9, 1e9)


@st.composite
def any_side(draw_: st.DrawFn) -> Measured:
    """Random records: few or many, wild or constant, with holes, repeats and clusters."""
    replicates, samples = draw_(st.integers(1, 4)), draw_(st.integers(1, 5))
    cells = [(r, s) for r in range(replicates) for s in range(samples) if s == 0 or r == 0 or draw_(st.booleans())]
    cells += draw_(st.lists(st.sampled_from(cells), max_size=3))
    level = draw_(st.sampled_from([0.2, 0.2, 1.0]))
    wild = draw_(st.booleans())
    measured = [draw_(values) if wild else level * draw_(st.floats(0.9, 1.1)) for _ in cells]
    return Measured(measured, [r for r, _ in cells], [s for _, s in cells], [s // 2 for _, s in cells])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(any_side(), any_side()), min_size=1, max_size=3),
    st.sampled_from(sorted(WORDS)),
    st.sampled_from([None, FLOOR]),
)
def test_words_never_contradict_the_verdict_and_no_interval_touches_zero(
    pairs: list[tuple[Measured, Measured]], kind: str, known: Floor | None
) -> None:
    for row in judge([log_ratio(target, baseline, known=known) for target, baseline in pairs], kind):
        found = row.effect
        assert 0 < found.low <= found.ratio <= found.high
        claims = row.verdict in CLAIMS
        above, below, better = WORDS[kind]
        assert bool(row.word) == claims
        said = set(row.sentence.replace(":", " ").split()) & {word for pair in WORDS.values() for word in pair[:2]}
        assert said == ({row.word} if claims else set())
        if claims:
            assert not found.low <= 1 <= found.high  # the interval says it too
            assert row.word == (above if found.ratio > 1 else below)
            estimate, low, high = found.difference
            assert (estimate > 0) == (low > 0) == (high > 0) == (found.ratio > 1) or found.ratio == 1
        if row.verdict in (Verdict.IMPROVED, Verdict.REGRESSED):
            assert (row.verdict is Verdict.IMPROVED) == ((better == "below") == (found.ratio < 1))
        if row.verdict is Verdict.EQUIVALENT:
            assert 1 / (1 + found.margin) <= found.ratio <= 1 + found.margin
        assert (row.verdict is Verdict.NOT_REPLICATED) == (not found.replicated)
        assert "1.00x" not in row.text or not claims


@pytest.mark.parametrize(
    ("ratio", "kind", "verdict", "text"),
    [
        (1.2, "time", Verdict.REGRESSED, "slower"),
        (0.8, "time", Verdict.IMPROVED, "faster"),
        (1.2, "rate", Verdict.IMPROVED, "higher"),
        (0.8, "rate", Verdict.REGRESSED, "lower"),
        (1.2, "size", Verdict.REGRESSED, "larger"),
        (1.2, "count", Verdict.DIFFERENT, "more"),
        (0.8, "count", Verdict.DIFFERENT, "fewer"),
        (1.0, "time", Verdict.EQUIVALENT, "equal within 2 %"),
    ],
)
def test_a_kind_knows_which_direction_is_better(ratio: float, kind: str, verdict: Verdict, text: str) -> None:
    (row,) = judge([effect(ratio)], kind)
    assert row.verdict is verdict
    assert row.text.endswith(text)


def test_a_wide_interval_is_inconclusive_and_says_what_would_have_been_seen() -> None:
    (row,) = judge([effect(process=0.1)])
    assert row.verdict is Verdict.INCONCLUSIVE
    assert row.sentence.startswith("no detectable difference: ratio ")
    assert "would have been seen" in row.sentence


def test_one_process_a_side_has_no_verdict_and_says_how_to_get_one() -> None:
    (row,) = judge([effect(3.0, replicates=1)])
    assert row.verdict is Verdict.NOT_REPLICATED
    assert "measure each configuration in several processes" in row.sentence
    (known,) = judge([effect(3.0, replicates=1, known=FLOOR)])
    assert known.verdict is Verdict.REGRESSED


def test_rows_that_are_not_replicated_do_not_weaken_the_others() -> None:
    clear, single = effect(1.03), effect(3.0, replicates=1)
    (alone,) = judge([clear])
    assert judge([clear, *[single] * 20])[0].p_value == alone.p_value
    assert judge([clear] * 20)[0].p_value > alone.p_value


def test_holm_is_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_a_factor_never_reads_as_none() -> None:
    assert [times(factor) for factor in (1.234, 1.0123, 1.0004, 12.34)] == ["1.23x", "1.012x", "1.0004x", "12.3x"]


def test_what_cannot_be_judged_is_refused() -> None:
    one = effect()
    with pytest.raises(ValueError, match="unknown kind 'speed'"):
        judge([one], "speed")
    with pytest.raises(ValueError, match="1 effects have 2 kinds"):
        judge([one], ["time", "rate"])
    with pytest.raises(ValueError, match="alpha lies between 0 and 1"):
        judge([one], alpha=5)
