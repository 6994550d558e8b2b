"""Faults of the clock, planted on both models: time passes only where a test lets it, so that each is exact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fourstage.data.formats.demo import DemoSettings, make_demo
from fourstage.measure.clock import Stopwatch, Timing
from fourstage.measure.loop import measure
from fourstage.measure.plan import plan_round
from fourstage.measure.protocol import question_of
from fourstage.trust.audits import run_audits
from fourstage.trust.check import Check
from fourstage.trust.checks import check_run
from fourstage.trust.evidence import Evidence
from tests.fakes import FakeClock, FakeDevice
from tests.trust.test_checks import EXPECTED
from tests.trust.test_settings_seen import MODELS, Run

COSTS = {"load": 0.010, "preprocess": 0.004, "encode": 0.003}  # seconds; stages so small hide in the sum
TOKEN_S = 0.030


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("data"), DemoSettings(samples=1, seconds=0.4, width=96, height=64))


class Timed:
    """A tiny model whose stages cost what is written here, on a clock that only they move."""

    def __init__(self, root: Path, model: str):
        self.run = Run(root, model, "max_new_tokens=3", "generation=fixed")
        self.clock = FakeClock()
        self.timing = Timing(
            FakeDevice(self.clock), self.clock, self.clock, self.clock, lambda: round(self.clock() * 1e9)
        )
        self.growth, self.observer_s, self.loaded = 0.0, 0.0, 0
        pipeline: Any = self.run.pipeline
        for stage, seconds in COSTS.items():
            setattr(pipeline, stage, self._costing(getattr(pipeline, stage), stage, seconds))
        decode = pipeline.decode

        def slow_decode(inputs: Any, features: Any, sampling: Any, tick: Any) -> Any:
            def at_token(*_: Any) -> None:
                self._pass(TOKEN_S + (self.observer_s if isinstance(getattr(tick, "__self__", None), Stopwatch) else 0))
                tick()

            return decode(inputs, features, sampling, at_token)

        pipeline.decode = slow_decode

    def _costing(self, work: Any, stage: str, seconds: float) -> Any:
        def costly(*given: Any) -> Any:
            self.loaded += stage == "load"
            self._pass(seconds)
            return work(*given)

        return costly

    def _pass(self, seconds: float) -> None:
        self.clock.sleep(seconds * (1 + self.growth * (self.loaded - 1)))

    def checks(self, samples: int = 1) -> dict[str, Check]:
        """Every check of a run over so many samples, all of the same files."""
        (one,), config = self.run.samples, self.run.config
        several = [replace(one, key=f"s{i}") for i in range(samples)]
        planned = plan_round(several, [question_of(one, config)] * samples, 0, 0, "as_is", 0, start=0)
        records = list(measure(self.run.pipeline, planned, config.sampling, self.timing))
        self.growth = 0.0
        found = Evidence.of(
            records,
            planned=[(item.sample.key, item.repeat) for item in planned],
            expected=EXPECTED,
            audits=run_audits(self.run.pipeline, planned, config.sampling, self.timing, samples=1),
        )
        return {check.id: check for check in check_run(found)}


@MODELS
def test_honest_times_pass(root: Path, model: str) -> None:
    checks = Timed(root, model).checks(16)
    for name in ("stages_close", "stages_apart", "no_drift", "little_observed"):
        assert checks[name].verdict == "pass", checks[name]


@MODELS
@pytest.mark.parametrize(
    ("stage", "factor"), [("encode", 1.2), ("encode", 0.5), ("preprocess", 1.5), ("preprocess", 0.8)]
)
def test_a_small_stage_that_is_wrong_on_the_clock_is_found(
    root: Path, model: str, stage: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Stopwatch.stage

    @contextmanager
    def wrong(self: Stopwatch, name: str) -> Iterator[None]:
        with honest(self, name):
            yield
        if name == stage:
            self.stage_s[name] *= factor

    monkeypatch.setattr(Stopwatch, "stage", wrong)
    checks = Timed(root, model).checks()
    check = checks["stages_apart"]
    assert (check.verdict, check.value) == ("fail", pytest.approx(factor - 1)), check
    assert check.detail.startswith(stage)
    assert checks["stages_close"].verdict == "pass"  # the sum does not see it


@MODELS
def test_a_drift_of_ten_percent_over_16_samples_is_found(root: Path, model: str) -> None:
    timed = Timed(root, model)
    timed.growth = 0.10 / 15
    check = timed.checks(16)["no_drift"]
    assert (check.verdict, check.value) == ("fail", pytest.approx(0.10, abs=0.01)), check


@MODELS
def test_an_observer_that_costs_ten_percent_is_found(root: Path, model: str) -> None:
    timed = Timed(root, model)
    whole = COSTS["preprocess"] + COSTS["encode"] + 3 * TOKEN_S
    timed.observer_s = 0.10 * whole / 3
    check = timed.checks()["little_observed"]
    assert (check.verdict, check.value) == ("fail", pytest.approx(0.10, abs=0.005)), check


@MODELS
def test_a_machine_too_busy_to_tell_leaves_the_stages_open(root: Path, model: str) -> None:
    timed = Timed(root, model)
    encode, calls = timed.run.pipeline.encode, [0]

    def restless(inputs: Any) -> Any:
        calls[0] += 1
        timed.clock.sleep(0.003 * (calls[0] * 7 % 5))
        return encode(inputs)

    timed.run.pipeline.encode = restless  # type: ignore[method-assign]
    check = timed.checks()["stages_apart"]
    assert (check.verdict, check.detail[:30]) == ("not possible", "the machine is too busy to tel")


def test_a_cached_stage_is_not_compared(root: Path) -> None:
    timed = Timed(root, "eventgpt")
    found = Evidence.of([], planned=[], expected=replace(EXPECTED, cached_stages=("load", "preprocess", "encode")),
                        audits=run_audits(timed.run.pipeline, [], timed.run.config.sampling, timed.timing))  # fmt: skip
    assert next(check for check in check_run(found) if check.id == "stages_apart").verdict == "not possible"
