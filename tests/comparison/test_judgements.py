"""Over random records: no ratio's interval touches 0, and no verdict is contradicted by its words or its sentence."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourstage.comparison import effects
from fourstage.comparison.run_data import RunData
from fourstage.records.columns import Columns
from fourstage.records.figures import TOTAL
from fourstage.records.units import with_limits
from fourstage.report.wording import pair_sentence
from fourstage.stages import SampleRecord
from fourstage.stats.replicates import Floor
from fourstage.stats.verdicts import CLAIMS, WORDS, Verdict
from tests.builders import timed

FLOOR = Floor(0.02, 8.0, math.nan, 9, 10)
SAID = {word for pair in WORDS.values() for word in pair[:2]}
BEGINS = {
    Verdict.INCONCLUSIVE: ("No detectable difference", "Nothing can be"),
    Verdict.NOT_REPLICATED: ("Not replicated:", "Nothing can be"),
    Verdict.INVALID: ("No claim, since a run is invalid:", "Nothing can be"),
}


@st.composite
def any_records(draw: st.DrawFn) -> list[SampleRecord]:
    """Few processes and samples; alike, or wild (0 s and 1000 s too); some samples failed, some are of one drive."""
    replicates, samples = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stage = draw(st.sampled_from([st.floats(0.0, 1e3), st.floats(0.099, 0.101), st.floats(0.19, 0.21)]))
    found = []
    for replicate in range(replicates):
        for i in range(samples):
            made = timed(
                f"drive {i // 2}/{i}", *(draw(stage) for _ in range(4)), (draw(stage), draw(stage)),
                position=len(found), replicate=replicate,
            )  # fmt: skip
            if draw(st.integers(0, 9)) == 0:
                made = timed(made.key, position=len(found), replicate=replicate, error="broken", total_s=None)
            found.append(made)
    return found


@settings(max_examples=120, deadline=None)
@given(st.lists(any_records(), min_size=2, max_size=3), st.booleans(), st.booleans())
def test_no_interval_touches_zero_and_no_sentence_contradicts_its_verdict(
    sides: list[list[SampleRecord]], valid: bool, floor: bool
) -> None:
    runs = [
        RunData(f"{i}", f"run {i}", {}, {}, {}, Columns.of(made), valid=valid or i == 0) for i, made in enumerate(sides)
    ]
    floors = {run.run_id: {TOTAL.field: FLOOR} for run in runs} if floor else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(effects, "RESAMPLES", 20)
        found = effects.compare(runs, floors=floors)
    for pair in found.pairs:
        for row in pair.rows:
            if row.effect is None:
                assert row.verdict is None
                continue
            if math.isfinite(row.ratio.high):
                assert 0 < row.ratio.low <= row.ratio.estimate <= row.ratio.high
            else:
                assert "too few to tell" in with_limits(row.ratio, "")
            if row.judgement is None:
                continue
            assert bool(SAID & set(row.text.split())) == row.claimed
            assert (row.verdict is Verdict.INVALID) == (not valid)
            if row.claimed:
                assert row.detected
                assert row.difference.estimate * math.log(row.ratio.estimate) >= 0
            single = min(pair.replicates) == 1
            if valid and single and not (floor and row.name == TOTAL.heading):
                assert row.verdict is Verdict.NOT_REPLICATED
        sentence, total = pair_sentence(pair), pair.row(TOTAL.heading)
        assert (pair.verdict in CLAIMS) == (bool({"faster", "slower"} & set(sentence.split())) and total is not None)
        if total is not None and total.judgement is not None and pair.verdict in BEGINS:
            assert sentence.startswith(BEGINS[pair.verdict])
        assert ("are equal within" in sentence) == (pair.verdict is Verdict.EQUIVALENT)
