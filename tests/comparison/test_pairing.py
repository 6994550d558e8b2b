"""Runs pair by key: repeats averaged, failures and sentinels nowhere, in the baseline's order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fourstage.comparison.pairing import pair_keys, per_key
from fourstage.records.columns import Columns
from fourstage.stages import SampleRecord


def record(key: str, load_s: float | None, **more: object) -> SampleRecord:
    values: dict[str, object] = {"key": key, "sample_id": key, "position": 0, "load_s": load_s}
    return SampleRecord(**values | more)  # type: ignore[arg-type]


RECORDS = [
    record("b", 9.0, error="broken", error_stage="encode"),
    record("c", 3.0),
    record("a", 1.0),
    record("b", 2.0, repeat=1),
    record("a", 2.0, repeat=1),
    record("a", None, repeat=2),
    record("c", 99.0, role="sentinel"),
    record("d", 9.0, error="broken", error_stage="encode"),
]


def test_a_key_has_the_mean_of_its_successful_repeats() -> None:
    run = per_key(Columns.of(RECORDS))
    assert run.keys == ("c", "a", "b")
    assert run.values[:, 0].tolist() == [3.0, 1.5, 2.0]
    assert run.failed == ("d",)
    assert run.of_record.tolist() == [0, 1, 2, 1, 1]


def test_pairs_are_in_the_baselines_order_whatever_the_targets_is() -> None:
    baseline = per_key(Columns.of([record(key, float(i)) for i, key in enumerate("abcd")]))
    target = per_key(Columns.of([record(key, 10.0 * i) for i, key in enumerate("dxcb")]))
    pairs = pair_keys(baseline, target)
    assert pairs.keys == ("b", "c", "d")
    assert pairs.baseline("load_s").tolist() == [1.0, 2.0, 3.0]
    assert pairs.target("load_s").tolist() == [30.0, 20.0, 0.0]
    assert (pairs.only_baseline, pairs.only_target) == (("a",), ("x",))


def test_prefill_and_steps_are_also_shares_of_their_batch() -> None:
    one = record("a", 1.0, batch_size=4, prefill_s=0.8, decode_s=0.5, token_s=(0.1, 0.3), output_tokens=3)
    pairs = pair_keys(per_key(Columns.of([one])), per_key(Columns.of([replace(one, batch_size=1)])))
    for quantity, shared, alone in (("prefill_share_s", 0.2, 0.8), ("steps_share_s", 0.1, 0.4), ("steps", 2, 2)):
        np.testing.assert_allclose([pairs.baseline(quantity)[0], pairs.target(quantity)[0]], [shared, alone])
    assert pairs.baseline("prefill_s")[0] == 0.8
    assert pairs.baseline("tokens_per_s")[0] == 6.0


def test_runs_without_records_pair_nothing() -> None:
    empty = per_key(Columns.of([]))
    pairs = pair_keys(empty, per_key(Columns.of(RECORDS)))
    assert (pairs.n, pairs.only_target) == (0, ("c", "a", "b"))
