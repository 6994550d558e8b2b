"""What is claimed of runs holds: by simulation, all seeded, with noise as of a quiet machine (2 %, lognormal).

Samples differ among themselves by a factor of several, the same in every run, which pairing takes away.
"""

from __future__ import annotations

import math
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from fourstage.comparison import effects as comparison
from fourstage.comparison.effects import Comparison, compare
from fourstage.comparison.run_data import RunData, cached_stages
from fourstage.records.columns import Columns
from fourstage.report.wording import pair_sentence
from fourstage.stages import STAGES, SampleRecord, UserError
from fourstage.stats.replicates import Floor
from fourstage.stats.verdicts import Verdict
from tests.builders import timed

CLAIMS = (Verdict.IMPROVED, Verdict.REGRESSED)


def records(
    seed: int,
    n: int = 60,
    repeats: int = 1,
    noise: float = 0.02,
    clips: int = 7,
    replicates: int = 3,
    process: float = 0.005,
    **factor: float,
) -> list[SampleRecord]:
    """A run: `clips` seeds what the samples are, `seed` the noise of measuring them, factors make stages slower.

    `process` is the standard deviation between its processes, of a logarithm.
    """
    what, rng = np.random.default_rng([clips, 1]), np.random.default_rng([seed, 2])
    size, tokens = what.lognormal(0, 0.6, n), what.integers(5, 40, n)
    luck = rng.lognormal(0, process, replicates)
    found = []
    for position in range(n * repeats * replicates):
        i, replicate = position % n, position // (n * repeats)
        load, preprocess, encode, prefill, step = (
            rng.lognormal(0, noise, 5) * luck[replicate] * size[i] * (0.05, 0.02, 0.04, 0.03, 0.01)
        )
        load, encode, step = (
            load * factor.get("load", 1),
            encode * factor.get("encode", 1),
            step * factor.get("step", 1),
        )
        token_s = (step,) * (int(tokens[i] * factor.get("tokens", 1)) - 1)
        found.append(
            timed(f"clip {i}", load, preprocess, encode, prefill, token_s, tail=0.0005, sample_id=f"{i}",
                  position=position, repeat=position // n % repeats, replicate=replicate,
                  started_unix_s=float(position), bytes_read=1000)
        )  # fmt: skip
    return found


def run(made: Sequence[SampleRecord], name: str = "run", **more: object) -> RunData:
    values: dict[str, object] = {"params": {}, "tags": {}, "metrics": {}} | more
    return RunData(run_id=f"id of {name}", name=name, columns=Columns.of(made), **values)  # type: ignore[arg-type]


def compared(*runs: Sequence[SampleRecord], margin: float = 0.02) -> Comparison:
    return compare([run(made, f"run {i}") for i, made in enumerate(runs)], margin=margin)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few resamples of the attribution where only verdicts are asked."""
    monkeypatch.setattr(comparison, "RESAMPLES", 20)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("noise", [0.02, 0.6])
def test_identical_runs_show_no_difference(noise: float) -> None:
    """With much noise nothing is equivalent either: what is not claimed is Inconclusive."""
    verdicts = [compared(records(2 * i, noise=noise), records(2 * i + 1, noise=noise)).pairs[0] for i in range(60)]
    assert sum(pair.verdict in CLAIMS for pair in verdicts) <= 5
    assert sum(pair.verdict is Verdict.EQUIVALENT for pair in verdicts) >= (55 if noise == 0.02 else 0)
    if noise > 0.1:
        assert sum(pair.verdict is Verdict.INCONCLUSIVE for pair in verdicts) >= 45


@pytest.mark.usefixtures("quick")
def test_ten_runs_of_the_same_show_no_difference_in_any_of_them() -> None:
    """Family-wise: of 30 such sweeps at most 4 claim anything, though each makes ten comparisons."""
    claims = 0
    for i in range(30):
        found = compared(*(records(1000 + 11 * i + j, n=12, noise=0.1) for j in range(11)), margin=0.001)
        claims += any(pair.verdict in CLAIMS for pair in found.pairs)
    assert claims <= 4


@pytest.mark.usefixtures("quick")
def test_a_planted_gain_of_the_encoder_is_found() -> None:
    found = 0
    for i in range(40):
        encode = (
            compared(records(2 * i, replicates=5), records(2 * i + 1, replicates=5, encode=0.93)).pairs[0].row("encode")
        )
        assert encode is not None
        assert encode.detectable_ratio < 1 / 0.93
        found += encode.verdict is Verdict.IMPROVED
    assert found >= 38


@pytest.mark.usefixtures("quick")
def test_a_planted_gain_is_found_among_ten_runs_and_in_no_other() -> None:
    base = records(0, replicates=5)
    runs = [records(j, replicates=5, encode=0.8 if j == 4 else 1.0) for j in range(1, 11)]
    for place, pair in enumerate(compared(base, *runs).pairs, start=1):
        encode = pair.row("encode")
        assert encode is not None
        assert (encode.verdict is Verdict.IMPROVED) == (place == 4)


@pytest.mark.usefixtures("quick")
def test_intervals_cover_the_truth() -> None:
    """Clips are drawn anew each time. 95 % of 100 have a standard error of 2.2 %."""
    ratios = differences = 0
    for i in range(100):
        rows = compared(records(i, clips=i, n=20), records(9000 + i, clips=i, n=20, encode=0.8)).pairs[0]
        encode = rows.row("encode")
        assert encode is not None
        ratios += encode.ratio.contains(0.8)
        differences += encode.difference.contains(-0.2 * encode.baseline_mean)
    assert 0.88 <= ratios / 100 <= 1
    assert 0.88 <= differences / 100 <= 1


def by_key(made: Sequence[SampleRecord], field: str, log: bool = False) -> np.ndarray:
    """The mean of each sample over its processes, or the geometric one."""
    values: dict[str, list[float]] = {}
    for record in made:
        values.setdefault(record.key, []).append(getattr(record, field))
    return np.array([np.exp(np.log(one).mean()) if log else np.mean(one) for one in values.values()])


def test_a_row_has_the_figures_of_both_runs_and_the_word_of_its_sign() -> None:
    pair = compared(records(1), records(2, encode=2.0, step=0.5, tokens=2.0)).pairs[0]
    encode, tpot, rate, tokens = (pair.row(name) for name in ("encode", "TPOT", "tokens/s", "tokens out"))
    assert encode is not None
    assert tpot is not None
    assert rate is not None
    assert tokens is not None
    one, other = (by_key(made, "encode_s") for made in (records(1), records(2, encode=2.0, step=0.5, tokens=2.0)))
    assert (encode.baseline_median, encode.target_mean) == pytest.approx((np.median(one), other.mean()))
    logs = [np.log(by_key(made, "encode_s", log=True)) for made in (records(1), records(2, encode=2.0, step=0.5))]
    assert encode.ratio.estimate == pytest.approx(math.exp((logs[1] - logs[0]).mean()))
    assert encode.difference.estimate == pytest.approx(encode.baseline_mean * (encode.ratio.estimate - 1))
    assert (encode.text.split()[1], encode.verdict) == ("slower", Verdict.REGRESSED)
    assert encode.text == f"{encode.ratio.estimate:.2f}x slower"
    assert (tpot.text.split()[1], tpot.verdict) == ("faster", Verdict.IMPROVED)
    assert tpot.text == f"{1 / tpot.ratio.estimate:.2f}x faster"
    assert (rate.text.split()[1], rate.verdict) == ("higher", Verdict.IMPROVED)
    assert (tokens.text.split()[-1], tokens.verdict) == ("more", None)
    assert tokens.text.endswith(" % more")


def test_a_run_against_itself_is_equivalent() -> None:
    pair = compared(records(1), records(1)).pairs[0]
    total = pair.row("total")
    assert total is not None
    assert (total.ratio.estimate, total.text) == (1.0, "equal within 2 %")
    assert total.ratio.low < 1 < total.ratio.high  # its processes differ
    assert pair.verdict is Verdict.EQUIVALENT
    assert 1 < pair.detectable_ratio < 1.02


def test_one_process_a_side_claims_nothing_and_says_how_to() -> None:
    """The fault that was measured: four processes of one configuration, of which pairs were called 1.19x faster."""
    pair = compared(records(1, replicates=1), records(2, replicates=1, encode=1.5, step=1.5)).pairs[0]
    assert {row.verdict for row in pair.rows} == {Verdict.NOT_REPLICATED, None}
    assert (pair.verdict, pair.replicates, pair.detectable_ratio) == (Verdict.NOT_REPLICATED, (1, 1), math.inf)
    said = pair_sentence(pair)
    assert said.startswith("Not replicated: run 1 against run 0, ratio 1.3")
    assert said.endswith("measure each in several (replicates=5).")
    assert "slower" not in said


def test_processes_that_differ_are_not_claimed_as_a_difference() -> None:
    """By 10 % from process to process, and by little within one: what was called Improved is none."""
    claims = 0
    for i in range(60):
        sides = (records(2 * i + j, n=12, replicates=3, process=0.1, noise=0.005) for j in range(2))
        claims += compared(*sides).pairs[0].verdict in CLAIMS
    assert claims <= 6  # of 60 at 5 %


def test_a_known_floor_stands_for_processes_that_were_not_measured() -> None:
    base, target = run(records(1, replicates=1), "a"), run(records(2, replicates=1, step=1.3), "b")
    floors = {one.run_id: {"total_s": Floor(0.01, 9.0, 0.001, 10, 60)} for one in (base, target)}
    total = compare([base, target], floors=floors).pairs[0].row("total")
    assert total is not None
    assert total.verdict is Verdict.REGRESSED
    assert total.judgement is not None
    assert "by a noise floor from earlier runs" in total.judgement.sentence
    alone = compare([base, target], floors={base.run_id: floors[base.run_id]}).pairs[0]
    assert alone.verdict is Verdict.NOT_REPLICATED


def test_an_invalid_run_is_shown_and_claims_nothing() -> None:
    pair = compare([run(records(1), "a"), run(records(2, step=3.0), "b", valid=False)]).pairs[0]
    assert pair.verdict is Verdict.INVALID
    assert not any(row.claimed for row in pair.rows)
    assert pair_sentence(pair).startswith("No claim, since a run is invalid: b against a, ratio ")


def test_unpaired_keys_and_failures_are_told_and_in_no_figure() -> None:
    base, target = records(1, n=20), records(1, n=20)
    base = [r for r in base if r.key not in ("clip 18", "clip 19")]
    target = [
        replace(r, error="broken", error_stage="decode", total_s=99.0) if r.key == "clip 3" else r for r in target
    ]
    pair = compared(base, target).pairs[0]
    assert pair.n == 17
    assert (pair.only_baseline.count, pair.only_baseline.first) == (1, ("clip 3",))
    assert (pair.only_target.count, pair.only_target.first) == (2, ("clip 18", "clip 19"))
    assert (pair.failed_target.count, pair.failed_target.first, pair.failed_baseline.count) == (1, ("clip 3",), 0)
    total = pair.row("total")
    assert total is not None
    assert total.n == 17
    assert total.ratio.estimate == 1.0


def test_sentinels_are_in_no_figure() -> None:
    base = records(1, n=10)
    watched = [replace(r, role="sentinel", total_s=50.0, key="clip 0") for r in base[:3]]
    total = compared(base, [*base, *watched]).pairs[0].row("total")
    assert total is not None
    assert total.ratio.estimate == 1.0


def test_runs_without_a_common_sample_claim_nothing() -> None:
    other = [replace(r, key=f"other {r.key}") for r in records(1, n=5)]
    pair = compared(records(1, n=5), other).pairs[0]
    assert (pair.n, pair.rows, pair.shares, pair.attribution) == (0, (), (), None)
    assert (pair.only_baseline.count, pair.only_target.count) == (5, 5)
    assert pair.verdict is Verdict.INCONCLUSIVE
    assert pair.detectable_ratio == math.inf


def test_one_sample_of_one_process_is_too_few_for_any_claim() -> None:
    pair = compared(records(1, n=1, replicates=1), records(1, n=1, step=9.0, replicates=1)).pairs[0]
    total = pair.row("total")
    assert total is not None
    assert total.text == "not replicated"
    assert (pair.verdict, pair.detectable_ratio) == (Verdict.NOT_REPLICATED, math.inf)
    assert pair_sentence(pair).startswith("Nothing can be claimed about run 1 against run 0 over 1 paired sample")


def test_repeats_of_a_sample_are_no_new_samples() -> None:
    pair = compared(records(1, n=12, repeats=5), records(2, n=12, repeats=3)).pairs[0]
    assert (pair.n, pair.clusters) == (12, 12)


def batched(made: Sequence[SampleRecord], size: int, seed: int = 0, noise: float = 0.0) -> list[SampleRecord]:
    """The same, `size` at a time: all samples of a call share its time, and its noise."""
    rng, found = np.random.default_rng(seed), []
    for start in range(0, len(made), size):
        several, slow = made[start : start + size], float(rng.lognormal(0, noise))
        found += [
            replace(
                r,
                batch_size=len(several),
                started_unix_s=float(start),
                total_s=slow * sum(s.total_s or 0 for s in several) / len(several),
            )
            for r in several
        ]
    return found


def test_samples_of_a_batch_are_one_cluster() -> None:
    pair = compared(records(1, n=24), batched(records(2, n=24), 4)).pairs[0]
    assert (pair.n, pair.clusters) == (24, 6)
    repeated = compared(batched(records(1, n=24, repeats=3), 4), batched(records(2, n=24, repeats=3), 8)).pairs[0]
    assert (repeated.n, repeated.clusters) == (24, 3)


@pytest.mark.usefixtures("quick")
def test_batches_with_noise_of_their_own_show_no_difference() -> None:
    """Taken as 64 samples, the eight calls' noise would be claimed as a difference in most of these."""
    made = records(1, n=64, noise=0.001)
    claims = 0
    for i in range(40):
        one, other = batched(made, 8, 2 * i, 0.1), batched(made, 8, 2 * i + 1, 0.1)
        claims += compared(one, other).pairs[0].verdict in CLAIMS
    assert claims <= 5


def test_shuffled_batches_that_chain_all_samples_still_have_clusters() -> None:
    rng = np.random.default_rng(3)
    made = records(1, n=32, repeats=3)
    shuffled = [made[32 * repeat + i] for repeat in range(3) for i in rng.permutation(32)]
    pair = compared(batched(shuffled, 4), batched(shuffled, 4, 1, 0.02)).pairs[0]
    assert (pair.n, pair.clusters) == (32, 8)


def test_shares_are_of_each_run_and_name_its_bottleneck() -> None:
    pair = compared(records(1, step=0.01), records(1, step=3.0)).pairs[0]
    assert [share.stage for share in pair.shares] == list(STAGES)
    assert sum(share.baseline for share in pair.shares) == pytest.approx(1.0)
    assert sum(share.target for share in pair.shares) == pytest.approx(1.0)
    assert (pair.bottleneck_baseline, pair.bottleneck_target) == ("load", "decode")


def test_only_settings_that_differ_are_told() -> None:
    made = records(1, n=3)
    common = {"seed": "0", "tracking.uri": "a", "run_name": "x"}
    found = compare(
        [
            run(made, params=common | {"model.name": "eventgpt"}),
            run(made, params={"seed": "0", "tracking.uri": "b", "run_name": "y", "model.name": "videollava"}),
            run(made, params=common | {"model.name": "eventgpt", "precision.dtype": "fp16"}),
        ]
    )
    assert [(s.name, s.values) for s in found.settings] == [
        ("model.name", ("eventgpt", "videollava", "eventgpt")),
        ("precision.dtype", ("-", "-", "fp16")),
    ]
    assert [[s.name for s in pair.settings] for pair in found.pairs] == [["model.name"], ["precision.dtype"]]


def test_a_cached_stage_is_cached_and_not_faster() -> None:
    base = run(records(1), "base", params={"cache": "none"})
    kept = [replace(r, cached_stages=("load",), cache_fill_s=0.25) for r in records(2, repeats=2, load=0.01)]
    target = run(kept, "kept", params={"cache": "frames"})
    found = compare([base, target])
    pair = found.pairs[0]
    load, total, encode = pair.row("load"), pair.row("total"), pair.row("encode")
    assert load is not None
    assert total is not None
    assert encode is not None
    assert (load.text, load.verdict) == ("cached in the target", None)
    assert (total.text.split()[1], encode.verdict) == ("faster", Verdict.EQUIVALENT)
    assert (pair.cached_target, pair.cache_fill_target_s, pair.cache_fill_baseline_s) == (("load",), 60 * 0.25, None)
    assert found.facts[1][0].operation == "from the cache of frames"
    assert pair.attribution is not None
    assert [factor.name for factor in pair.attribution.factors if factor.cached] == ["load"]


def test_a_stage_cached_on_both_sides_is_compared() -> None:
    runs = [run(records(1), params={"cache": "tensors"}), run(records(2, load=2.0), params={"cache": "frames"})]
    pair = compare(runs).pairs[0]
    load, preprocess = pair.row("load"), pair.row("preprocess")
    assert load is not None
    assert preprocess is not None
    assert load.verdict is Verdict.REGRESSED
    assert preprocess.text == "cached in the baseline"


def test_a_cache_that_is_not_known_is_an_error() -> None:
    assert [cached_stages({"cache": cache}) for cache in ("none", "frames", "tensors")] == [
        (),
        ("load",),
        ("load", "preprocess"),
    ]
    assert cached_stages({}) == ()
    with pytest.raises(UserError, match="unknown cache 'disk' in a run's settings; known are none, frames, tensors"):
        cached_stages({"cache": "disk"})


def test_facts_are_what_the_records_measured() -> None:
    load, preprocess, encode, decode = compared(records(1), records(2)).facts[0]
    assert (load.operation, load.sources, load.bytes_read) == ("png read and decoded", ("png",), 1000.0)
    assert preprocess.operation == "5 images → tensors on the device"
    assert encode.operation == "5 images → 577 visual tokens"
    assert decode.operation.startswith("617 tokens in → ")
    missing = compared([SampleRecord(key="a", sample_id="a", position=0)] * 2, records(1)).facts[0]
    assert missing[0].operation == "unknown"
    assert missing[2].operation == "? images → ? visual tokens"
    assert missing[2].visual_tokens is None


def test_what_was_not_measured_has_no_row_and_the_rest_stands() -> None:
    old = [replace(r, encode_s=None, decode_s=None, prefill_s=None, ttft_s=None, token_s=()) for r in records(1)]
    pair = compared(old, records(2)).pairs[0]
    assert {row.name for row in pair.rows} == {"load", "preprocess", "total", "tokens in", "tokens out", "peak memory"}
    assert [share.stage for share in pair.shares] == ["load", "preprocess"]
    assert pair.verdict is Verdict.EQUIVALENT


def test_a_figure_that_some_samples_lack_is_over_those_that_have_it() -> None:
    base = records(1, n=10)
    lacking = [replace(r, token_s=()) if int(r.key.split()[1]) < 4 else r for r in base]
    pair = compared(base, lacking).pairs[0]
    tpot, total = pair.row("TPOT"), pair.row("total")
    assert tpot is not None
    assert total is not None
    assert (tpot.n, total.n) == (6, 10)
    assert tpot.ratio.estimate == 1.0


def test_zero_seconds_on_one_side_break_nothing_and_claim_nothing() -> None:
    base = records(1, n=8)
    pair = compared([replace(r, preprocess_s=0.0) for r in base], base).pairs[0]
    row = pair.row("preprocess")
    assert row is not None
    assert (row.text, row.verdict) == ("unknown", None)
    both = compared(*([replace(r, preprocess_s=0.0) for r in base],) * 2).pairs[0].row("preprocess")
    assert both is not None
    assert (both.text, both.verdict) == ("unknown", None)


def test_a_baseline_that_is_invalid_is_flagged() -> None:
    bad = run(records(1, n=3), valid=False, checks_failed=("closed_books",))
    good = run(records(1, n=3))
    assert not compare([bad, good]).valid
    assert compare([bad, good], baseline=1).valid


def test_any_run_may_be_the_baseline() -> None:
    runs = [run(records(i, n=10, encode=1 + i), f"run {i}") for i in range(3)]
    found = compare(runs, baseline=1)
    assert [(pair.baseline_name, pair.target_name) for pair in found.pairs] == [("run 1", "run 0"), ("run 1", "run 2")]
    assert found.pairs[0].row("encode") != compare(runs).pairs[0].row("encode")


def test_what_cannot_be_compared_is_an_error() -> None:
    made = [run(records(1, n=2))] * 2
    for match, call in (
        ("needs two runs, not 1", lambda: compare(made[:1])),
        ("baseline is run 2 of 2", lambda: compare(made, baseline=2)),
        ("margin lies between 0 and 1", lambda: compare(made, margin=2)),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_the_same_runs_give_the_same_numbers() -> None:
    one, other = (compared(records(1), records(2, step=1.1)).pairs[0] for _ in range(2))
    assert [(row.ratio, row.difference, row.verdict) for row in one.rows] == [
        (row.ratio, row.difference, row.verdict) for row in other.rows
    ]


def test_many_runs_are_compared_in_seconds_and_little_memory() -> None:
    some = [Columns.of(records(seed, n=100)) for seed in range(2)]
    params = {f"setting {i}": "value" for i in range(80)}
    runs = [replace(run([]), params=params, columns=some[i % 2]) for i in range(100)]
    start = time.perf_counter()
    found = compare(runs)
    elapsed = time.perf_counter() - start
    assert len(found.pairs) == 99
    assert elapsed < 10  # 2 s on an idle core
    tracemalloc.start()
    compare(runs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * 2**20


@pytest.mark.parametrize(("devices", "compared"), [(("cpu", "cpu"), False), (("cuda:0", "cpu"), False),
                                                   (("cuda:0", "cuda:0"), True), (("", ""), True)])  # fmt: skip
def test_memory_is_compared_where_it_is_the_samples_own(devices: tuple[str, str], compared: bool) -> None:
    """The resident set of a process has in it what a bigger run left there: twice the same run differs by 5 %."""
    first = [replace(r, peak_memory_bytes=1_000_000_000 + r.position) for r in records(1)]
    again = [replace(r, peak_memory_bytes=950_000_000 + r.position) for r in records(1)]
    runs = [replace(run(made), tags={"fourstage.device": device} if device else {})
            for made, device in zip((first, again), devices, strict=True)]  # fmt: skip
    pair = compare(runs).pairs[0]
    assert (pair.row("peak memory") is not None) == compared
    assert {row.name for row in pair.rows if row.verdict in CLAIMS} == ({"peak memory"} if compared else set())


def test_no_stage_is_the_bottleneck_where_more_was_not_timed_apart() -> None:
    apart = [replace(r, encode_s=None, decode_s=None, prefill_s=None) for r in records(1)]
    pair = compare([run(apart), run(apart)]).pairs[0]
    assert (pair.bottleneck_baseline, pair.bottleneck_target) == ("", "")


def test_scores_are_compared_by_points_and_a_score_of_zero_counts() -> None:
    """A ratio of scores would leave out the answers that are all wrong."""

    def scored(right: int) -> list[SampleRecord]:
        return [replace(r, quality_accuracy=100.0 * (int(r.key.split()[1]) % 10 < right)) for r in records(1)]

    row = compared(scored(9), scored(5)).pairs[0].row("accuracy")
    assert row is not None
    assert (row.n, row.baseline_mean, row.target_mean) == (60, pytest.approx(90), pytest.approx(50))
    assert (row.text, row.verdict) == ("40 points lower", Verdict.REGRESSED)
    assert row.difference.low < row.difference.estimate == pytest.approx(-40)
    assert math.isnan(row.ratio.estimate)
    same = compared(scored(9), scored(9)).pairs[0].row("accuracy")
    assert same is not None
    assert (same.text, same.verdict) == ("equal within 2 points", Verdict.EQUIVALENT)
