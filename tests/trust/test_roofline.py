"""Costs of a model small enough to count by hand, and what a run with known times reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fourstage.models.shapes import LanguageModel, Linear, Shapes, VisionTower
from fourstage.records.columns import Columns
from fourstage.stages import SampleRecord
from fourstage.trust import roofline
from fourstage.trust.roofline import (
    Cost,
    Peaks,
    Shares,
    decode_step_cost,
    encode_cost,
    floor_s,
    prefill_cost,
    shares,
)

VISION = VisionTower(layers=2, hidden=4, intermediate=8, tokens=5, patch_inputs=12, layer_vectors=40)
LANGUAGE = LanguageModel(
    layers=3, hidden=8, intermediate=16, heads=4, kv_heads=2, head_dim=2, vocab=100, layer_vectors=16
)
SHAPES = Shapes(VISION, (Linear(4, 8), Linear(8, 8)), Linear(8, 8), LANGUAGE, bytes_per_value=2)
PEAKS = Peaks("a device", ((1_000, 4e6), (1_000_000, 1e6)), {"fp32": 1e6, "bf16": 2e6}, "highest", 1.7e9)

LAYER = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16  # query, key and value of two of four heads, output, MLP
HEAD = 100 * 8


def record(position: int = 0, **fields: Any) -> SampleRecord:
    """A sample of 2 images, 7 rows and 3 decode steps."""
    known: dict[str, Any] = {
        "key": f"s{position}", "sample_id": "id", "started_unix_s": float(position), "images": 2, "text_tokens": 3,
        "visual_tokens": 4, "encode_s": 1.0, "prefill_s": 1.0, "token_s": (1.0, 1.0, 1.0), "output_tokens": 4,
    }  # fmt: skip
    return SampleRecord(position=position, **known | fields)


def run_shares(records: Sequence[SampleRecord], shapes: Shapes, peaks: Peaks, dtype: str, beams: int = 1) -> Shares:
    """Of a run that is short enough to be sampled whole."""
    return roofline.run_shares(Columns.of(records), records, shapes, peaks, dtype, beams)


def test_parameters_are_counted_part_by_part() -> None:
    assert VISION.layer_matrices == 4 * 16 + 2 * 32
    assert VISION.parameters == 48 + 4 + 20 + 16 + 2 * (128 + 40)
    assert LANGUAGE.layer_matrices == LAYER
    assert LANGUAGE.parameters == 3 * (LAYER + 16) + 8 + HEAD
    assert SHAPES.encoder_parameters == VISION.parameters + (32 + 8) + 2 * (64 + 8)
    assert Linear(4, 8, bias=False).parameters == 32
    assert SHAPES.kv_bytes_per_token == 2 * 3 * 2 * 2 * 2  # key and value, layers, heads, head_dim, bytes


def test_encoding_costs_its_products_and_reads_its_weights_once() -> None:
    products = 4 * 12 * 4 + 5 * (2 * 128 + 32 + 64 + 64)  # patches, then every token
    attention = 2 * 2 * 5 * 5 * 4  # layers, two products, pairs, hidden
    assert encode_cost(SHAPES, 1) == Cost(2 * (products + attention), 2 * (SHAPES.encoder_parameters + 48))
    assert encode_cost(SHAPES, 3).flops == 3 * encode_cost(SHAPES, 1).flops
    assert encode_cost(SHAPES, 3).bytes == 2 * (SHAPES.encoder_parameters + 3 * 48)
    assert encode_cost(replace(SHAPES, adaptor=None), 1).flops == 2 * (products - 5 * 64 + attention)


def test_prefill_costs_causal_attention_and_one_row_of_the_head() -> None:
    attention = 3 * 2 * (7 * 8 // 2) * 8
    assert prefill_cost(SHAPES, rows=7).flops == 2 * (7 * 3 * LAYER + attention + HEAD)
    assert prefill_cost(SHAPES, rows=7).bytes == 2 * LANGUAGE.parameters + 7 * (8 * 2 + SHAPES.kv_bytes_per_token)


def test_a_decode_step_reads_the_weights_and_the_cache() -> None:
    cost = decode_step_cost(SHAPES, context=7)
    assert cost.flops == 2 * (3 * LAYER + 3 * 2 * 8 * 8 + HEAD)
    assert cost.bytes == 2 * LANGUAGE.parameters + 8 * SHAPES.kv_bytes_per_token


def test_prefill_of_one_row_is_a_step_without_context() -> None:
    assert prefill_cost(SHAPES, rows=1).flops == decode_step_cost(SHAPES, context=0).flops


@pytest.mark.parametrize("cost", [prefill_cost, decode_step_cost])
def test_a_batch_repeats_the_operations_and_not_the_weights(cost: Any) -> None:
    one, four = cost(SHAPES, 7), cost(SHAPES, 7, batch=4)
    assert four.flops == 4 * one.flops
    weights = 2 * LANGUAGE.parameters
    assert four.bytes - weights == 4 * (one.bytes - weights)


def test_the_floor_is_the_slower_of_operations_and_bytes() -> None:
    assert floor_s(Cost(flops=4_000_000, bytes=1_000_000), PEAKS, "bf16") == 2.0
    assert floor_s(Cost(flops=1_000_000, bytes=3_000_000), PEAKS, "bf16") == 3.0


@pytest.mark.parametrize(("size", "rate"), [(10, 4e6), (1_000, 4e6), (999_999, 4e6), (1_000_000, 1e6), (10**12, 1e6)])
def test_what_fits_a_cache_is_held_against_the_cache(size: int, rate: float) -> None:
    assert PEAKS.bandwidth_at(size) == rate
    assert PEAKS.bandwidth_bytes_per_s == 1e6


def test_shares_are_of_each_peak() -> None:
    reached = shares(Cost(flops=1_000_000, bytes=2_000_000), 4.0, PEAKS, "fp32")
    assert (reached.mbu, reached.mfu, reached.floor) == (0.5, 0.25, 0.5)
    assert shares(Cost(1, 1), 0.0, PEAKS, "fp32").floor == math.inf


def test_a_precision_that_was_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="no product in fp16 was measured on a device, only fp32, bf16"):
        floor_s(Cost(1, 1), PEAKS, "fp16")


@pytest.mark.parametrize(
    ("bandwidths", "flops"),
    [((), {"fp32": 1.0}), (((2, 1.0), (1, 1.0)), {"fp32": 1.0}), (((1, 0.0),), {"fp32": 1.0}), (((1, 1.0),), {}),
     (((1, 1.0),), {"fp32": math.nan})],
)  # fmt: skip
def test_peaks_that_no_device_has_are_refused(bandwidths: Any, flops: Any) -> None:
    with pytest.raises(ValueError, match="peaks of x"):
        Peaks("x", bandwidths, flops, "highest", 0.0)


def test_a_run_at_the_floor_has_a_share_of_one() -> None:
    steps = tuple(floor_s(decode_step_cost(SHAPES, 7 + step), PEAKS, "bf16") for step in range(3))
    at_floor = record(
        encode_s=floor_s(encode_cost(SHAPES, 2), PEAKS, "bf16"),
        prefill_s=floor_s(prefill_cost(SHAPES, 7), PEAKS, "bf16"),
        token_s=steps,
    )
    reached = run_shares([at_floor], SHAPES, PEAKS, "bf16")
    assert reached.roofline_share == pytest.approx(1)
    assert {kind: fastest.share for kind, fastest in reached.fastest.items()} == pytest.approx(
        {"encode": 1, "prefill": 1, "decode": 1}
    )
    half = replace(at_floor, encode_s=2 * at_floor.encode_s, prefill_s=2 * at_floor.prefill_s)  # type: ignore[operator]
    half = replace(half, token_s=tuple(2 * step for step in steps))
    assert run_shares([half], SHAPES, PEAKS, "bf16").roofline_share == pytest.approx(0.5)


def test_each_step_is_held_against_its_own_context() -> None:
    reached = run_shares([record(token_s=(1.0, 2.0, 4.0))], SHAPES, PEAKS, "bf16")
    mbu = [shares(decode_step_cost(SHAPES, 7 + i), 2.0**i, PEAKS, "bf16").mbu for i in range(3)]
    assert reached.decode_mbu == pytest.approx(sorted(mbu)[1])
    floors = sum(floor_s(decode_step_cost(SHAPES, 7 + i), PEAKS, "bf16") for i in range(3))
    assert reached.fastest["decode"].share == pytest.approx(floors / 7)


def test_medians_are_over_samples_and_the_fastest_has_its_key() -> None:
    records = [record(i, encode_s=encode_s) for i, encode_s in enumerate((1.0, 0.1, 2.0))]
    reached = run_shares(records, SHAPES, PEAKS, "fp32")
    assert reached.encode_mfu == pytest.approx(encode_cost(SHAPES, 2).flops / 1e6)
    assert reached.prefill_mfu == pytest.approx(prefill_cost(SHAPES, 7).flops / 1e6)
    assert reached.fastest["encode"].key == "s1"
    assert list(reached.fastest) == ["encode", "prefill", "decode"]


def test_an_impossible_speed_is_above_one() -> None:
    records = [record(0), record(1, token_s=(1e-6, 1e-6, 1e-6)), record(2, prefill_s=0.0)]
    fastest = run_shares(records, SHAPES, PEAKS, "bf16").fastest
    assert fastest["decode"].share > 1
    assert fastest["decode"].key == "s1"
    assert (fastest["prefill"].share, fastest["prefill"].key) == (math.inf, "s2")
    assert fastest["encode"].share < 1


def test_a_batch_is_one_call_padded_to_its_longest_prompt() -> None:
    batch = [
        record(0, batch_size=2, started_unix_s=5.0, text_tokens=3, images=2, token_s=(1.0,)),
        record(1, batch_size=2, started_unix_s=5.0, text_tokens=9, images=3, token_s=(1.0, 3.0)),
    ]
    reached = run_shares(batch, SHAPES, PEAKS, "fp32")
    assert reached.encode_mfu == pytest.approx(encode_cost(SHAPES, 5).flops / 1e6 / 2.0)  # a record holds its half
    assert reached.prefill_mfu == pytest.approx(prefill_cost(SHAPES, 13, batch=2).flops / 1e6)
    floors = [floor_s(decode_step_cost(SHAPES, 13 + step, batch=2), PEAKS, "fp32") for step in range(2)]
    assert reached.fastest["decode"].share == pytest.approx(sum(floors) / 4)
    beams = run_shares(batch, SHAPES, PEAKS, "fp32", beams=3)
    assert beams.prefill_mfu == pytest.approx(3 * reached.prefill_mfu)  # type: ignore[operator]


def test_every_record_is_held_against_its_floor_and_single_steps_of_the_sampled() -> None:
    records = [record(0), record(1, token_s=(1e-6, 1e-6, 1e-6)), record(2)]
    every = roofline.run_shares(Columns.of(records), records[:1], SHAPES, PEAKS, "bf16")
    assert every.fastest["decode"].key == "s1"
    assert every.decode_mbu == run_shares(records[:1], SHAPES, PEAKS, "bf16").decode_mbu


def test_a_batch_of_which_a_record_is_missing_is_left_out() -> None:
    torn = record(0, batch_size=2, started_unix_s=5.0)
    whole = record(1)
    assert run_shares([torn, whole], SHAPES, PEAKS, "fp32") == run_shares([whole], SHAPES, PEAKS, "fp32")
    assert run_shares([whole, torn], SHAPES, PEAKS, "fp32") == run_shares([whole], SHAPES, PEAKS, "fp32")


def test_failed_samples_and_missing_times_give_no_figures() -> None:
    failed = record(error="broken", error_stage="decode")
    reached = run_shares([failed], SHAPES, PEAKS, "fp32")
    assert (reached.encode_mfu, reached.prefill_mfu, reached.decode_mbu, reached.roofline_share) == (None,) * 4
    assert reached.fastest == {}
    short = run_shares([record(token_s=(), images=None)], SHAPES, PEAKS, "fp32")
    assert (short.encode_mfu, short.decode_mbu) == (None, None)
    assert list(short.fastest) == ["prefill"]
