"""Contributions sum to the gap, each cause gets what it caused, and the sentence says what the numbers say."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourstage.comparison.attribution import FACTORS, Attribution, attribute_pairs, logarithmic_mean
from fourstage.comparison.effects import compare
from fourstage.comparison.pairing import pair_keys, per_key
from fourstage.comparison.run_data import RunData
from fourstage.records.columns import Columns
from fourstage.report.wording import pair_sentence
from fourstage.stages import STAGES, SampleRecord
from fourstage.stats.verdicts import CLAIMS, Verdict
from tests.builders import timed


def record(
    key: str,
    load: float = 0.1,
    preprocess: float = 0.05,
    encode: float = 0.2,
    prefill: float = 0.1,
    token_s: Sequence[float] = (0.02,) * 10,
    tail: float = 0.001,
    batch_size: int = 1,
    waited: float = 0.0,
    repeat: int = 0,
    position: int = 0,
) -> SampleRecord:
    """As `loop.py` makes them: stages are shares of the batch's seconds, prefill and steps what a sample waits."""
    made = timed(key, load, preprocess, encode, prefill, token_s, tail + waited, repeat=repeat, position=position)
    shared = {f"{stage}_s": (getattr(made, f"{stage}_s") or 0.0) / batch_size for stage in STAGES}
    return replace(made, **shared, total_s=sum(shared.values()), batch_size=batch_size)  # type: ignore[arg-type]


def split(baseline: Sequence[SampleRecord], target: Sequence[SampleRecord], resamples: int = 200) -> Attribution | None:
    pairs = pair_keys(per_key(Columns.of(baseline)), per_key(Columns.of(target)))
    return attribute_pairs(pairs, resamples=resamples)


def attributed(baseline: Sequence[SampleRecord], target: Sequence[SampleRecord], resamples: int = 200) -> Attribution:
    found = split(baseline, target, resamples)
    assert found is not None
    return found


def contributions(found: Attribution) -> dict[str, float]:
    return {factor.name: factor.contribution.estimate for factor in found.factors}


TIMES = st.floats(0.0, 100.0)
SIDES = st.builds(
    record,
    key=st.just("a"),
    load=TIMES,
    preprocess=TIMES,
    encode=TIMES,
    prefill=TIMES,
    token_s=st.lists(TIMES, max_size=6),
    tail=TIMES,
    waited=TIMES,
    batch_size=st.integers(1, 4),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=6))
def test_contributions_sum_to_the_gap(pairs: list[tuple[SampleRecord, SampleRecord]]) -> None:
    one, other = ([replace(pair[i], key=f"clip {n}") for n, pair in enumerate(pairs)] for i in (0, 1))
    found = attributed(one, other, resamples=20)
    assert np.isfinite(found.per_sample).all()
    gaps = np.array([(b.total_s or 0) - (a.total_s or 0) for a, b in zip(one, other, strict=True)])
    largest = max(abs(found.per_sample).max(), 1e-300)
    # a sum of floats is as exact as its largest part
    np.testing.assert_allclose(found.per_sample.sum(axis=1), gaps, rtol=1e-9, atol=1e-14 * largest)
    total = sum(contributions(found).values())
    assert math.isclose(total, found.target_s - found.baseline_s, rel_tol=1e-9, abs_tol=1e-13 * largest)
    assert math.isclose(total, found.gap.estimate, rel_tol=1e-9, abs_tol=1e-13 * largest)


@settings(deadline=None, max_examples=100)
@given(SIDES, SIDES)
def test_log_shares_sum_to_the_logarithm_of_the_ratio(one: SampleRecord, other: SampleRecord) -> None:
    one, other = (replace(r, load_s=(r.load_s or 0) + 1, total_s=(r.total_s or 0) + 1) for r in (one, other))
    found = attributed([one], [other], resamples=20)
    logs = [factor.log_share for factor in found.factors]
    ratio = found.target_s / found.baseline_s
    assert math.isclose(sum(logs), math.log(ratio), rel_tol=1e-9, abs_tol=1e-11)
    assert math.isclose(math.prod(factor.ratio for factor in found.factors), ratio, rel_tol=1e-9)


def test_the_logarithmic_mean_is_exact_near_equality() -> None:
    assert logarithmic_mean(2.0, 2.0) == 2.0
    assert logarithmic_mean(2.0, 2.0 + 1e-12) == pytest.approx(2.0, rel=1e-11)
    assert logarithmic_mean(1.0, math.e) == pytest.approx(math.e - 1)


def test_each_cause_gets_what_it_alone_changed() -> None:
    base = record("a")
    changed = {
        "load": record("a", load=0.4),
        "preprocess": record("a", preprocess=0.35),
        "encode": record("a", encode=0.5),
        "prefill": record("a", prefill=0.4),
        "tokens": record("a", token_s=(0.02,) * 25),
        "time_per_token": record("a", token_s=(0.05,) * 10),
        "rest": record("a", tail=0.301),
    }
    for name, target in changed.items():
        found = contributions(attributed([base], [target]))
        assert tuple(found) == FACTORS
        assert found.pop(name) == pytest.approx(0.3), name
        assert list(found.values()) == pytest.approx([0] * 6, abs=1e-12), name


def test_tokens_and_their_time_share_their_product_evenly() -> None:
    found = contributions(attributed([record("a", token_s=(0.02,) * 10)], [record("a", token_s=(0.04,) * 30)]))
    assert found["tokens"] == pytest.approx(20 * 0.03)
    assert found["time_per_token"] == pytest.approx(0.02 * 20)


def test_who_is_the_baseline_changes_nothing_but_the_sign() -> None:
    one, other = [record("a", load=0.3)], [record("a", token_s=(0.05,) * 4)]
    there, back = contributions(attributed(one, other)), contributions(attributed(other, one))
    assert [-value for value in back.values()] == pytest.approx(list(there.values()))


def test_without_a_step_on_one_side_all_of_it_is_the_number_of_tokens() -> None:
    found = contributions(attributed([record("a", token_s=())], [record("a", token_s=(0.02, 0.04))]))
    assert found["tokens"] == pytest.approx(0.06)
    assert found["time_per_token"] == 0.0
    found = contributions(attributed([record("a", token_s=())], [record("a", token_s=(), load=0.4)]))
    assert (found["tokens"], found["time_per_token"]) == (0.0, 0.0)
    assert found["load"] == pytest.approx(0.3)


def test_a_batch_saves_time_per_token_and_waiting_for_the_longest_answer_is_the_rest() -> None:
    alone = [record(key, token_s=(0.02,) * n, tail=0.0) for key, n in (("a", 10), ("b", 4))]
    # together, a step takes 0.03 s for both; b waits for six steps of a's
    together = [
        record("a", token_s=(0.03,) * 10, tail=0.0, batch_size=2),
        record("b", token_s=(0.03,) * 4, tail=0.0, batch_size=2, waited=6 * 0.03),
    ]
    found = attributed(alone, together)
    columns = [factor.name for factor in found.factors]
    short = dict(zip(columns, found.per_sample[1], strict=True))
    assert short["tokens"] == 0.0
    assert short["time_per_token"] == pytest.approx(4 * (0.015 - 0.02))
    assert short["rest"] == pytest.approx(6 * 0.03 / 2)
    assert short["prefill"] == pytest.approx(0.1 / 2 - 0.1)
    assert dict(zip(columns, found.per_sample[0], strict=True))["rest"] == pytest.approx(0)


def test_repeats_are_averaged_so_that_each_sample_counts_once() -> None:
    one = [record("a", load=0.1, repeat=0), record("a", load=0.3, repeat=1), record("b", load=1.0)]
    found = attributed(one, [record("a", load=0.7), record("b", load=1.0)])
    assert found.n == 2
    assert contributions(found)["load"] == pytest.approx((0.5 + 0) / 2)


def test_what_was_not_timed_apart_is_in_the_rest_and_is_named() -> None:
    """As old three-stage results have it: generate is encode and decode together."""
    whole = [
        replace(record(key, load=load), encode_s=None, decode_s=None, prefill_s=None, token_s=(), total_s=load + 2.0)
        for key, load in (("a", 0.2), ("b", 0.3))
    ]
    target = [replace(r, load_s=(r.load_s or 0) + 0.1, total_s=(r.total_s or 0) + 0.6) for r in whole]
    found = attributed(whole, target)
    assert contributions(found) == pytest.approx({"load": 0.1, "preprocess": 0.0, "rest": 0.5})
    assert found.missing == ("encode", "prefill", "tokens", "time_per_token")


def test_a_sample_that_lacks_one_time_is_left_out_and_counted() -> None:
    one = [record("a"), replace(record("b"), encode_s=None)]
    found = attributed(one, [record("a", load=0.4), record("b")])
    assert (found.n, found.left_out, found.keys) == (1, 1, ("a",))


def test_runs_without_a_common_success_have_no_attribution() -> None:
    failed = replace(record("a"), error="broken", error_stage="decode")
    assert split([record("a")], [failed]) is None
    assert split([record("a")], [record("b")]) is None
    assert split([], []) is None


def simulated(seed: int, n: int = 40, **factor: float) -> list[SampleRecord]:
    """Samples that differ much among themselves, the same in every run, and 2 % noise of each measurement."""
    rng, clips = np.random.default_rng(seed), np.random.default_rng(9)
    records = []
    for i in range(n):
        size, tokens = clips.lognormal(0, 0.6), int(clips.integers(5, 40))
        noisy = rng.lognormal(0, 0.02, 5) * size
        records.append(
            record(
                f"clip {i}",
                load=0.1 * noisy[0] * factor.get("load", 1),
                preprocess=0.03 * noisy[1],
                encode=0.05 * noisy[2] * factor.get("encode", 1),
                prefill=0.04 * noisy[3],
                token_s=(0.01 * noisy[4] * factor.get("step", 1),) * round(tokens * factor.get("tokens", 1)),
            )
        )
    return records


def test_intervals_of_contributions_cover_the_truth() -> None:
    """200 repeats: 95 % have a standard error of 1.5 %; clips are drawn anew each time, as the interval means it."""
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        size = rng.lognormal(0, 0.5, 40)
        one = [record(f"{i}", encode=0.1 * s * rng.lognormal(0, 0.02)) for i, s in enumerate(size)]
        other = [record(f"{i}", encode=0.08 * s * rng.lognormal(0, 0.02)) for i, s in enumerate(size)]
        truth = -0.02 * math.exp(0.5**2 / 2 + 0.02**2 / 2)
        hits += attributed(one, other, resamples=400).factor("encode").contribution.contains(truth)
    assert 0.90 <= hits / 200 <= 0.99


def said(baseline: Sequence[SampleRecord], target: Sequence[SampleRecord], processes: int = 3) -> str:
    """The sentence on two runs whose processes all measured the same."""
    runs = [
        RunData(name, name, {}, {}, {}, Columns.of([replace(r, replicate=i) for i in range(processes) for r in made]))
        for name, made in (("one", baseline), ("two", target))
    ]
    return pair_sentence(compare(runs).pairs[0])


def test_the_sentence_tells_the_main_cause_as_a_share_of_the_gap_and_what_works_against_it() -> None:
    baseline, target = simulated(1), simulated(2, step=2.0, load=0.5)
    found, text = attributed(baseline, target), said(baseline, target)
    gap, tokens, load = found.gap, found.factor("time_per_token"), found.factor("load")
    assert re.match(r"two is 1\.\d\dx slower than one in total \(ratio 1\.\d+ \[", text)
    assert "over 40 paired samples, in 3 processes a side" in text
    assert f"most of the gap comes from the time per token (+{1000 * tokens.contribution.estimate:.0f} ms, " in text
    share = 100 * tokens.contribution.estimate / gap.estimate
    assert share > 100  # since loading opposes it
    assert f"{share:.0f} % of the gap)" in text
    assert "; against it works loading (−" in text
    assert f"{100 * -load.contribution.estimate / gap.estimate:.0f} % of the gap the other way)" in text
    assert "encoding" not in text
    assert text.endswith(".")
    assert "\n" not in text


def test_the_sentence_says_faster_where_the_target_is_faster() -> None:
    text = said(simulated(1), simulated(2, tokens=0.3))
    assert re.match(r"two is \d\.\d\dx faster than one in total", text)
    assert "most of the gap comes from the number of tokens (−" in text
    assert "against it" not in text


def test_the_sentence_claims_no_difference_where_the_verdict_claims_none() -> None:
    rng = np.random.default_rng(4)
    noisy = [replace(r, total_s=(r.total_s or 0) * rng.lognormal(0, 0.4)) for r in simulated(1)]
    text = said(simulated(1), noisy)
    assert text.startswith("No detectable difference in total between two and one over 40 paired samples")
    assert "would have been seen" in text
    assert "faster" not in text
    assert "gap" not in text


def test_the_sentence_of_equal_runs_says_equal() -> None:
    text = said(simulated(1), simulated(2))
    assert text.startswith("two and one are equal within 2 % in total (ratio ")
    assert "gap" not in text


def test_the_sentence_says_where_means_and_medians_disagree_and_names_no_cause_against_the_verdict() -> None:
    """One sample of 4.9 s among those of 0.2 s: the mean says slower, all others say faster."""
    one = [record(f"clip {i}", load=1.0) for i in range(12)]
    other = [record(f"clip {i}", load=40.0 if i == 0 else 0.3 + 0.001 * i) for i in range(12)]
    text = said(one, other)
    assert "means and medians disagree: the ratio is " in text
    assert "most of the gap" not in text or "slower" in text


def test_the_sentence_names_no_cause_that_may_be_chance_before_one_that_is_clear() -> None:
    """Encoding and preprocessing scatter against each other: the larger part cannot be told, the smaller one can."""
    records = simulated(3)
    scatter = np.tile([-3.0, 3.0], 20)
    target = [
        replace(
            r,
            load_s=(r.load_s or 0) + 0.1,
            encode_s=(r.encode_s or 0) + 0.3 + d,
            preprocess_s=(r.preprocess_s or 0) + 0.2 - d,
            total_s=(r.total_s or 0) + 0.6,
        )
        for r, d in zip(records, scatter, strict=True)
    ]
    text = said(records, target)
    assert (
        "; of what is distinguishable from chance, the largest part comes from loading (+100 ms, 17 % of the gap)"
        in text
    )
    assert "encoding" not in text


def test_the_sentence_names_what_was_not_timed_apart() -> None:
    whole = [replace(r, encode_s=None, decode_s=None, prefill_s=None, token_s=()) for r in simulated(1)]
    target = [replace(r, total_s=(r.total_s or 0) * 2) for r in whole]
    text = said(whole, target)
    assert "comes from what was not timed apart: encoding, the prefill, the number of tokens and the time per" in text


ANY_RUN = st.lists(st.tuples(st.floats(1e-4, 10.0), st.floats(1e-4, 10.0)), min_size=1, max_size=8)


@settings(deadline=None, max_examples=40)
@given(ANY_RUN, ANY_RUN, st.integers(1, 3), st.floats(0.5, 2.0))
def test_no_interval_reaches_zero_and_no_sentence_says_more_than_its_verdict(
    one: list[tuple[float, float]], other: list[tuple[float, float]], processes: int, luck: float
) -> None:
    runs = [
        RunData(name, name, {}, {}, {}, Columns.of([
            replace(record(f"{i}", load=load * luck**replicate, encode=encode), replicate=replicate)
            for replicate in range(processes) for i, (load, encode) in enumerate(made)
        ]))
        for name, made in (("one", one), ("two", other))
    ]  # fmt: skip
    pair = compare(runs).pairs[0]
    for row in pair.rows:
        assert row.effect is None or math.isinf(row.ratio.high) or (row.ratio.low > 0 and row.ratio.estimate > 0)
        claims = any(word in row.text for word in ("slower", "faster", "higher", "lower", "larger", "smaller"))
        assert row.verdict is None or claims == (row.verdict in CLAIMS)
        assert processes > 1 or row.verdict not in (*CLAIMS, Verdict.EQUIVALENT)
        if row.verdict is not None and row.claimed and row.effect is not None:
            assert ("slower" in row.text or "larger" in row.text or "higher" in row.text) == (row.effect.log > 0)
    text = pair_sentence(pair)
    assert (" slower than " in text or " faster than " in text) == (pair.verdict in CLAIMS)
    assert text.startswith("Not replicated") or text.startswith("Nothing") or processes > 1
