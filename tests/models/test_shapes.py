"""Shapes read off a model count its parameters, and the costs count what torch counts."""

from __future__ import annotations

from typing import Any

import pytest

from fourstage.models.shapes import Shapes
from fourstage.stages import Sampling
from fourstage.trust.roofline import decode_step_cost, encode_cost, prefill_cost
from tests.models.conftest import media
from tests.settings import EVENTGPT, TINY, VIDEOLLAVA


def counted(call: Any) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def masked(shapes: Shapes, rows: int) -> int:
    """Operations of attention on the rows that a causal mask hides: torch counts them, a floor cannot."""
    language = shapes.language
    return 4 * language.layers * language.heads * language.head_dim * (rows * (rows - 1) // 2)


def eager(model: str) -> Any:
    """The small pipeline with attention as plain products, which torch counts on a CPU too."""
    from fourstage.models.eventgpt import Model as EventGPT
    from fourstage.models.videollava import Model as VideoLlava

    if model == "eventgpt":
        return EventGPT.from_weights(EVENTGPT, TINY, "cpu", "fp32", "eager")
    return VideoLlava.from_weights(VIDEOLLAVA, TINY, "cpu", "fp32", "eager")


def full_size(model: str) -> Any:
    """The published shapes without memory."""
    import torch
    from transformers import VideoLlavaForConditionalGeneration

    from fourstage.models import eventgpt, videollava
    from fourstage.models.building import build
    from fourstage.models.eventgpt_network import EventGPT

    parts: dict[str, Any] = {"tokenizer": None, "image_processor": None, "eos_ids": (2,), "pad_id": 0, "facts": None}
    if model == "eventgpt":
        configs = eventgpt.architecture("7b")
        module: Any = build(lambda: EventGPT(*configs), "meta", torch.bfloat16)
        return eventgpt.Model(EVENTGPT, model=module, **parts)
    config = videollava.Model.architecture("7b", 32064, 32001)
    module = build(lambda: VideoLlavaForConditionalGeneration(config), "meta", torch.bfloat16)
    return videollava.Model(VIDEOLLAVA, model=module, **parts)


def parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("size", ["tiny", "7b"])
@pytest.mark.parametrize("model", ["eventgpt", "videollava"])
def test_shapes_count_every_parameter_that_a_stage_reads(model: str, size: str, request: Any) -> None:
    pipeline = request.getfixturevalue(model) if size == "tiny" else full_size(model)
    shapes = pipeline.shapes()
    module = pipeline.model
    embeddings = parameters(pipeline.generator.get_input_embeddings())
    if model == "eventgpt":
        language = parameters(module.language_model)
        encoder = [module.visual_tower, module.visual_projector, module.feature_adaptor]
    else:
        language = parameters(module.model.language_model) + parameters(module.lm_head)
        encoder = [module.model.video_tower, module.model.multi_modal_projector]
    assert shapes.language.parameters == language - embeddings
    assert shapes.encoder_parameters == sum(parameters(part) for part in encoder)
    if model == "eventgpt":
        assert shapes.language.parameters + shapes.encoder_parameters + embeddings == parameters(module)


def test_eventgpt_at_full_size_has_the_published_shapes() -> None:
    shapes = full_size("eventgpt").shapes()
    assert shapes.bytes_per_value == 2
    assert shapes.kv_bytes_per_token == 524_288
    assert shapes.language.parameters + 32000 * 4096 == 6_738_415_616  # LLaMA-2 7B
    assert (shapes.vision.tokens, shapes.vision.patch_inputs) == (577, 588)
    assert decode_step_cost(shapes, 640).bytes == pytest.approx(13.55e9, rel=1e-3)


@pytest.mark.parametrize("model", ["eventgpt", "videollava"])
def test_the_small_model_does_the_operations_that_are_counted(model: str) -> None:
    pipeline = eager(model)
    images = 5 if model == "eventgpt" else 8
    inputs = pipeline.preprocess([media(images)], ["Is it day?"])
    features = pipeline.encode(inputs)
    rows = len(pipeline.embed(inputs.input_ids[0], features.visual[0]))
    shapes = pipeline.shapes()

    def generate(tokens: int) -> None:
        fixed = Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=tokens, stop="fixed")
        pipeline.decode(inputs, features, fixed, lambda: None)

    prefill = counted(lambda: generate(1))
    assert encode_cost(shapes, images).flops == counted(lambda: pipeline.encode(inputs))
    assert prefill_cost(shapes, rows).flops + masked(shapes, rows) == prefill
    steps = sum(decode_step_cost(shapes, rows + step).flops for step in range(3))
    assert steps == counted(lambda: generate(4)) - prefill


@pytest.mark.parametrize("model", ["eventgpt", "videollava"])
def test_a_batch_does_the_operations_that_are_counted(model: str) -> None:
    pipeline = eager(model)
    images = 5 if model == "eventgpt" else 8
    inputs = pipeline.preprocess([media(images), media(images, 1)], ["Is it day?", "What is seen here, and why?"])
    features = pipeline.encode(inputs)
    rows = max(len(pipeline.embed(ids, visual)) for ids, visual in zip(inputs.input_ids, features.visual, strict=True))
    shapes = pipeline.shapes()

    def generate(tokens: int) -> None:
        fixed = Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=tokens, stop="fixed")
        pipeline.decode(inputs, features, fixed, lambda: None)

    prefill = counted(lambda: generate(1))
    assert encode_cost(shapes, 2 * images).flops == counted(lambda: pipeline.encode(inputs))
    assert prefill_cost(shapes, rows, batch=2).flops + 2 * masked(shapes, rows) == prefill
    assert decode_step_cost(shapes, rows, batch=2).flops == counted(lambda: generate(2)) - prefill


@pytest.mark.parametrize(("model", "images", "rows"), [("eventgpt", 5, 640), ("videollava", 8, 2090)])
def test_the_full_size_does_the_operations_that_are_counted(model: str, images: int, rows: int) -> None:
    import torch

    pipeline = full_size(model)
    shapes = pipeline.shapes()
    side = int((shapes.vision.tokens - 1) ** 0.5) * 14
    pixels = torch.empty(images, 3, side, side, dtype=torch.bfloat16, device="meta")
    embeds = torch.empty(1, rows, 4096, dtype=torch.bfloat16, device="meta")

    def prefill() -> None:
        pipeline.generator(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)

    with torch.inference_mode():
        encode = counted(lambda: pipeline.visual_features(pixels, (images,)))
        assert encode_cost(shapes, images).flops == pytest.approx(encode, rel=0.02)
        square = prefill_cost(shapes, rows).flops + masked(shapes, rows)
        assert square == pytest.approx(counted(prefill), rel=0.02)


def test_a_model_whose_parts_are_named_otherwise_has_no_shapes() -> None:
    from fourstage.models.base import StagedPipeline

    class Stranger:
        model = None

    with pytest.raises(TypeError, match="Stranger has no shapes: define shapes"):
        StagedPipeline.shapes(Stranger())  # type: ignore[arg-type]
