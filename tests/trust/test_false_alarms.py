"""Honest runs on noisy machines stay valid, and planted faults are found in spite of the noise: by simulation."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fourstage.stages import SampleRecord
from fourstage.trust.audits import (
    CACHED_BELOW,
    MOST,
    NOT_CACHED,
    NOT_LONGER,
    NOT_SHORTER,
    OBSERVED_ABOVE,
    SECONDS,
    Audits,
    Limit,
    Ratio,
    until_told,
)
from fourstage.trust.check import Check
from fourstage.trust.checks import check_run
from fourstage.trust.checks.times import little_observed, no_caching, no_drift, tokens_explain_time
from fourstage.trust.evidence import Evidence
from tests.fakes import fake
from tests.trust.test_checks import EXPECTED, evidence

Noise = Callable[[random.Random, int], list[float]]


def even(share: float) -> Noise:
    return lambda source, n: [source.lognormvariate(0, share) for _ in range(n)]


def bursts(share: float) -> Noise:
    """A busy machine: what disturbs a sample lasts into the next ones, and a quarter of them lose up to half more."""

    def noise(source: random.Random, n: int) -> list[float]:
        level, values = source.gauss(0, share), list[float]()
        for _ in range(n):
            level = 0.5 * level + source.gauss(0, share * 0.75**0.5)
            values.append(np.exp(level) * (1 + source.random() / 2 * (source.random() < 0.25)))
        return values

    return noise


def drifts(noise: Noise, change: float, runs: int = 100, n: int = 16) -> Counter[str]:
    """Verdicts of `no_drift` on runs of n samples that get slower by this share."""
    base = evidence(n=1, audited=False).sampled[0]
    verdicts = Counter[str]()
    for seed in range(runs):
        records: list[SampleRecord] = [
            replace(base, key=f"s{i}", position=i, preprocess_s=value * (1 + change * i / (n - 1)) - 0.13)
            for i, value in enumerate(noise(random.Random(seed), n))
        ]
        verdicts[no_drift(Evidence.of(records, planned=[], expected=EXPECTED)).verdict] += 1
    return verdicts


@pytest.mark.parametrize(
    ("noise", "n"), [(even(0.01), 16), (even(0.2), 16), (bursts(0.05), 16), (even(0.05), 60), (bursts(0.05), 60)]
)
def test_noise_alone_is_a_drift_in_at_most_one_percent_of_runs(noise: Noise, n: int) -> None:
    found = drifts(noise, 0, n=n, runs=100)
    assert found["fail"] <= 1, found


def test_a_drift_of_ten_percent_over_16_samples_is_found_through_noise() -> None:
    assert drifts(even(0.01), 0.10)["fail"] >= 90  # of 100
    found = drifts(even(0.03), 0.10)
    assert found["fail"] + found["warn"] >= 50, found


def pairs(share: float, ratio: float, limit: float, fault: Any, runs: int = 300) -> Counter[Any]:
    """Sides that pairs tell where each time has this noise and the second way takes `ratio` of the first."""
    sides = Counter[Any]()
    for seed in range(runs):
        source = random.Random(seed)
        _, timing = fake()

        def one(_: int, source: random.Random = source) -> dict[str, float]:
            return {"": source.lognormvariate(0, share) * (1 + source.random() * (source.random() < share))}

        def other(number: int, one: Any = one) -> dict[str, float]:
            return {"": one(number)[""] * ratio}

        sides[until_told(one, other, {"": [Limit(limit, fault)]}, timing)[fault][""].side] += 1
    return sides


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.4])
def test_honest_pairs_are_a_fault_in_at_most_one_percent_of_audits(share: float) -> None:
    assert pairs(share, 1.0, OBSERVED_ABOVE, "above")["above"] <= 3
    assert pairs(share, 1.0, CACHED_BELOW, "below")["below"] <= 3


@pytest.mark.parametrize(("ratio", "limit"), [(1.2, NOT_LONGER), (0.8, NOT_SHORTER)])
def test_a_clock_that_is_twenty_percent_off_is_found_through_noise(ratio: float, limit: Limit) -> None:
    assert pairs(0.02, ratio, limit.at, limit.fault)[limit.fault] >= 295
    noisy = pairs(0.05, ratio, limit.at, limit.fault)
    assert noisy[limit.fault] >= 180, noisy
    assert noisy[limit.fault] + noisy[None] >= 295, noisy  # where it is not found, it does not pass
    for share in (0.05, 0.4):
        assert pairs(share, 1.0, limit.at, limit.fault)[limit.fault] <= 3


def test_a_cache_and_an_observer_of_ten_percent_are_found_through_noise() -> None:
    for share in (0.05, 0.2, 0.4):  # of a time; a cache leaves a tenth of it
        assert pairs(share, 0.1, CACHED_BELOW, "below")["below"] >= 295
    assert pairs(0.02, 1.10, OBSERVED_ABOVE, "above")["above"] >= 285
    found = pairs(0.05, 1.10, OBSERVED_ABOVE, "above")
    assert found["below"] <= 6, found  # of 300: where it is not found, it does not pass either
    assert found["above"] >= 60, found


def test_pairs_end_early_where_they_tell_and_at_the_bound_where_they_cannot() -> None:
    _, timing = fake()
    quiet = until_told(lambda _: {"": 1.0}, lambda _: {"": 1.0}, {"": [NOT_CACHED]}, timing)["below"][""]
    assert (quiet.side, quiet.interval.n) == ("above", 6)
    either = until_told(lambda _: {"": 1.0}, lambda i: {"": 0.7 + i // 2 % 2 * 0.2}, {"": [NOT_CACHED]}, timing)[
        "below"
    ][""]
    assert (either.side, either.interval.n) == (None, MOST)

    def slow(_: int) -> dict[str, float]:
        timing.clock.sleep(SECONDS)  # type: ignore[attr-defined]
        return {"": 1.0}

    late = until_told(slow, lambda i: {"": 0.7 + i // 2 % 2 * 0.2}, {"": [NOT_CACHED]}, timing)["below"][""]
    assert (late.side, late.interval.n) == (None, 15)


def test_an_audit_that_cannot_tell_is_not_possible_and_says_why() -> None:
    _, timing = fake()
    either: Ratio = until_told(
        lambda _: {"": 1.0}, lambda i: {"": 0.7 + i // 2 % 2 * 0.6}, {"": [Limit(1.0, "below")]}, timing
    )["below"][""]
    found = replace(evidence(), audits=Audits(1, 1, {"encode": either}, either))
    for check in (no_caching(found), little_observed(found)):
        assert (check.verdict, check.detail[:30]) == ("not possible", "the machine is too busy to tel")
    asked = replace(found, expected=replace(EXPECTED, cached_stages=("load", "encode")))
    assert no_caching(asked).detail == "no sample could be repeated"


def test_one_stage_that_is_cached_fails_though_another_cannot_tell() -> None:
    _, timing = fake()
    found = until_told(
        lambda _: {"encode": 1.0, "decode": 1.0},
        lambda i: {"encode": 0.1, "decode": 0.7 + i // 2 % 2 * 0.6},
        {"encode": [NOT_CACHED], "decode": [NOT_CACHED]}, timing,
    )["below"]  # fmt: skip
    check: Check = no_caching(replace(evidence(), audits=Audits(1, 1, found, None)))
    assert (check.verdict, check.detail[:11]) == ("fail", "encode: 10%")


def test_a_drift_that_is_likely_and_not_certain_warns() -> None:
    assert drifts(even(0.03), 0.10)["warn"] > 0
    assert all(check.verdict != "warn" for check in check_run(evidence()))


def test_few_calls_on_a_busy_machine_do_not_fail_by_the_price_of_a_token() -> None:
    base = evidence(n=1, audited=False).sampled[0]
    verdicts = Counter[str]()
    for seed in range(60):
        source = random.Random(seed)
        records = []
        for i, tokens in enumerate((45, 6, 8, 20)):
            steps = tuple(0.006 * source.lognormvariate(0, 0.5) for _ in range(tokens - 1))
            records.append(
                replace(base, key=f"s{i}", position=i, output_tokens=tokens, token_s=steps, prefill_s=0.01,
                        started_unix_s=1e9 + i, decode_s=0.01 + sum(steps) * source.lognormvariate(0, 0.3))
            )  # fmt: skip
        verdicts[tokens_explain_time(Evidence.of(records, planned=[], expected=EXPECTED)).verdict] += 1
    assert verdicts["fail"] <= 1, verdicts
    assert verdicts["pass"] + verdicts["not possible"] >= 59
