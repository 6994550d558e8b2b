"""The metrics of a run are those of the samples that succeeded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fourstage.records.columns import Columns
from fourstage.records.figures import OF_STAGE
from fourstage.records.summary import summarise, summarise_run, tpot_over_context
from fourstage.stages import STAGES, SampleRecord
from tests.builders import timed

RECORD = timed(
    decode_s=2.0, total_s=2.6, end_to_end_s=2.6, text_tokens=10, visual_tokens=90, finish_reason="stop",
    peak_memory_bytes=100,
)  # fmt: skip


FAILED = replace(RECORD, error="broken", error_stage="decode", decode_s=99.0, peak_memory_bytes=10**9)


FIGURES = ("mean", "median", "p90", "p95", "p99", "std", "mad")


NAMES_IN_DESIGN = {
    f"{name}.{figure}"
    for name in (
        "stage1_load_s",
        "stage2_preprocess_s",
        "stage3_encode_s",
        "stage4_decode_s",
        "total_s",
        "prefill_s",
        "ttft_s",
    )
    for figure in FIGURES
} | {
    "tpot_ms",
    "tokens_per_s",
    "output_tokens.mean",
    "input_tokens.mean",
    "samples_ok",
    "samples_failed",
    "truncated_share",
    "peak_memory_bytes",
}


def test_summary_of_known_numbers() -> None:
    summary = summarise([4.0, 1.0, 2.0, 3.0])
    assert (summary.n, summary.mean, summary.median) == (4, 2.5, 2.5)
    assert summary.p90 == pytest.approx(3.7)
    assert summary.p95 == pytest.approx(3.85)
    assert summary.p99 == pytest.approx(3.97)
    assert summary.mad == pytest.approx(1.4826)  # deviations 1.5, 1.5, 0.5, 0.5
    assert summary.std == pytest.approx((5 / 3) ** 0.5)


def test_one_number_has_no_spread() -> None:
    assert summarise([7.0]) == summarise([7.0])
    assert summarise([7.0]).std == 0.0
    assert summarise([7.0]).mad == 0.0
    assert summarise([7.0]).p95 == 7.0


def test_mad_estimates_the_deviation_of_normal_data_and_ignores_a_hiccup() -> None:
    values = np.random.default_rng(0).normal(10, 2, 20_000)
    assert summarise(values).mad == pytest.approx(2, rel=0.03)
    assert summarise(np.append(values, 1e6)).mad == pytest.approx(2, rel=0.03)


def test_nothing_cannot_be_summarised() -> None:
    with pytest.raises(ValueError, match="no values"):
        summarise([])


def test_stage_metrics_follow_the_order_of_the_stages() -> None:
    assert [figure.stage for figure in OF_STAGE] == list(STAGES)


def test_metric_names_are_those_of_the_design() -> None:
    assert set(summarise_run([RECORD, FAILED])) == NAMES_IN_DESIGN


def test_failed_samples_are_counted_and_enter_no_figure() -> None:
    metrics = summarise_run([RECORD, FAILED])
    assert (metrics["samples_ok"], metrics["samples_failed"]) == (1, 1)
    assert metrics["stage4_decode_s.mean"] == 2.0
    assert metrics["peak_memory_bytes"] == 100


def test_no_metric_comes_from_no_data() -> None:
    bare = SampleRecord(key="a", sample_id="a", position=0, load_s=1.0)
    metrics = summarise_run([bare])
    assert set(metrics) == {f"stage1_load_s.{figure}" for figure in FIGURES} | {"samples_ok", "samples_failed"}


def test_a_run_in_which_all_failed_has_only_counts() -> None:
    assert summarise_run([FAILED]) == {"samples_ok": 0, "samples_failed": 1}


def test_no_records_give_no_metrics() -> None:
    assert summarise_run([]) == {}


def test_token_rate_is_all_tokens_by_all_seconds() -> None:
    long = replace(RECORD, output_tokens=97, decode_s=8.0)
    assert summarise_run([RECORD, long])["tokens_per_s"] == pytest.approx(10.0)


def test_time_per_token_is_the_median_over_samples() -> None:
    slow = replace(RECORD, token_s=(1.0, 1.0))
    single = replace(RECORD, output_tokens=1, token_s=())  # has none
    assert summarise_run([RECORD, slow, single])["tpot_ms"] == pytest.approx(600.0)


def test_truncated_share_counts_outputs_ended_by_length() -> None:
    cut = replace(RECORD, finish_reason="length")
    assert summarise_run([RECORD, cut, cut, RECORD])["truncated_share"] == 0.5


def test_columns_give_the_metrics_of_their_records() -> None:
    records = [RECORD, FAILED, replace(RECORD, decode_s=None, finish_reason="length", token_s=(1.0, 2.0))]
    assert summarise_run(Columns.of(records)) == summarise_run(records)
    assert summarise_run(Columns.of([])) == {}


# intervals


def normal(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return rng.normal(1.0, 0.1, n)  # mean 1, median 1


# tokens


def decoded(n: int, rng: np.random.Generator) -> SampleRecord:
    """20 ms a token and 2 ms more per 1000 tokens of context, on a machine a little faster or slower each time."""
    steps, prompt = int(rng.integers(40, 80)), int(rng.integers(500, 900))
    context = prompt + 1 + np.arange(steps)
    token_s = (0.020 + 2e-6 * context) * rng.normal(1, 0.003) * rng.normal(1, 0.01, steps)
    return replace(
        RECORD, key=f"clip {n}", text_tokens=prompt - 400, visual_tokens=400, token_s=tuple(token_s.tolist())
    )


def test_the_cost_of_context_is_found() -> None:
    rng = np.random.default_rng(17)
    found = [tpot_over_context([decoded(n, rng) for n in range(40)]) for _ in range(20)]
    assert all(cost is not None for cost in found)
    costs = [cost for cost in found if cost is not None]
    assert np.mean([cost.slope.low <= 2.0 <= cost.slope.high for cost in costs]) >= 0.85
    assert np.median([cost.slope.slope for cost in costs]) == pytest.approx(2.0, rel=0.1)
    for cost in costs:
        assert cost.at_context_ms == pytest.approx(20 + 2 * cost.context_tokens / 1000, rel=0.005)
        assert cost.samples == 40
        assert 650 < cost.context_tokens < 800


def test_a_step_attends_to_the_prompt_and_the_tokens_before() -> None:
    record = replace(RECORD, token_s=tuple(0.001 * (100 + 1 + i) for i in range(50)))  # 1 ms per token of context
    cost = tpot_over_context([record, replace(record, key="b")])
    assert cost is not None
    assert cost.slope.slope == pytest.approx(1000)
    assert cost.slope.intercept == pytest.approx(0, abs=1e-9)
    assert cost.context_tokens == 125.5


def test_without_timed_steps_context_costs_nothing_known() -> None:
    assert tpot_over_context([]) is None
    assert tpot_over_context([FAILED, replace(RECORD, token_s=()), replace(RECORD, text_tokens=None)]) is None
    assert tpot_over_context([replace(RECORD, token_s=(0.1,))]) is None  # one context
