"""What only a GPU shows of the graph engine: captured steps, kernels, memory. Speed is in benchmarks/gpu.py."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from scipy import stats

from fourstage.engines import eager
from fourstage.engines.agreement import first_divergence
from fourstage.engines.captured import CapturedCall, CapturedDecoder
from fourstage.engines.choosing import filtered
from fourstage.models.quantised import quantise
from fourstage.stages import Sampling
from tests.engines.llamas import KINDS, llama, prompt, silent

pytestmark = pytest.mark.gpu
HEADS_OF_32: dict[str, Any] = {"head_dim": 32}


def greedy(new: int, stop: str = "natural") -> Sampling:
    return Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=new, stop=stop)


def on_gpu(batch: int, rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    embeds, mask = prompt(batch, rows)
    return embeds.to("cuda", dtype), mask.cuda()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_captured_fp32_steps_give_the_ids_of_transformers(kind: str, batch: int) -> None:
    model = llama(**KINDS[kind]).cuda()
    embeds, mask = on_gpu(batch, 40, torch.float32)
    with torch.inference_mode():
        theirs = eager.Engine(eager.Settings()).generate(model, embeds, mask, greedy(24), (2,), 0, silent)
    engine = CapturedDecoder(model)
    ours = engine.generate(embeds, mask, greedy(24), (2,), 0, silent)
    assert ours.tolist() == theirs.tolist()
    assert (engine.report.captured, engine.report.kernels) == (True, "torch")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["plain", "grouped", "bias"])
@pytest.mark.parametrize("batch", [1, 8])
def test_kernels_are_as_near_to_fp32_as_torch_is(kind: str, batch: int, dtype: torch.dtype) -> None:
    changes = KINDS[kind] | HEADS_OF_32
    model = llama(dtype=dtype, **changes).cuda()
    exact = llama(**changes).cuda()
    exact.load_state_dict(model.state_dict())
    embeds, mask = on_gpu(batch, 150, dtype)
    forced = torch.randint(3, 300, (batch, 6))
    wanted = CapturedDecoder(exact).logits(embeds.float(), mask, forced)
    ours = CapturedDecoder(model, kernels="triton").logits(embeds, mask, forced)
    theirs = CapturedDecoder(model, kernels="torch").logits(embeds, mask, forced)
    errors = [((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).mean() for found in (ours, theirs)]
    assert errors[0] <= 1.25 * errors[1]
    found = first_divergence(theirs, ours, dtype)
    assert found is None or found.near_tie, found


@pytest.mark.parametrize("batch", [1, 8])
def test_int8_kernels_are_as_near_to_fp32_as_torchao_is(batch: int) -> None:
    model = llama(dtype=torch.bfloat16, **HEADS_OF_32).cuda()
    quantise(model, "int8")
    embeds, mask = on_gpu(batch, 150, torch.bfloat16)
    forced = torch.randint(3, 300, (batch, 6))
    theirs = eager.Engine(eager.Settings()).logits(model, embeds, mask, forced)
    ours = CapturedDecoder(model, kernels="triton").logits(embeds, mask, forced)
    found = first_divergence(theirs, ours, torch.bfloat16)
    assert found is None or found.near_tie, found
    assert ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max() < 0.1


def test_dependent_launch_changes_no_logit() -> None:
    model = llama(dtype=torch.bfloat16, **HEADS_OF_32).cuda()
    embeds, mask = on_gpu(1, 150, torch.bfloat16)
    forced = torch.randint(3, 300, (1, 12))
    plain, early = (
        CapturedDecoder(model, dependent_launch=choice).logits(embeds, mask, forced) for choice in (False, True)
    )
    assert torch.equal(plain, early)


def test_rows_end_at_their_end_tokens_while_steps_are_ahead() -> None:
    model = llama(dtype=torch.bfloat16, **HEADS_OF_32).cuda()
    embeds, mask = on_gpu(3, 30, torch.bfloat16)
    engine = CapturedDecoder(model)
    free = engine.generate(embeds, mask, greedy(40, "fixed"), (), 0, silent).tolist()
    ends = (free[0][2], free[1][7], free[2][12])
    calls: list[float] = []
    ours = engine.generate(embeds, mask, greedy(40), ends, 0, calls.append).tolist()
    stops = [next(i for i, token in enumerate(row) if token in ends) for row in free]
    expected = [row[: stop + 1] + [0] * (max(stops) - stop) for row, stop in zip(free, stops, strict=True)]
    assert ours == expected
    assert len(calls) == max(stops) + 1
    assert calls == sorted(calls)
    again = engine.generate(embeds, mask, greedy(40, "fixed"), (), 0, silent).tolist()
    assert again == free  # nothing of the steps ahead is left


def test_a_captured_prefill_gives_the_same_answer() -> None:
    model = llama(dtype=torch.bfloat16, **HEADS_OF_32).cuda()
    embeds, mask = on_gpu(1, 37, torch.bfloat16)
    engine = CapturedDecoder(model)
    first = engine.generate(embeds, mask, greedy(12, "fixed"), (), 0, silent)
    assert (engine.report.prefill_graphs, engine.report.prefill_launches) == (0, 1)
    engine.prepare(1, 60, greedy(12), prompts=(37,))
    assert torch.equal(engine.generate(embeds, mask, greedy(12, "fixed"), (), 0, silent), first)
    assert engine.report.prefill_graphs == 1


def test_a_seed_repeats_its_answer_from_the_first_time() -> None:
    model = llama(dtype=torch.bfloat16, **HEADS_OF_32).cuda()
    embeds, mask = on_gpu(2, 20, torch.bfloat16)
    sampling = Sampling(temperature=1.2, top_p=0.95, top_k=50, max_new_tokens=20, stop="fixed")
    engine, answers = CapturedDecoder(model), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        answers.append(engine.generate(embeds, mask, sampling, (), 0, silent).tolist())
    assert answers[0] == answers[1] != answers[2]


def test_draws_of_a_captured_step_have_the_distribution_of_transformers() -> None:
    model = llama(dtype=torch.bfloat16, **HEADS_OF_32).cuda()
    sampling = Sampling(temperature=1.5, top_p=0.9, top_k=40, max_new_tokens=2, stop="fixed")
    batch, turns = 16, 400
    embeds, _ = on_gpu(1, 12, torch.bfloat16)
    embeds, mask = embeds.expand(batch, -1, -1), torch.ones(batch, 12, dtype=torch.long, device="cuda")
    engine = CapturedDecoder(model)
    torch.manual_seed(0)
    draws = torch.cat(
        [engine.generate(embeds, mask, sampling, (), 0, silent) for _ in range(turns)]
    )  # [batch * turns, 2]
    first = int(draws[:, 0].mode().values)
    seconds = draws[draws[:, 0] == first, 1]  # the second token comes out of the graph
    forced = torch.tensor([[first, 0]]).expand(batch, -1)
    scores = engine.logits(embeds, mask, forced)[:1, 1]
    expected = filtered(scores, sampling).softmax(-1)[0].double() * len(seconds)
    counts = torch.bincount(seconds, minlength=len(expected)).double()
    assert counts[expected == 0].sum() == 0
    often = expected >= 5
    observed = torch.cat([counts[often], counts[~often].sum()[None]])
    wanted = torch.cat([expected[often], expected[~often].sum()[None]])
    keep = wanted > 0
    assert (
        stats.chisquare(
            observed[keep].numpy(), wanted[keep].numpy() * float(observed.sum() / wanted[keep].sum())
        ).pvalue
        > 1e-3
    )


def test_a_second_engine_has_the_peak_of_the_first() -> None:
    peaks = []
    for _ in range(3):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        model = llama(dtype=torch.bfloat16, hidden_size=512, intermediate_size=1024, head_dim=128).cuda()
        embeds = torch.randn(1, 300, 512, device="cuda", dtype=torch.bfloat16)
        mask = torch.ones(1, 300, dtype=torch.long, device="cuda")
        decoder = CapturedDecoder(model)
        decoder.generate(embeds, mask, greedy(8, "fixed"), (2,), 0, silent)
        decoder.close()
        peaks.append(torch.cuda.max_memory_reserved())
        del model, embeds, mask, decoder
    assert peaks[1] == peaks[2] <= peaks[0]


def test_a_captured_tower_gives_what_the_tower_gives_again_and_again() -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=2, image_size=56, patch_size=14
    )
    tower = CLIPVisionModel(config).eval().to("cuda", torch.bfloat16)

    def run(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (tower(pixels, output_hidden_states=True).hidden_states[-2],)

    captured = CapturedCall(run, tower)
    for images in (4, 4, 2, 4):  # another number of images is captured too
        pixels = torch.randn(images, 3, 56, 56, device="cuda", dtype=torch.bfloat16)
        junk = [torch.full((1 << 20,), float("nan"), device="cuda") for _ in range(8)]  # into whatever was freed
        ours = captured(pixels)[0].float()
        del junk
        with torch.inference_mode():
            theirs = run(pixels)[0].float()
        assert (ours - theirs).norm() / theirs.norm() < 0.02
    assert (captured.fused_layers, captured.captures, captured.unseen_calls) == (3, 2, 2)
    captured.close()
