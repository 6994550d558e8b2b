"""Summaries are right, and what has no data has no figure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fourstage.analysis.statistics import STAGE_METRICS, summarise, summarise_run
from fourstage.stages import STAGES, SampleRecord

RECORD = SampleRecord(
    key="a",
    sample_id="a",
    position=0,
    load_s=0.1,
    preprocess_s=0.2,
    encode_s=0.3,
    decode_s=2.0,
    total_s=2.6,
    end_to_end_s=2.6,
    prefill_s=0.5,
    ttft_s=1.1,
    token_s=(0.1, 0.3),
    text_tokens=10,
    visual_tokens=90,
    output_tokens=3,
    finish_reason="stop",
    peak_memory_bytes=100,
)
FAILED = replace(RECORD, error="broken", error_stage="decode", decode_s=99.0, peak_memory_bytes=10**9)

FIGURES = ("mean", "median", "p90", "p95", "std")
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
    assert summary.std == pytest.approx((5 / 3) ** 0.5)


def test_one_number_has_no_spread() -> None:
    assert summarise([7.0]) == summarise([7.0])
    assert summarise([7.0]).std == 0.0
    assert summarise([7.0]).p95 == 7.0


def test_nothing_cannot_be_summarised() -> None:
    with pytest.raises(ValueError, match="no values"):
        summarise([])


def test_stage_metrics_follow_the_order_of_the_stages() -> None:
    assert tuple(STAGE_METRICS) == STAGES


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
