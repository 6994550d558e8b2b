"""Operations counted by torch against those of the shapes: exact on honest models, and planted faults are found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fourstage.data.formats.demo import DemoSettings, make_demo
from fourstage.stages import Features, Inputs
from fourstage.trust.audits import Audits
from fourstage.trust.check import Check
from fourstage.trust.checks.answers import operations_counted
from fourstage.trust.operations import count_operations
from tests.trust.test_checks import evidence
from tests.trust.test_settings_seen import MODELS, Run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("data"), DemoSettings(samples=1, seconds=0.4, width=96, height=64))


def judged(run: Run) -> Check:
    if not run.planned:
        run.measure()
    operations = count_operations(run.pipeline, run.planned[0])
    return operations_counted(replace(evidence(n=8), audits=Audits(1, 1, {}, None, operations=operations)))


@MODELS
@pytest.mark.parametrize("overrides", [(), ("precision=bf16",), ("precision=fp16",)])
def test_an_honest_model_does_the_operations_of_its_shapes(root: Path, model: str, overrides: tuple[str, ...]) -> None:
    found = judged(Run(root, model, *overrides))
    assert found.verdict == "pass", found


@MODELS
def test_a_second_vision_pass_that_no_counter_sees_is_found(root: Path, model: str) -> None:
    run = Run(root, model).measure()
    honest = run.pipeline.encode

    def twice(inputs: Inputs) -> Features:
        before = run.pipeline.vision_calls
        honest(inputs)
        run.pipeline.vision_calls = before  # as one that avoids the counted module
        return honest(inputs)

    run.pipeline.encode = twice  # type: ignore[method-assign]
    found = judged(run)
    assert (found.verdict, found.value) == ("fail", 1)
    assert "(2.00 times)" in found.detail


@MODELS
def test_encoding_again_inside_decode_is_found(root: Path, model: str) -> None:
    run = Run(root, model).measure()
    encode, decode = run.pipeline.encode, run.pipeline.decode

    def lazy(inputs: Inputs, features: Any, *rest: Any) -> Any:
        return decode(inputs, encode(inputs), *rest)

    run.pipeline.decode = lazy  # type: ignore[method-assign, assignment]
    assert "prefill does" in judged(run).detail


@MODELS
def test_one_image_used_in_place_of_all_is_found(root: Path, model: str) -> None:
    run = Run(root, model).measure()
    honest = run.pipeline.encode

    def one(inputs: Inputs) -> Features:
        (features,) = honest(replace(inputs, pixel_values=inputs.pixel_values[:1], images_per_sample=(1,))).visual
        times = inputs.images_per_sample[0] if model == "videollava" else 1
        return Features((torch.cat([features] * times),))

    run.pipeline.encode = one  # type: ignore[method-assign]
    assert "encode does" in judged(run).detail


@MODELS
def test_half_the_pixels_are_found(root: Path, model: str) -> None:
    run = Run(root, model).measure()
    tower: Any = run.pipeline.model.visual_tower if model == "eventgpt" else run.pipeline.tower  # type: ignore[attr-defined]
    layer = next(module for name, module in tower.named_modules() if name.endswith("layers.0"))
    honest = layer.forward

    def half(hidden_states: Any, *rest: Any, **named: Any) -> Any:
        """The first layer sees half of the patches, and what it makes of them stands for the others."""
        middle = hidden_states.shape[1] // 2
        seen = honest(hidden_states[:, :middle], *rest, **named)
        first = seen[0] if isinstance(seen, tuple) else seen
        whole = torch.cat([first, hidden_states[:, middle:]], dim=1)
        return (whole, *seen[1:]) if isinstance(seen, tuple) else whole

    layer.forward = half
    assert "encode does" in judged(run).detail


@MODELS
def test_a_layer_that_is_skipped_is_found(root: Path, model: str) -> None:
    run = Run(root, model).measure()
    inner: Any = (
        run.pipeline.model.language_model.model if model == "eventgpt" else run.pipeline.model.model.language_model
    )
    inner.layers[-1].forward = lambda hidden_states, *_, **__: hidden_states
    found = judged(run)
    assert found.verdict == "fail"
    assert "decode step does" in found.detail


def test_a_model_without_shapes_cannot_be_counted(root: Path) -> None:
    run = Run(root, "eventgpt").measure()

    def unknown() -> Any:
        raise TypeError("Own has no shapes")

    run.pipeline.shapes = unknown  # type: ignore[method-assign]
    found = judged(run)
    assert (found.verdict, found.detail) == ("not possible", "the model's shapes are not known: Own has no shapes")
