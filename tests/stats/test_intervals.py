"""Intervals cover what they say, by simulation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fourstage.stats import intervals
from fourstage.stats.intervals import bootstrap_interval, paired_interval, ratio_intervals
from fourstage.stats.outliers import outliers
from fourstage.stats.trends import drift

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


# intervals


def normal(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return rng.normal(1.0, 0.1, n)  # mean 1, median 1


def lognormal(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return np.exp(rng.normal(0.0, 0.5, n))  # mean exp(1 / 8), median 1; skewness 1.75


@pytest.mark.parametrize("n", [10, 30, 60])
@pytest.mark.parametrize(
    ("draw", "statistic", "truth"),
    [
        (normal, "mean", 1.0),
        (normal, "median", 1.0),
        (lognormal, "mean", math.exp(1 / 8)),
        (lognormal, "median", 1.0),
    ],
)
def test_intervals_cover_the_truth_95_times_in_100(draw: Draw, statistic: str, truth: float, n: int) -> None:
    rng = np.random.default_rng(1)
    intervals = [bootstrap_interval(draw(rng, n), statistic, seed=i, resamples=1000) for i in range(300)]
    assert 0.91 <= np.mean([interval.contains(truth) for interval in intervals]) <= 0.99


@pytest.mark.parametrize(("statistic", "truth"), [("mean", math.exp(0.17 / 2)), ("median", 1.0)])
def test_repeats_of_a_video_are_not_new_videos(statistic: str, truth: float) -> None:
    videos, repeats = 12, 5
    labels = np.repeat(np.arange(videos), repeats)
    rng = np.random.default_rng(2)
    clustered, naive = [], []
    for i in range(300):
        values = np.exp(rng.normal(0, 0.4, videos)[labels] + rng.normal(0, 0.1, len(labels)))
        clustered.append(bootstrap_interval(values, statistic, labels, seed=i, resamples=500).contains(truth))
        naive.append(bootstrap_interval(values, statistic, seed=i, resamples=500).contains(truth))
    assert 0.90 <= np.mean(clustered) <= 0.99
    assert np.mean(naive) < 0.75


def test_cluster_labels_may_be_anything_and_only_tell_apart() -> None:
    values = [1.0, 1.1, 2.0, 2.2, 3.0, 3.1, 4.0, 4.4, 5.0, 5.5, 6.0, 6.1]
    names = [f"clip {i // 2}" for i in range(12)]
    for statistic in ("mean", "median"):
        by_name = bootstrap_interval(values, statistic, names)
        assert by_name == bootstrap_interval(values, statistic, np.repeat(np.arange(6), 2))
        assert by_name.n == 12


def test_an_interval_is_repeatable_and_scales_with_its_unit() -> None:
    seconds = lognormal(np.random.default_rng(3), 40)
    for statistic in ("mean", "median"):
        one, other = (bootstrap_interval(values, statistic, seed=5) for values in (seconds, 1000 * seconds))
        assert one == bootstrap_interval(seconds, statistic, seed=5)
        assert (1000 * one.low, 1000 * one.high) == pytest.approx((other.low, other.high))


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_too_little_data_claims_nothing(statistic: str) -> None:
    alone = bootstrap_interval([0.5], statistic)
    assert (alone.low, alone.estimate, alone.high, alone.n) == (-math.inf, 0.5, math.inf, 1)
    one_video = bootstrap_interval([0.5, 0.6, 0.7], statistic, clusters=["a", "a", "a"])
    assert (one_video.low, one_video.high) == (-math.inf, math.inf)


def test_five_values_say_nothing_about_a_median_at_95_percent() -> None:
    assert bootstrap_interval([1, 2, 3, 4, 5]).high == math.inf  # their range covers 93.75 %
    assert bootstrap_interval([1, 2, 3, 4, 5, 6]).high <= 6
    assert bootstrap_interval([1, 2, 3, 4, 5], level=0.9).high <= 5


def test_constant_values_have_an_interval_without_width() -> None:
    for statistic in ("mean", "median"):
        interval = bootstrap_interval([0.1] * 10, statistic)
        assert interval.low == pytest.approx(0.1, rel=1e-12)
        assert interval.high == pytest.approx(0.1, rel=1e-12)


def test_one_hiccup_does_not_make_an_interval_useless() -> None:
    values = np.append(np.random.default_rng(4).normal(1.0, 0.01, 59), 20.0)
    mean = bootstrap_interval(values, "mean")
    assert mean.low < 1.0 < mean.estimate < mean.high < 4.0
    assert bootstrap_interval(values).high < 1.02


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("clustered", [False, True])
def test_the_analytic_interval_continues_the_bootstrap(
    statistic: str, clustered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(6)
    labels = np.repeat(np.arange(400), 5)
    values = np.exp(rng.normal(0, 0.3, 400)[labels] + rng.normal(0, 0.2, 2000))
    clusters = labels if clustered else None
    drawn = bootstrap_interval(values, statistic, clusters)
    monkeypatch.setattr(intervals, "BOOTSTRAP_LIMIT", 100)
    analytic = bootstrap_interval(values, statistic, clusters)
    assert analytic.estimate == drawn.estimate
    assert analytic.high - analytic.low == pytest.approx(drawn.high - drawn.low, rel=0.15)


def test_what_cannot_have_an_interval_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="1 of 2 values are not finite"):
        bootstrap_interval([1.0, math.nan])
    with pytest.raises(ValueError, match="2 values have 1 cluster labels"):
        bootstrap_interval([1.0, 2.0], clusters=["a"])
    with pytest.raises(ValueError, match="unknown statistic 'mode'"):
        bootstrap_interval([1.0, 2.0], "mode")
    with pytest.raises(ValueError, match=r"0\.95 is 95 %"):
        bootstrap_interval([1.0, 2.0], level=95)
    with pytest.raises(ValueError, match="are not pairs"):
        paired_interval([1.0, 2.0], [1.0])


# pairs


def test_many_columns_at_once_have_the_intervals_of_each_alone() -> None:
    rng = np.random.default_rng(5)
    before, after = rng.lognormal(0, 0.5, (2, 30, 4))
    after[:, 1] = before[:, 1]
    before[:, 2] = 0.0
    differences = ratio_intervals(after - before, np.ones((30, 4)), 30, seed=3, resamples=300)
    ratios = ratio_intervals(after, before, 30, seed=3, resamples=300)
    for column in range(4):
        difference, ratio = paired_interval(before[:, column], after[:, column], seed=3, resamples=300)
        for many, one in ((differences[column], difference), (ratios[column], ratio)):
            values = [many.low, many.high, many.estimate, many.n]
            assert values == pytest.approx([one.low, one.high, one.estimate, one.n], rel=1e-9, nan_ok=True)
    assert (ratios[1].low, ratios[1].high) == (1.0, 1.0)
    assert (ratios[2].low, ratios[2].high) == (-math.inf, math.inf)


def test_a_gain_of_3_percent_is_found_in_60_pairs() -> None:
    rng = np.random.default_rng(7)
    found = []
    for i in range(200):
        before = lognormal(rng, 60)  # the samples differ by far more than 3 %
        after = 0.97 * before * rng.normal(1, 0.03, 60)
        difference, ratio = paired_interval(before, after, seed=i, resamples=1000)
        found.append(ratio.high < 1 and difference.high < 0 and ratio.contains(after.sum() / before.sum()))
    assert np.mean(found) >= 0.99


def test_equal_runs_show_no_difference_19_times_in_20() -> None:
    rng = np.random.default_rng(8)
    differ, disagree = [], []
    for i in range(400):
        before = lognormal(rng, 60)
        difference, ratio = paired_interval(before, before * rng.normal(1, 0.03, 60), seed=i, resamples=1000)
        differ.append(not ratio.contains(1))
        disagree.append(ratio.contains(1) != difference.contains(0))
    assert 0.02 <= np.mean(differ) <= 0.08
    assert np.mean(disagree) <= 0.02


def test_the_same_run_twice_is_exactly_no_difference() -> None:
    before = lognormal(np.random.default_rng(9), 60)
    difference, ratio = paired_interval(before, before)
    assert (difference.low, difference.estimate, difference.high) == (0, 0, 0)
    assert (ratio.low, ratio.estimate, ratio.high) == (1, 1, 1)


def test_pairs_of_one_video_are_one_pair() -> None:
    rng = np.random.default_rng(10)
    labels = np.repeat(np.arange(10), 6)
    differ = {"videos": 0, "pairs": 0}
    for i in range(200):
        before = lognormal(rng, 10)[labels]
        after = before * np.exp(rng.normal(0, 0.05, 10)[labels] + rng.normal(0, 0.01, 60))
        for name, clusters in (("videos", labels), ("pairs", None)):
            difference, _ = paired_interval(before, after, clusters, seed=i, resamples=500)
            differ[name] += not difference.contains(0)
    assert differ["videos"] / 200 <= 0.11
    assert differ["pairs"] / 200 >= 0.25


def test_a_ratio_to_nothing_claims_nothing() -> None:
    difference, ratio = paired_interval([0.0, 0.0], [1.0, 3.0])
    assert difference.estimate == 2
    assert math.isnan(ratio.estimate)
    assert (ratio.low, ratio.high) == (-math.inf, math.inf)


# size


def test_a_million_values_take_seconds() -> None:
    rng = np.random.default_rng(18)
    seconds, videos = np.exp(rng.normal(0, 0.2, 1_000_000)), rng.integers(5000, size=1_000_000)
    began = time.monotonic()
    for statistic in ("mean", "median"):
        interval = bootstrap_interval(seconds, statistic, videos)
        assert interval.high - interval.low < 0.002
    paired_interval(seconds, seconds[::-1], videos)
    drift(np.arange(len(seconds)), seconds, videos)
    outliers(seconds)
    assert time.monotonic() - began < 20  # 1 s on two cores
