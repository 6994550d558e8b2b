"""What is timed, what is not, and what goes on the record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fourstage.measure.clock import Timing
from fourstage.measure.loop import measure
from fourstage.measure.plan import sample_seed
from fourstage.measure.warm_up import WarmUp, warm_up
from fourstage.stages import MeasurementError, SampleRecord, Sampling
from tests.fakes import FakePipeline, fake, plan, samples

GREEDY = Sampling(0, 1, 0, max_new_tokens=100)


def run(
    pipeline: FakePipeline, timing: Timing, n: int = 3, batch_size: int = 1, repeats: int = 1
) -> list[SampleRecord]:
    planned = plan(samples(n), ["why?"] * n, repeats, seed=0)
    return list(measure(pipeline, planned, GREEDY, timing, batch_size))


def test_each_stage_gets_its_own_seconds_also_when_the_device_works_behind() -> None:
    pipeline, timing = fake()
    for record in run(pipeline, timing):
        assert record.load_s == pytest.approx(0.010)
        assert record.preprocess_s == pytest.approx(0.020)
        assert record.encode_s == pytest.approx(0.040)
        assert record.decode_s == pytest.approx(0.080 + 10 * 0.005)


def test_prefill_ends_with_the_first_token_and_ttft_counts_from_load() -> None:
    pipeline, timing = fake()
    record = run(pipeline, timing)[0]
    assert record.prefill_s == pytest.approx(0.080)
    assert record.ttft_s == pytest.approx(0.010 + 0.020 + 0.040 + 0.080)
    assert record.token_s == pytest.approx([0.005] * 10)
    assert record.tpot_ms == pytest.approx(5.0)


def test_stages_close_on_the_end_to_end_time() -> None:
    pipeline, timing = fake()
    for record in run(pipeline, timing):
        assert record.total_s == pytest.approx(record.end_to_end_s)


def test_one_token_has_no_time_per_token() -> None:
    pipeline, timing = fake(tokens=1)
    record = run(pipeline, timing)[0]
    assert record.output_tokens == 1
    assert record.tpot_ms is None


def test_the_vision_calls_of_a_sample_are_its_own() -> None:
    pipeline, timing = fake()
    assert [record.vision_calls for record in run(pipeline, timing)] == [1, 1, 1]


def test_a_fault_is_on_its_samples_record_and_the_rest_goes_on() -> None:
    pipeline, timing = fake(faulty={"s1": "load"})
    first, fallen, last = run(pipeline, timing)
    assert first.ok
    assert last.ok
    assert (fallen.error, fallen.error_stage) == ("s1 is not there", "load")
    assert fallen.load_s is None
    assert fallen.total_s is None


def test_a_fault_in_a_late_stage_keeps_the_seconds_before_it() -> None:
    pipeline, timing = fake(faulty={"s0": "encode"})
    record = run(pipeline, timing, n=1)[0]
    assert record.error == "RuntimeError: encode broke"
    assert record.error_stage == "encode"
    assert record.preprocess_s == pytest.approx(0.020)
    assert record.encode_s is None


def test_a_run_that_cannot_be_trusted_is_no_samples_fault() -> None:
    pipeline, timing = fake()

    def decode(*_: object) -> None:
        raise MeasurementError("asked for 5 tokens, 4 came")

    pipeline.decode = decode  # type: ignore[method-assign, assignment]
    with pytest.raises(MeasurementError):
        run(pipeline, timing)


def test_a_batch_shares_its_stages_equally_and_each_sample_waits_for_all() -> None:
    pipeline, timing = fake()
    records = run(pipeline, timing, n=4, batch_size=2)
    assert [record.batch_size for record in records] == [2, 2, 2, 2]
    for record in records:
        assert record.load_s == pytest.approx(0.010)  # two loads, shared by two
        assert record.encode_s == pytest.approx(0.020)
        assert record.prefill_s == pytest.approx(0.080)
        assert record.ttft_s == pytest.approx(2 * 0.010 + 0.020 + 0.040 + 0.080)
        assert record.total_s == pytest.approx(record.end_to_end_s)
    assert sum(record.total_s or 0 for record in records) == pytest.approx(timing.clock() - 100.0)


def test_a_batch_has_one_seed_and_its_records_say_which() -> None:
    pipeline, timing = fake()
    assert {record.seed for record in run(pipeline, timing, n=2, batch_size=2)} == {sample_seed(0, "s0", 0)}
    assert pipeline.device.seeds == [sample_seed(0, "s0", 0)]


def test_a_faulty_sample_does_not_take_its_batch_down() -> None:
    pipeline, timing = fake(faulty={"s1": "load"})
    records = run(pipeline, timing, n=3, batch_size=3)
    assert [record.position for record in records] == [0, 1, 2]
    assert [record.ok for record in records] == [True, False, True]
    assert [record.batch_size for record in records] == [2, 1, 2]


def test_a_batch_that_fails_as_a_whole_fails_all_its_samples() -> None:
    pipeline, timing = fake(faulty={"s1": "decode"})
    records = run(pipeline, timing, n=3, batch_size=3)
    assert [record.error for record in records] == ["RuntimeError: decode broke"] * 3


def test_repeats_come_round_by_round_and_positions_go_on() -> None:
    pipeline, timing = fake()
    records = run(pipeline, timing, n=2, repeats=3)
    assert [(record.key, record.repeat, record.position) for record in records] == [
        ("s0", 0, 0), ("s1", 0, 1), ("s0", 1, 2), ("s1", 1, 3), ("s0", 2, 4), ("s1", 2, 5),
    ]  # fmt: skip


def test_batches_do_not_reach_over_the_end_of_a_round() -> None:
    pipeline, timing = fake()
    records = run(pipeline, timing, n=3, batch_size=2, repeats=2)
    assert [record.batch_size for record in records] == [2, 2, 1, 2, 2, 1]


def test_a_samples_seed_depends_on_seed_key_and_repeat_alone() -> None:
    alone = plan(samples(5)[3:4], ["why?"], 1, seed=7)
    among = plan(samples(5), ["why?"] * 5, 1, seed=7)
    assert alone[0].seed == among[3].seed
    assert len({sample_seed(seed, key, repeat) for seed in (0, 1) for key in "ab" for repeat in (0, 1)}) == 8
    pipeline, timing = fake()
    run(pipeline, timing, n=2)
    assert pipeline.device.seeds == [sample_seed(0, "s0", 0), sample_seed(0, "s1", 0)]


def test_warm_up_passes_over_a_faulty_sample_and_stops_when_times_are_stable() -> None:
    pipeline, timing = fake(faulty={"s0": "load"})
    planned = plan(samples(3), ["why?"] * 3, 1, seed=0)
    assert list(warm_up(pipeline, planned, GREEDY, timing, batch_size=1, limit=20).values()) == [WarmUp(3, True)]
    assert pipeline.seen == ["s0", "s1", "s1", "s1"]


def test_warm_up_goes_on_while_times_still_fall_and_ends_at_its_limit() -> None:
    pipeline, timing = fake(drift=0.2)
    planned = plan(samples(1), ["why?"], 1, seed=0)
    done = warm_up(pipeline, planned, GREEDY, timing, batch_size=1, limit=4, tolerance=0.05)
    assert list(done.values()) == [WarmUp(4, False)]


def test_warm_up_runs_for_each_shape_of_input() -> None:
    pipeline, timing = fake()
    listed = [replace(sample, event_image=("a",) * (1 + i % 2)) for i, sample in enumerate(samples(4))]
    planned = plan(listed, ["why?"] * 4, 1, seed=0)
    assert len(warm_up(pipeline, planned, GREEDY, timing, batch_size=1, limit=5)) == 2


def test_warm_up_ends_where_no_sample_works() -> None:
    pipeline, timing = fake(faulty={"s0": "load", "s1": "load"})
    planned = plan(samples(2), ["why?"] * 2, 1, seed=0)
    assert list(warm_up(pipeline, planned, GREEDY, timing, batch_size=1, limit=2).values()) == [WarmUp(0, False)]


def test_a_shuffled_order_is_the_seeds_and_new_each_round() -> None:
    orders = [
        [item.sample.key for item in plan(samples(20), ["why?"] * 20, 2, seed=seed, order="shuffled")]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    first, second = orders[0][:20], orders[0][20:]
    assert first != second
    assert sorted(first) == sorted(second) == sorted(sample.key for sample in samples(20))


def test_order_changes_no_samples_seed() -> None:
    seeds = [
        {item.sample.key: item.seed for item in plan(samples(9), ["why?"] * 9, 1, seed=3, order=order)}
        for order in ("as_is", "shuffled")
    ]
    assert seeds[0] == seeds[1]


def test_a_sentinel_is_the_first_sample_again_and_travels_alone() -> None:
    pipeline, timing = fake()
    planned = plan(samples(6), ["why?"] * 6, 1, seed=0, sentinel=2)
    records = list(measure(pipeline, planned, GREEDY, timing, batch_size=4))
    assert [(record.key, record.role, record.batch_size) for record in records] == [
        ("s0", "sample", 2), ("s1", "sample", 2), ("s0", "sentinel", 1),
        ("s2", "sample", 2), ("s3", "sample", 2), ("s0", "sentinel", 1),
        ("s4", "sample", 2), ("s5", "sample", 2), ("s0", "sentinel", 1),
    ]  # fmt: skip
    assert [record.position for record in records] == list(range(9))


def test_the_page_cache_is_prepared_before_each_sample_and_its_state_is_on_the_record() -> None:
    pipeline, timing = fake()
    shares = iter([0.0, 0.5, None])
    records = list(
        measure(
            pipeline, plan(samples(3), ["why?"] * 3, 1, seed=0), GREEDY,
            replace(timing, prepare_files=lambda sample: next(shares)),
        )
    )  # fmt: skip
    assert [record.cached_share for record in records] == [0.0, 0.5, None]


def test_token_limits_are_the_samplings() -> None:
    pipeline, timing = fake(tokens=50)
    planned = plan(samples(1), ["why?"], 1, seed=0)
    (record,) = measure(pipeline, planned, replace(GREEDY, max_new_tokens=4), timing)
    assert record.output_tokens == 4
