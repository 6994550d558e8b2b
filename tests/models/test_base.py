"""What both pipelines promise, on the small stand-ins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fourstage.models.base import left_pad
from fourstage.stages import Generation, Inputs, SampleError, Sampling
from tests.models.conftest import GREEDY, media

QUESTION = "What are the key elements in this scene?"


def images(pipeline: Any) -> int:
    return 5 if pipeline.placeholder == "<event>" else 8


def run(
    pipeline: Any, questions: list[str], seeds: list[int], sampling: Sampling = GREEDY
) -> tuple[Inputs, Generation]:
    inputs = pipeline.preprocess([media(images(pipeline), seed) for seed in seeds], questions)
    return inputs, pipeline.decode(inputs, pipeline.encode(inputs), sampling, lambda: None)


def test_staged_ids_equal_the_models_own_generate(pipeline: Any) -> None:
    inputs, staged = run(pipeline, [QUESTION], [3])
    assert staged.token_ids == pipeline.unstaged(inputs, GREEDY)


def test_the_vision_tower_runs_once_a_sample(pipeline: Any) -> None:
    before = pipeline.vision_calls
    run(pipeline, [QUESTION], [0])
    assert pipeline.vision_calls - before == 1


def test_a_second_encoding_inside_decode_would_be_counted(pipeline: Any) -> None:
    inputs, _ = run(pipeline, [QUESTION], [0])
    before = pipeline.vision_calls
    pipeline.unstaged(inputs, GREEDY)
    assert pipeline.vision_calls - before == 1


def test_greedy_runs_repeat_exactly(pipeline: Any) -> None:
    assert run(pipeline, [QUESTION], [1])[1].token_ids == run(pipeline, [QUESTION], [1])[1].token_ids


def test_other_media_give_another_answer(pipeline: Any) -> None:
    assert run(pipeline, [QUESTION], [1])[1].token_ids != run(pipeline, [QUESTION], [2])[1].token_ids


def test_a_batch_gives_the_ids_of_its_samples_alone(pipeline: Any) -> None:
    questions = [QUESTION, "Is it day or night, and how many vehicles are there behind the trees?", "Why?"]
    _, together = run(pipeline, questions, [1, 2, 3])
    alone = [run(pipeline, [question], [seed])[1] for question, seed in zip(questions, [1, 2, 3], strict=True)]
    assert together.token_ids == tuple(one.token_ids[0] for one in alone)
    assert together.text_tokens == tuple(one.text_tokens[0] for one in alone)


def test_a_batch_goes_through_the_tower_in_one_call(pipeline: Any) -> None:
    before = pipeline.vision_calls
    run(pipeline, [QUESTION, "Why?"], [1, 2])
    assert pipeline.vision_calls - before == 1


def test_fixed_length_generates_exactly_so_many(pipeline: Any) -> None:
    _, generation = run(pipeline, [QUESTION], [0], replace(GREEDY, stop="fixed", max_new_tokens=23))
    assert len(generation.token_ids[0]) == 23
    assert generation.finish_reasons == ("length",)


def test_tokens_are_told_one_by_one(pipeline: Any) -> None:
    ticks: list[int] = []
    inputs = pipeline.preprocess([media(images(pipeline))], [QUESTION])
    generation = pipeline.decode(inputs, pipeline.encode(inputs), GREEDY, lambda: ticks.append(1))
    assert len(ticks) == len(generation.token_ids[0])


def test_the_end_token_stops_and_is_said(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, generation = run(pipeline, [QUESTION], [0])
    fourth = generation.token_ids[0][3]
    first = generation.token_ids[0].index(fourth)
    monkeypatch.setattr(pipeline, "eos_ids", (fourth,))
    _, stopped = run(pipeline, [QUESTION], [0])
    assert stopped.token_ids[0] == generation.token_ids[0][: first + 1]
    assert stopped.finish_reasons == ("stop",)


def test_counts_leave_the_prompt_out_of_the_output(pipeline: Any) -> None:
    inputs, generation = run(pipeline, [QUESTION], [0])
    assert len(generation.token_ids[0]) == GREEDY.max_new_tokens
    visual = 5 + 17 if pipeline.placeholder == "<event>" else 8 * 17
    assert generation.visual_tokens == (visual,)
    placeholders = 1 if pipeline.placeholder == "<event>" else visual
    assert generation.text_tokens == (len(inputs.input_ids[0]) - placeholders,)


def test_beams_work(pipeline: Any) -> None:
    _, generation = run(pipeline, [QUESTION], [0], replace(GREEDY, num_beams=3))
    assert 0 < len(generation.token_ids[0]) <= GREEDY.max_new_tokens


def test_sampling_follows_the_seed(pipeline: Any) -> None:
    warm = replace(GREEDY, temperature=1.0)
    torch.manual_seed(1)
    first = run(pipeline, [QUESTION], [0], warm)[1].token_ids
    torch.manual_seed(1)
    assert run(pipeline, [QUESTION], [0], warm)[1].token_ids == first
    torch.manual_seed(2)
    assert run(pipeline, [QUESTION], [0], warm)[1].token_ids != first


@pytest.mark.parametrize("question", ["word " * 5000, "what is <event> or <video>?"])
def test_a_question_that_cannot_be_asked_is_refused_in_stage_2(pipeline: Any, question: str) -> None:
    with pytest.raises(SampleError, match=r"context ends at|marks where the media go"):
        pipeline.preprocess([media(images(pipeline))], [question])


def test_left_padding_puts_the_rows_at_the_end() -> None:
    embeds, mask = left_pad([torch.ones(2, 3), torch.ones(4, 3)])
    assert mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert embeds[0, :2].abs().sum() == 0
    assert embeds[0, 2:].min() == 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision_sets_weights_and_activations_and_leaves_rope_in_fp32(precision: str) -> None:
    from fourstage.models.building import dtype_of
    from fourstage.models.eventgpt import Model as EventGPT
    from fourstage.models.videollava import Model as VideoLlava
    from tests.settings import EVENTGPT, TINY, VIDEOLLAVA

    for made in (
        EventGPT.from_weights(EVENTGPT, TINY, "cpu", precision, "sdpa"),
        VideoLlava.from_weights(VIDEOLLAVA, TINY, "cpu", precision, "sdpa"),
    ):
        dtype = dtype_of(precision)
        assert {parameter.dtype for parameter in made.model.parameters()} == {dtype}
        inputs, _ = run(made, [QUESTION], [0])
        assert inputs.pixel_values.dtype == dtype
        assert made.encode(inputs).visual[0].dtype == dtype
        frequencies = [buffer for name, buffer in made.model.named_buffers() if name.endswith("inv_freq")]
        assert frequencies
        assert {buffer.dtype for buffer in frequencies} == {torch.float32}
        assert made.facts.parameter_bytes == 2 * made.facts.parameters


def test_random_weights_follow_their_seed() -> None:
    from fourstage.models.eventgpt import Model as EventGPT
    from tests.settings import EVENTGPT, TINY

    hashes = [
        EventGPT.from_weights(EVENTGPT, replace(TINY, seed=seed), "cpu", "fp32", "sdpa").facts.checkpoint_hash
        for seed in (0, 0, 1)
    ]
    assert hashes[0] == hashes[1] != hashes[2]
