"""Slopes, drifts and lines find what was planted and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fourstage.stats.trends import drift, regression, theil_sen

# intervals


def normal(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return rng.normal(1.0, 0.1, n)  # mean 1, median 1


# slopes


def test_theil_sen_is_the_median_of_the_slopes_with_sens_limits() -> None:
    x, y = [1, 2, 3, 4, 10, 12, 18], [9, 15, 19, 20, 45, 55, 78]  # Sen's example (1968, section 6)
    slopes = sorted((y[j] - y[i]) / (x[j] - x[i]) for j in range(7) for i in range(j))
    line = theil_sen(x, y, level=0.93)
    assert line.slope == pytest.approx(4.0)
    # 1.81 standard deviations of S, sqrt(7 * 6 * 19 / 18), are 12.1: the (21 - 12) / 2 = 4th from either end
    assert (line.low, line.high) == (slopes[3], slopes[-4])
    assert line.intercept == pytest.approx(20 - 4 * 4)


def test_a_third_of_the_points_may_be_wrong() -> None:
    x = np.arange(60.0)
    y = 3 + 0.5 * x
    y[::4] += 1000
    assert theil_sen(x, y).slope == pytest.approx(0.5)


def test_a_run_without_drift_shows_one_5_times_in_100() -> None:
    rng = np.random.default_rng(11)
    runs = [drift(np.arange(60), np.exp(rng.normal(0, 0.1, 60)), seed=i, resamples=300) for i in range(400)]
    assert 0.02 <= np.mean([not run.low <= 0 <= run.high for run in runs]) <= 0.09
    assert np.mean([not run.halves.contains(1) for run in runs]) <= 0.09  # medians of 30: cautious


def test_a_drift_of_4_percent_is_found_in_60_samples() -> None:
    rng = np.random.default_rng(12)
    position = np.arange(60)
    truth = 0.04 / 1.02  # of the median
    runs = []
    for i in range(200):
        seconds = (1 + 0.04 * position / 59) * rng.normal(1, 0.01, 60)
        runs.append(drift(position, seconds, seed=i, resamples=300))
    assert np.mean([run.low > 0 for run in runs]) >= 0.95
    assert np.mean([run.halves.low > 1 for run in runs]) >= 0.95
    assert 0.90 <= np.mean([run.low <= truth <= run.high for run in runs]) <= 0.99
    assert np.median([run.change for run in runs]) == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize("rounds", [True, False], ids=["rounds", "in a row"])
def test_repeated_videos_are_no_drift(rounds: bool) -> None:
    rng = np.random.default_rng(13)
    videos = np.tile(np.arange(20), 3) if rounds else np.repeat(np.arange(20), 3)
    clustered, halves, naive = [], [], []
    for i in range(300):
        seconds = np.exp(rng.normal(0, 0.3, 20)[videos] + rng.normal(0, 0.02, 60))
        run = drift(np.arange(60), seconds, videos, seed=i, resamples=300)
        clustered.append(not run.low <= 0 <= run.high)
        halves.append(not run.halves.contains(1))
        line = theil_sen(np.arange(60), seconds)
        naive.append(not line.low <= 0 <= line.high)
    assert np.mean(clustered) <= 0.09
    assert np.mean(halves) <= 0.09
    assert np.mean(naive) < 0.02 if rounds else np.mean(naive) > 0.15  # blind, or seeing ghosts


def test_in_rounds_a_drift_is_seen_through_what_the_videos_differ() -> None:
    rng = np.random.default_rng(14)
    videos = np.tile(np.arange(20), 3)
    runs = []
    for i in range(200):
        noise = np.exp(rng.normal(0, 0.3, 20)[videos] + rng.normal(0, 0.01, 60))
        runs.append(drift(np.arange(60), noise * (1 + 0.04 * np.arange(60) / 59), videos, seed=i, resamples=300))
    assert np.mean([run.low > 0 for run in runs]) >= 0.95
    assert 0.90 <= np.mean([run.low <= 0.04 / 1.02 <= run.high for run in runs]) <= 0.99


def test_many_points_keep_slope_and_coverage() -> None:
    rng = np.random.default_rng(15)
    x = np.arange(20_000.0)
    lines = [theil_sen(x, 1 + 1e-6 * x + rng.exponential(0.1, len(x))) for _ in range(12)]
    assert np.mean([line.low <= 1e-6 <= line.high for line in lines]) >= 0.8
    assert np.mean([line.slope for line in lines]) == pytest.approx(1e-6, rel=0.1)
    assert lines[0].n == 20_000


def test_many_repeated_videos_keep_their_clusters() -> None:
    rng = np.random.default_rng(16)
    n, videos = 12_000, np.tile(np.arange(3000), 4)
    seconds = np.exp(rng.normal(0, 0.3, 3000)[videos] + rng.normal(0, 0.02, n)) * (1 + 0.04 * np.arange(n) / n)
    run = drift(np.arange(n), seconds, videos)
    assert 0 < run.low < 0.04 / 1.02 < run.high
    assert run.halves.low > 1
    assert run.n == n


def test_few_points_claim_no_slope() -> None:
    line = theil_sen([0, 1, 2], [1.0, 2.0, 3.0])
    assert (line.low, line.slope, line.high) == (-math.inf, 1.0, math.inf)
    assert theil_sen([0, 1, 2, 3], [1, 2, 3, 4], clusters=["a"] * 4).high == math.inf


def test_constant_times_do_not_drift() -> None:
    run = drift(range(20), [0.5] * 20)
    assert (run.change, run.low, run.high) == (0, 0, 0)
    assert (run.halves.low, run.halves.estimate, run.halves.high) == (1, 1, 1)


def test_no_slope_comes_from_one_position() -> None:
    with pytest.raises(ValueError, match="all 3 points have x = 2"):
        theil_sen([2, 2, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="are not points"):
        theil_sen([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="median of 2 times is 0 s"):
        drift([0, 1], [0.0, 0.0])


def test_a_line_has_the_textbooks_errors() -> None:
    line = regression([1, 2, 3, 4, 5], [2.0, 4.1, 5.9, 8.2, 9.8])
    assert (line.slope, line.intercept) == pytest.approx((1.97, 0.09))
    error = math.sqrt(0.091 / 3)  # residual sum of squares / (n - 2)
    assert (line.slope_se, line.intercept_se) == pytest.approx((error / math.sqrt(10), error * math.sqrt(1.1)))
    assert line.r2 == pytest.approx(1 - 0.091 / 38.9)
    assert line.n == 5


def test_two_points_are_a_line_without_known_error() -> None:
    line = regression([10, 20], [1.0, 2.0])
    assert (line.slope, line.intercept, line.r2) == pytest.approx((0.1, 0.0, 1.0))
    assert line.slope_se == math.inf


def test_equal_counts_explain_nothing() -> None:
    with pytest.raises(ValueError, match="all 3 samples have 50 tokens"):
        regression([50, 50, 50], [1.0, 1.1, 1.2])
