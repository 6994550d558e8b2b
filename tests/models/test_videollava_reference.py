"""Video-LLaVA against transformers' own run on a real clip (reference checkpoint C)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourstage.models.videollava import Model as VideoLlava
from fourstage.stages import Inputs, Sample, Sampling
from tests.settings import VIDEOLLAVA, pretrained

pytestmark = pytest.mark.real
QUERY = "What are the key elements in this scene?"
GREEDY = Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=24)


@pytest.fixture(scope="module")
def expected(shared: Path) -> dict[str, Any]:
    return dict(np.load(shared / "reference" / "videollava" / "C_reference.npz"))


@pytest.fixture(scope="module")
def pipeline(shared: Path) -> VideoLlava:
    return VideoLlava.from_weights(
        VIDEOLLAVA, pretrained(shared / "reference" / "videollava" / "C"), "cpu", "fp32", "sdpa"
    )


@pytest.fixture(scope="module")
def inputs(pipeline: VideoLlava, shared: Path) -> Inputs:
    return pipeline.preprocess([pipeline.load(Sample("gota", "gota", shared / "real", mp4_data="gota.mp4"))], [QUERY])


def test_pixels_by_pil_are_within_0_016_of_torchvisions(inputs: Inputs, expected: dict[str, Any]) -> None:
    assert np.abs(inputs.pixel_values.numpy() - expected["pixel_values_videos"][0]).max() < 0.016


def test_the_prompt_has_the_processors_ids(inputs: Inputs, expected: dict[str, Any]) -> None:
    assert inputs.input_ids[0].tolist() == expected["input_ids"][0].tolist()


def test_features_logits_and_ids_follow_from_the_references_pixels(
    pipeline: VideoLlava, inputs: Inputs, expected: dict[str, Any]
) -> None:
    same = replace(inputs, pixel_values=torch.from_numpy(expected["pixel_values_videos"][0]))
    features = pipeline.encode(same)
    assert np.abs(features.visual[0].numpy() - expected["video_features"].reshape(-1, 64)).max() < 1e-4
    with torch.inference_mode():
        embeds = pipeline.embed(same.input_ids[0], features.visual[0])
        logits = pipeline.model(inputs_embeds=embeds[None]).logits[0, -1]
    assert np.abs(logits.numpy() - expected["prefill_logits_last"]).max() < 1e-4
    generation = pipeline.decode(same, features, GREEDY, lambda: None)
    assert list(generation.token_ids[0]) == expected["generated_ids"].tolist()


def test_greedy_ids_from_the_mp4_itself_are_the_references(
    pipeline: VideoLlava, inputs: Inputs, expected: dict[str, Any]
) -> None:
    generation = pipeline.decode(inputs, pipeline.encode(inputs), GREEDY, lambda: None)
    assert list(generation.token_ids[0]) == expected["generated_ids"].tolist()


def test_sizes_and_token_ids_come_from_the_checkpoint(pipeline: VideoLlava) -> None:
    assert pipeline.tokens_per_image == (224 // 56) ** 2 + 1
    assert pipeline.placeholder_id == 2001
    assert pipeline.image_processor.crop_size["height"] == 224
