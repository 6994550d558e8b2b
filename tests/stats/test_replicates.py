"""Ratios of replicated configurations: intervals cover, false verdicts are rare, planted effects are found."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from fourstage.stats.replicates import Floor, Measured, averages, effect, floor, log_ratio, pooled
from fourstage.stats.simulation import Study, coverage, detected, draw, results
from fourstage.stats.variance import contrast, fit
from fourstage.stats.verdicts import holm

PROCESS = (0.0, 0.03, 0.1, 0.2)
REPLICATES = (2, 3, 5, 10)
SAMPLES = ((4, 0), (20, 0), (20, 5), (200, 0), (200, 10))  # and clusters
ERROR = 0.018  # of a coverage from so many simulations, 2.3 to 4 standard errors


def measured(
    logs: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    clusters: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None,
) -> Measured:
    """[replicates, samples]; NaN is left out."""
    rows, columns = np.nonzero(~np.isnan(logs))
    return Measured(np.exp(logs[rows, columns]), rows, columns, None if clusters is None else clusters[columns])


def study(**settings: float) -> tuple[Measured, Measured]:
    made = Study(**{"replicates": 5, "samples": 20, "process": 0.02, **settings})  # type: ignore[arg-type]
    target, baseline = draw(made, 1, np.random.default_rng(4))
    return measured(target[0], made.codes), measured(baseline[0], made.codes)


# coverage, and with it false verdicts: 5 % or fewer of the intervals exclude the true ratio


@pytest.mark.parametrize("interaction", [0.0, 0.05])
@pytest.mark.parametrize("replicates", REPLICATES)
def test_intervals_cover_the_ratio_95_times_in_100(replicates: int, interaction: float) -> None:
    for process, (samples, clusters) in itertools.product(PROCESS, SAMPLES):
        made = Study(replicates, samples, process, interaction, clusters)
        found = coverage(made, 2000 if samples < 200 else 800)
        assert found >= 0.95 - ERROR, f"{made}: {found}"
        # no variance to estimate, two processes, or few clusters: careful, docs/statistics.md says by how much
        careful = (clusters or samples) < 20
        assert found <= (
            0.998 if process + interaction == 0 else 0.992 if replicates == 2 else 0.985 if careful else 0.975
        ), f"{made}: {found}"


@pytest.mark.parametrize("replicates", [3, 5])
def test_intervals_cover_where_the_two_sides_differ_in_their_process_variance(replicates: int) -> None:
    for factor, samples in itertools.product((1 / 3, 1 / 10, 1 / 100), (4, 20, 200)):
        made = Study(replicates, samples, 0.05, 0.02, target_process=0.05 * factor)
        assert coverage(made, 1500) >= 0.93 - 0.01, made


@pytest.mark.parametrize(
    "made",
    [
        Study(3, 20, 0.03, 0.05, missing=0.15),
        Study(5, 20, 0.03, 0.0, missing=0.3),
        Study(5, 200, 0.1, 0.05, clusters=10, missing=0.1),
        Study(10, 20, 0.2, 0.05, clusters=5, missing=0.1),
    ],
)
def test_missing_cells_keep_the_coverage(made: Study) -> None:
    assert 0.93 <= coverage(made, 2000) <= 0.98


def test_clusters_of_unequal_size_keep_the_coverage() -> None:
    rng = np.random.default_rng(3)
    codes = np.repeat(np.arange(8), [1, 1, 2, 2, 3, 4, 8, 12])
    times, (r, n) = 3000, (5, len(codes))
    sides = [
        rng.normal(0, 0.05, (times, 1, 8))[..., codes]
        + rng.normal(0, 0.02, (times, r, 1))
        + rng.normal(0, 0.03, (times, r, n))
        for _ in range(2)
    ]
    estimate, variance = contrast([fit(side) for side in sides], [1.0, -1.0], codes)
    assert 0.93 <= (np.abs(estimate) <= variance.half_width(0.95)).mean() <= 0.995
    _, naive = contrast([fit(side) for side in sides], [1.0, -1.0])
    assert (np.abs(estimate) <= naive.half_width(0.95)).mean() < 0.9


@pytest.mark.parametrize("replicates", [2, 3, 5, 10])
@pytest.mark.parametrize("disturbance", [{"skewed": True}, {"outlier": 3.0}, {"outlier": 0.5, "skewed": True}])
def test_skewed_noise_and_an_outlier_make_few_false_verdicts(replicates: int, disturbance: dict[str, float]) -> None:
    for samples, process in itertools.product((4, 20), (0.01, 0.1)):
        made = replace(Study(replicates, samples, process), **disturbance)
        if replicates * samples > 20 or "outlier" not in disturbance:  # else the outlier is a true difference
            _, parts = results(made, 1500)
            false = np.concatenate([np.abs(estimate) > variance.half_width(0.95) for estimate, variance in parts])
            assert false.mean() <= 0.05 + ERROR, made


def test_the_samples_alone_would_be_wrong_by_far() -> None:
    made = Study(3, 20, 0.03)
    _, parts = results(made, 1000)
    (estimate, variance), *_ = parts
    alone = 2.1 * np.sqrt(variance.cluster)
    assert (np.abs(estimate) > alone).mean() > 0.3  # what an interval without processes calls different


@pytest.mark.parametrize("replicates", REPLICATES)
def test_after_holm_over_ten_rows_at_most_5_percent_of_the_tables_claim_something(replicates: int) -> None:
    # Holm rejects one of ten exactly where the least p is at most 0.05 / 10
    assert min(holm([0.0049, *[0.5] * 9])) <= 0.05 < min(holm([0.0051, *[0.5] * 9]))
    for samples, process, interaction in ((20, 0.0, 0.0), (20, 0.03, 0.0), (4, 0.0, 0.05), (20, 0.1, 0.05)):
        tables = 1000
        _, parts = results(Study(replicates, samples, process, interaction), 10 * tables)
        claimed = np.concatenate([np.abs(estimate) > variance.half_width(0.995) for estimate, variance in parts])
        assert claimed.reshape(tables, 10).any(axis=1).mean() <= 0.05 + 0.02


def test_a_planted_slow_down_of_10_percent_is_found_with_5_replicates() -> None:
    for samples, clusters in SAMPLES[1:]:
        assert detected(Study(5, samples, 0.015, clusters=clusters, ratio=1.1), 1000) >= 0.9
    assert detected(Study(5, 20, 0.015, 0.03, ratio=1.1), 1000) >= 0.9


# one effect


def test_an_effect_is_that_of_the_simulated_core() -> None:
    made = Study(3, 20, 0.03, 0.05, clusters=5)
    target, baseline = draw(made, 1, np.random.default_rng(1))
    found = log_ratio(measured(target[0], made.codes), measured(baseline[0], made.codes))
    estimate, variance = contrast([fit(target), fit(baseline)], [1.0, -1.0], made.codes)
    assert found.log == pytest.approx(estimate[0])
    assert found.half_width == pytest.approx(variance.half_width(0.95)[0])
    assert (found.replicates, found.samples, found.clusters) == ((3, 3), 20, 5)


def test_an_interval_is_positive_multiplicative_and_free_of_the_unit() -> None:
    target, baseline = study()
    there, back = log_ratio(target, baseline), log_ratio(baseline, target)
    assert 0 < there.low < there.ratio < there.high
    assert (1 / back.high, 1 / back.low) == pytest.approx((there.low, there.high))
    in_ms = [
        Measured(1000 * np.asarray(side.values), side.replicates, side.samples, side.clusters)
        for side in (target, baseline)
    ]
    assert log_ratio(*in_ms).high == pytest.approx(there.high)


def test_the_p_value_is_below_5_percent_where_the_interval_excludes_1() -> None:
    rng = np.random.default_rng(5)
    for ratio in (1.0, 1.02, 1.04, 1.08):
        for _ in range(10):
            target, baseline = draw(Study(3, 8, 0.02, ratio=ratio), 1, rng)
            found = log_ratio(measured(target[0]), measured(baseline[0]))
            assert (found.p_value < 0.05) == (not found.low <= 1 <= found.high)
            assert (found.p_equivalent < 0.05) == (
                abs(found.log) + float(found.variance.half_width(0.9)) < math.log(1.02)
            )


def test_seconds_and_ratio_say_the_same() -> None:
    for ratio in (0.8, 1.0, 1.3):
        target, baseline = study(ratio=ratio)
        found = log_ratio(target, baseline)
        estimate, low, high = found.difference
        assert estimate == pytest.approx(found.target_geometric - found.baseline_geometric)
        assert [np.sign(limit) for limit in (low, high)] == [np.sign(found.low - 1), np.sign(found.high - 1)]


def test_shares_name_the_source_of_the_uncertainty() -> None:
    by_process = log_ratio(*study(process=0.2)).shares
    by_sample = log_ratio(*study(process=0.0, interaction=0.3)).shares
    assert sum(by_process.values()) == pytest.approx(100)
    assert by_process["between processes"] > 90
    assert by_sample["between clusters"] > 90


def test_identical_values_are_equal_and_a_constant_factor_is_certain() -> None:
    _, baseline = study()
    constant = measured(np.log(np.full((3, 4), 7.0)))
    more = measured(np.log(np.full((3, 4), 14.0)))
    assert (log_ratio(baseline, baseline).ratio, log_ratio(baseline, baseline).p_value) == (1.0, 1.0)
    same, double = log_ratio(constant, constant), log_ratio(more, constant)
    assert (same.low, same.high, same.p_value, same.p_equivalent) == (1.0, 1.0, 1.0, 0.0)
    assert double.low == pytest.approx(double.high) == pytest.approx(2.0)
    assert double.p_value == 0.0


def test_one_process_a_side_is_not_replicated_unless_a_floor_is_known() -> None:
    target, baseline = study(replicates=1)
    alone = log_ratio(target, baseline)
    known = log_ratio(target, baseline, known=Floor(0.05, 9.0, math.nan, 10, 20))
    assert (alone.replicated, known.replicated, known.known_floor) == (False, True, True)
    assert alone.variance.between_processes == 0
    assert known.high / known.low > alone.high / alone.low
    assert float(known.variance.process) == pytest.approx(2 * 0.05**2)
    assert known.df == pytest.approx(9, rel=0.2)  # one floor for both sides


def test_a_known_floor_covers_for_single_processes() -> None:
    rng = np.random.default_rng(6)
    inside = []
    for _ in range(400):
        target, baseline = draw(Study(1, 6, 0.05), 1, rng)
        known = Floor(0.05 * math.sqrt(rng.chisquare(6) / 6), 6.0, math.nan, 7, 6)
        found = log_ratio(measured(target[0]), measured(baseline[0]), known=known)
        inside.append(found.low <= 1 <= found.high)
    assert np.mean(inside) >= 0.93


def test_one_cluster_claims_nothing_of_others_and_can_be_asked_about_itself() -> None:
    target, baseline = (Measured(side.values, side.replicates, side.samples, ["drive"] * 100) for side in study())
    other, itself = log_ratio(target, baseline), log_ratio(target, baseline, over_samples=False)
    assert (other.high, other.p_value, other.detectable_ratio) == (math.inf, 1.0, math.inf)
    assert other.low > 0
    assert math.isfinite(itself.high)


def test_what_one_side_has_not_is_left_out_and_counted() -> None:
    target, baseline = study()
    fewer = Measured(
        *zip(
            *[cell for cell in zip(target.values, target.replicates, target.samples, strict=True) if cell[2] > 2],
            strict=True,
        )
    )
    found = log_ratio(fewer, Measured(baseline.values, baseline.replicates, baseline.samples))
    assert (found.samples, found.unmatched) == (17, 3)


def test_a_missing_slow_sample_does_not_make_a_process_fast() -> None:
    logs = np.log(np.array([[1.0, 10.0], [1.0, 10.0], [1.0, np.nan]]))
    assert fit(logs).processes == pytest.approx(np.full(3, math.log(10) / 2))


@pytest.mark.parametrize(
    ("values", "why"),
    [([0.0, 1.0], "not above 0"), ([-1.0, 1.0], "not above 0"), ([math.nan, 1.0], "not finite"), ([], "no values")],
)
def test_values_without_a_logarithm_are_refused(values: list[float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Measured(values, [0] * len(values), list(range(len(values))))


def test_labels_and_settings_that_cannot_be_are_refused() -> None:
    target, baseline = study()
    with pytest.raises(ValueError, match="1 replicate labels"):
        Measured([1.0, 2.0], [0], [0, 1])
    with pytest.raises(ValueError, match="in clusters 'a' and 'b'"):
        Measured([1.0, 2.0], [0, 1], [0, 0], ["a", "b"])
    with pytest.raises(ValueError, match="no sample in common"):
        log_ratio(Measured([1.0], [0], ["x"]), Measured([1.0], [0], ["y"]))
    with pytest.raises(ValueError, match="1 and 1 replicates have no sample in common"):
        log_ratio(Measured([1.0, 2.0], [0, 1], [0, 1]), Measured([1.0, 2.0], [0, 0], [0, 1]))
    with pytest.raises(ValueError, match="level lies between 0 and 1, not at 95"):
        log_ratio(target, baseline, level=95)
    with pytest.raises(ValueError, match="weights of a contrast sum to 0, not to 2"):
        effect([target, baseline], [1.0, 1.0])


# the floor


def test_a_floor_covers_what_two_processes_differ() -> None:
    rng = np.random.default_rng(7)
    outside, contains = [], []
    for _ in range(1000):
        logs = rng.normal(0, 0.03, (6, 1)) + rng.normal(0, 0.02, (6, 10))
        found = floor(measured(logs[:4]))
        outside.append(math.expm1(abs(logs[4].mean() - logs[5].mean())) > found.spread())
        low, high = found.limits()
        contains.append(low <= math.hypot(0.03, 0.02 / math.sqrt(10)) <= high)
    assert 0.03 <= np.mean(outside) <= 0.07
    assert 0.93 <= np.mean(contains) <= 0.97


def test_floors_pool_by_their_degrees_of_freedom() -> None:
    one, other = Floor(0.01, 2.0, 0.001, 3, 20), Floor(0.02, 8.0, 0.002, 9, 12)
    both = pooled([one, other])
    assert both.sd == pytest.approx(math.sqrt((2 * 0.01**2 + 8 * 0.02**2) / 10))
    assert (both.df, both.replicates, both.samples) == (10, 12, 12)
    with pytest.raises(ValueError, match="no floors"):
        pooled([])
    with pytest.raises(ValueError, match="two replicates or more"):
        floor(study(replicates=1)[0])


# averages


def test_one_sample_that_speaks_for_all_is_named() -> None:
    baseline = Measured([0.2] * 5, [0] * 5, list(range(5)))
    found = averages(Measured([0.2, 0.2, 4.9, 0.2, 0.2], [0] * 5, list(range(5))), baseline)
    assert found.disagree
    assert found.text.startswith("means and medians disagree: the ratio is 5.7 of means, 1 of medians and 1.9")
    assert averages(*study(ratio=1.3)).text == ""
