"""What was loaded and what it computed, against the settings: planted on both models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fourstage.config.compose import compose
from fourstage.config.schema import Config
from fourstage.config.schema import check as checked
from fourstage.data.formats.demo import JSON_NAME, DemoSettings, make_demo
from fourstage.measure.plan import Planned
from fourstage.measure.protocol import measure_rounds
from fourstage.models import building
from fourstage.models.base import StagedPipeline
from fourstage.models.load import load_pipeline
from fourstage.stages import SampleRecord
from fourstage.trust.audits import run_audits
from fourstage.trust.check import Check
from fourstage.trust.checks.answers import values_finite
from fourstage.trust.checks.plan import plan_is_dataset
from fourstage.trust.checks.settings import config_used
from fourstage.trust.evidence import Evidence
from fourstage.trust.finite import examine, suspicious
from fourstage.trust.gather import expected, unlike
from tests.fakes import fake, plan, samples
from tests.trust.test_checks import GREEDY, changed, evidence, verdict

MODELS = pytest.mark.parametrize("model", ["eventgpt", "videollava"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("data"), DemoSettings(samples=2, seconds=0.4, width=96, height=64))


class Run:
    """A measured run of a freshly loaded model, so that what a test plants stays in the test."""

    def __init__(self, root: Path, model: str, *overrides: str):
        from fourstage.data.dataset import read_dataset

        self.config: Config = checked(
            compose(
                [
                    f"model={model}", "dataset=eventgpt_json", f"dataset.root={root}", "generation=greedy",
                    "max_new_tokens=12", "protocol=quick", "device=cpu", *overrides,
                ]
            )
        )  # fmt: skip
        self.pipeline: StagedPipeline = load_pipeline(self.config)
        self.samples = read_dataset(root, JSON_NAME)
        self.records: list[SampleRecord] = []
        self.planned: list[Planned] = []

    def measure(self) -> Run:
        rounds = measure_rounds(self.config, self.pipeline, self.samples, self.records.append)
        self.planned = rounds.planned
        return self

    def evidence(self) -> Evidence:
        return Evidence.of(
            self.records,
            planned=[(item.sample.key, item.repeat) for item in self.planned],
            expected=expected(self.config, self.pipeline),
        )

    def config_used(self) -> Check:
        return config_used(self.evidence())

    def values_finite(self) -> Check:
        found = evidence(n=8)
        assert found.audits is not None
        sampling = self.config.sampling
        strange = suspicious(self.records)
        finite = examine(self.pipeline, self.planned, sampling, list(strange.values()))
        return values_finite(replace(found, audits=replace(found.audits, finite=finite)))


@pytest.fixture(params=["eventgpt", "videollava"])
def run(request: pytest.FixtureRequest, root: Path) -> Run:
    return Run(root, request.param).measure()


def test_an_honest_run_used_its_settings_and_its_values_are_finite(run: Run) -> None:
    assert run.config_used().verdict == "pass", run.config_used()
    assert run.values_finite().verdict == "pass", run.values_finite()


@MODELS
@pytest.mark.parametrize("overrides", [("generation=fixed",), ("num_beams=2",), ("batch_size=2", "temperature=0.7")])
def test_honest_runs_of_other_settings_used_them(root: Path, model: str, overrides: tuple[str, ...]) -> None:
    found = Run(root, model, *overrides).measure().config_used()
    assert found.verdict == "pass", found


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"finish_reason": "length", "output_ids": (5,) * 7, "output_tokens": 7}, "ended by length at 7 of 12 tokens"),
        ({"finish_reason": "stop", "output_ids": (5,) * 7, "output_tokens": 7}, "its last token 5 is no end token"),
        ({"seed": 7}, "seed 7, seed=0 gives"),
    ],
)
def test_an_answer_that_ended_otherwise_and_another_seed_are_found(run: Run, fields: dict[str, Any], said: str) -> None:
    run.records = [replace(record, **fields) for record in run.records]
    found = run.config_used()
    assert (found.verdict, found.value) == ("fail", 2)
    assert said in found.detail


def test_a_fake_run_cut_short_is_found() -> None:
    found = verdict(changed(evidence(), finish_reason="length"), "config_used")
    assert found.verdict == "fail"
    assert "s0: ended by length at 11 of 100 tokens" in found.detail


def test_a_part_in_another_precision_is_named(run: Run) -> None:
    assert unlike(run.config, run.pipeline) == []
    head = run.pipeline.generator.get_output_embeddings()
    head.to(torch.bfloat16)  # the first parameter is as before
    found = run.config_used()
    assert found.verdict == "fail"
    assert "lm_head.weight is bfloat16 on cpu, precision=fp32 on cpu asked for" in found.detail


def test_a_part_that_was_lost_is_found(run: Run) -> None:
    head = run.pipeline.generator.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight[:-1])
    (text,) = unlike(run.config, run.pipeline)
    assert text.startswith("the model has ")


@MODELS
def test_a_smaller_model_under_the_same_name_is_found(root: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = building.tiny_llama

    def smaller(vocab_size: int) -> Any:
        config = honest(vocab_size)
        config.num_hidden_layers = 1
        return config

    with monkeypatch.context() as patch:
        patch.setattr(building, "tiny_llama", smaller)
        run = Run(root, model, "weights=random", "weights.size=tiny").measure()
    found = run.config_used()
    assert found.verdict == "fail"
    assert f"parameters, {model} of these settings has " in found.detail


@MODELS
def test_answers_cut_short_in_the_measurement_are_found(root: Path, model: str) -> None:
    run = Run(root, model)
    honest = run.pipeline.decode
    run.pipeline.decode = lambda inputs, features, sampling, tick: honest(  # type: ignore[method-assign, assignment]
        inputs, features, replace(sampling, max_new_tokens=4), tick
    )
    found = run.measure().config_used()
    assert found.verdict == "fail"
    assert "ended by length at 4 of 12 tokens" in found.detail


@MODELS
@pytest.mark.parametrize("replaced", [False, True])
def test_a_sample_that_was_left_out_or_replaced_is_found(root: Path, model: str, replaced: bool) -> None:
    run = Run(root, model)
    listed = tuple(sample.key for sample in run.samples)
    assert plan_is_dataset(replace(run.measure().evidence(), listed=listed)).verdict == "pass"
    run.records.clear()
    run.samples = [run.samples[0], *([replace(run.samples[1], key="other", id="other")] if replaced else [])]
    found = plan_is_dataset(replace(run.measure().evidence(), listed=listed))
    assert found.verdict == "fail"
    assert f"not planned {listed[1]}" in found.detail
    assert ("not in the dataset other" in found.detail) == replaced


@MODELS
def test_an_overflow_in_fp16_is_found_and_named(root: Path, model: str) -> None:
    run = Run(root, model, "precision=fp16")
    honest = run.measure().values_finite()
    assert honest.verdict == "pass", honest
    run.records.clear()
    with torch.no_grad():
        for name, parameter in run.pipeline.generator.named_parameters():
            if name.endswith(("gate_proj.weight", "up_proj.weight")):
                parameter.mul_(600)
    found = run.measure().values_finite()
    assert found.verdict == "fail"
    assert "last logits are not finite" in found.detail
    assert "is answered by token 0 12 times" in found.detail


def test_features_that_are_not_numbers_are_found(run: Run) -> None:
    *_, last = run.pipeline.inner_modules().values()
    with torch.no_grad():
        next(last.parameters()).fill_(float("nan"))
    found = run.values_finite()
    assert found.verdict == "fail"
    assert "features are not finite" in found.detail


def test_an_empty_answer_is_examined() -> None:
    records = [replace(record, output=" ") for record in evidence(n=8).sampled]
    assert suspicious(records)["s0"] == "s0 has an empty answer"
    assert suspicious(evidence(n=8).sampled) == {}


def test_without_tensors_to_look_at_the_check_is_not_possible() -> None:
    pipeline, timing = fake()
    audits = run_audits(pipeline, plan(samples(3), ["why?"] * 3, 1, 0), GREEDY, timing)
    assert verdict(replace(evidence(), audits=audits), "values_finite").verdict == "not possible"
