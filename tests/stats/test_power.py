"""A plan keeps what it promises, by simulation."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from fourstage.stats.power import Spread, detectable_ratio, needed, power_of, samples_needed, spread_of
from fourstage.stats.replicates import Measured, floor, log_ratio
from fourstage.stats.simulation import Study, detected, draw


def simulated(
    spread: Spread, ratio: float, replicates: int, samples: int, clusters: int = 0, level: float = 0.95
) -> float:
    made = Study(replicates, samples, spread.process, spread.interaction, clusters, spread.noise, ratio=ratio)
    return detected(made, 1500, level)


@pytest.mark.parametrize(
    "spread", [Spread(0.015, 0.03), Spread(0.03, 0.03), Spread(0.02, 0.1), Spread(0.015, 0.03, 0.02)]
)
@pytest.mark.parametrize("effect", [0.03, 0.1])
def test_the_replicates_that_it_names_reach_the_power(spread: Spread, effect: float) -> None:
    need = needed(spread, effect, samples=20)
    assert need is not None
    assert need.power >= 0.8
    assert simulated(spread, 1 + effect, need.replicates, 20) >= 0.77
    if need.replicates > 2:
        assert power_of(spread, 1 + effect, need.replicates - 1, 20) < 0.8


def test_the_smallest_detectable_ratio_is_found_four_times_of_five() -> None:
    for spread, replicates, samples, clusters in (
        (Spread(0.015, 0.03), 5, 20, 20),
        (Spread(0.03, 0.03), 3, 20, 20),
        (Spread(0.01, 0.05, 0.03), 5, 100, 10),
    ):
        ratio = detectable_ratio(spread, replicates, samples, clusters)
        assert 0.74 <= simulated(spread, ratio, replicates, samples, clusters) <= 0.87, (spread, ratio)


def test_rows_cost_replicates_and_keep_the_power() -> None:
    spread = Spread(0.02, 0.03)
    one, ten = needed(spread, 0.05, 20), needed(spread, 0.05, 20, rows=10)
    assert one is not None
    assert ten is not None
    assert ten.replicates > one.replicates
    assert simulated(spread, 1.05, ten.replicates, 20, level=0.995) >= 0.77


def test_more_of_anything_never_shows_less() -> None:
    spread = Spread(0.02, 0.05, 0.02)
    ratios = [detectable_ratio(spread, replicates, 20) for replicates in (2, 3, 5, 10, 30)]
    assert all(more < fewer for fewer, more in pairwise(ratios))
    ratios = [detectable_ratio(spread, 5, samples) for samples in (4, 10, 50, 500)]
    assert all(more < fewer for fewer, more in pairwise(ratios))


def test_what_samples_limit_replicates_cannot_show_and_the_other_way_round() -> None:
    assert needed(Spread(0.01, 0.0, 0.3), 0.01, samples=4) is None
    assert samples_needed(Spread(0.1), 0.01, replicates=3) is None
    enough = samples_needed(Spread(0.005, 0.03, 0.05), 0.03, replicates=5, per_cluster=10)
    assert enough is not None
    assert enough.samples % 10 == 0
    assert power_of(Spread(0.005, 0.03, 0.05), 1.03, 5, enough.samples, enough.samples // 10) >= 0.8


def test_power_without_spread_is_certain_and_nonsense_is_refused() -> None:
    assert power_of(Spread(0.0), 1.001, 2, 4) == 1.0
    assert power_of(Spread(1e-6), 2.0, 2, 4) == pytest.approx(1.0)
    for call in (
        lambda: power_of(Spread(0.01), 1.1, 1, 4),
        lambda: power_of(Spread(0.01), 1.1, 3, 4, clusters=1),
        lambda: needed(Spread(0.01), 0.0, 4),
        lambda: detectable_ratio(Spread(0.01), 3, 4, power=80),
        lambda: Spread(math.nan),
    ):
        with pytest.raises(ValueError, match=r"not|above"):
            call()


def test_a_measured_effect_and_a_floor_show_the_spread_to_plan_with() -> None:
    both = draw(Study(40, 100, 0.03, 0.05, noise=0.1), 1, np.random.default_rng(2))
    rows, columns = np.divmod(np.arange(4000), 100)
    target, baseline = (Measured(np.exp(side[0]).ravel(), rows, columns) for side in both)
    spread = spread_of(log_ratio(target, baseline))
    assert (spread.process, spread.noise, spread.interaction) == pytest.approx((0.03, 0.1, 0.05), rel=0.25)
    assert floor(baseline).process_sd == pytest.approx(0.03, rel=0.3)
    assert floor(baseline).noise_sd == pytest.approx(0.01, rel=0.1)
    single = Measured([1.0, 2.0], [0, 0], [0, 1])
    with pytest.raises(ValueError, match="shows no spread"):
        spread_of(log_ratio(single, single))
