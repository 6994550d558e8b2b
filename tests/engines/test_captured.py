"""The captured decoder without CUDA: the same mathematics uncaptured, beside transformers' own loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats

from fourstage.engines import eager
from fourstage.engines.captured import CapturedCall, CapturedDecoder
from fourstage.engines.choosing import filtered
from fourstage.engines.clip import fused_layers
from fourstage.stages import Sampling, UserError
from tests.engines.llamas import KINDS, llama, prompt, silent


def greedy(new: int, stop: str = "natural") -> Sampling:
    return Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=new, stop=stop)


def both(model: Any, batch: int, rows: int, sampling: Sampling, eos: tuple[int, ...] = (2,)) -> tuple[Any, Any]:
    """Ids by the graph engine and by transformers, as lists."""
    embeds, mask = prompt(batch, rows)
    with torch.inference_mode():
        theirs = eager.Engine(eager.Settings()).generate(model, embeds, mask, sampling, eos, 0, silent)
    ours = CapturedDecoder(model).generate(embeds, mask, sampling, eos, 0, silent)
    return ours.tolist(), theirs.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_greedy_ids_are_those_of_transformers(kind: str, batch: int) -> None:
    ours, theirs = both(llama(**KINDS[kind]), batch, rows=9, sampling=greedy(24))
    assert ours == theirs
    assert len({tuple(row) for row in ours}) == batch  # answers differ, or equality would say little


@pytest.mark.parametrize("batch", [2, 8])
def test_padded_batches_give_what_each_row_gives_alone(batch: int) -> None:
    model = llama(num_key_value_heads=2)
    embeds, mask = prompt(batch, rows=12)
    engine = CapturedDecoder(model)
    together = engine.generate(embeds, mask, greedy(10, "fixed"), (2,), 0, silent)
    for i in range(batch):
        alone = engine.generate(embeds[i : i + 1, i:], mask[i : i + 1, i:], greedy(10, "fixed"), (2,), 0, silent)
        assert together[i].tolist() == alone[0].tolist()


def test_one_token_is_only_the_prefill() -> None:
    ours, theirs = both(llama(), 2, rows=5, sampling=greedy(1))
    assert ours == theirs
    assert len(ours[0]) == 1


def test_an_end_at_the_first_token_ends_there() -> None:
    model = llama()
    (first, *_), _ = both(model, 1, rows=6, sampling=greedy(4, "fixed"))
    ours, theirs = both(model, 1, rows=6, sampling=greedy(8), eos=(first[0],))
    assert ours == theirs == [[first[0]]]


def test_a_row_that_ends_is_padded_until_the_last_one_ends() -> None:
    model = llama()
    free, _ = both(model, 3, rows=6, sampling=greedy(12, "fixed"))
    ends = (free[0][2], free[1][5])
    ours, theirs = both(model, 3, rows=6, sampling=greedy(12), eos=ends)
    assert ours == theirs
    assert 0 in ours[0][3:]


def test_a_fixed_length_goes_on_behind_the_end_token() -> None:
    model = llama()
    free, _ = both(model, 1, rows=6, sampling=greedy(12, "fixed"))
    ours, theirs = both(model, 1, rows=6, sampling=greedy(12, "fixed"), eos=(free[0][3],))
    assert ours == theirs == free


def test_each_token_is_reported_once() -> None:
    embeds, mask = prompt(1, 6)
    engine, calls = CapturedDecoder(llama()), []
    ids = engine.generate(embeds, mask, greedy(7, "fixed"), (2,), 0, lambda *_: calls.append(len(calls)))
    assert len(calls) == ids.shape[1] == 7


def test_a_longer_prompt_grows_the_cache_and_a_shorter_one_keeps_it() -> None:
    model = llama(max_position_embeddings=2048)
    engine = CapturedDecoder(model)
    sizes = []
    for rows in (5, 600, 5):
        embeds, mask = prompt(1, rows)
        engine.generate(embeds, mask, greedy(4, "fixed"), (2,), 0, silent)
        sizes.append(engine.report.cache_bytes)
    assert sizes[0] < sizes[1] == sizes[2]


def test_the_weights_are_the_models_own() -> None:
    model = llama(num_key_value_heads=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine = CapturedDecoder(model)
    attention = model.model.layers[1].self_attn
    fused = engine.weights.layers[1].qkv
    assert attention.q_proj.weight.data_ptr() == fused.data_ptr()
    assert attention.v_proj.weight.data_ptr() == fused[96:].data_ptr()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert engine.report.extra_bytes == 0
    again = CapturedDecoder(model)  # fused already: nothing moves
    assert again.weights.layers[1].qkv.data_ptr() == fused.data_ptr()


def test_biases_are_shared_too() -> None:
    model = llama(attention_bias=True, mlp_bias=True)
    engine = CapturedDecoder(model)
    mlp = model.model.layers[2].mlp
    assert mlp.up_proj.bias.data_ptr() == engine.weights.layers[2].gate_up_bias[112:].data_ptr()  # type: ignore[index]


def test_the_report_says_what_ran() -> None:
    report = CapturedDecoder(llama()).report
    assert (report.captured, report.kernels, report.why) == (False, "torch", "no CUDA device")
    assert report.graph_pool_bytes == 0


def test_kernels_that_cannot_run_are_an_error_where_they_were_asked_for() -> None:
    with pytest.raises(UserError, match="kernels=triton cannot run here: no CUDA device"):
        CapturedDecoder(llama(), kernels="triton")


def test_closing_releases_the_cache_and_the_engine_can_go_on() -> None:
    model = llama()
    embeds, mask = prompt(1, 6)
    engine = CapturedDecoder(model)
    first = engine.generate(embeds, mask, greedy(5, "fixed"), (2,), 0, silent)
    engine.close()
    assert engine.report.cache_bytes == engine.report.buffer_bytes == 0
    assert torch.equal(first, engine.generate(embeds, mask, greedy(5, "fixed"), (2,), 0, silent))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}, "rope_type 'dynamic'"),
        ({"hidden_act": "gelu"}, "hidden_act silu, found 'gelu'"),
    ],
)
def test_a_model_of_other_mathematics_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        CapturedDecoder(llama(**change))
    assert "engine=eager" in str(caught.value)


def test_another_architecture_is_refused() -> None:
    with pytest.raises(UserError, match="Linear is none"):
        CapturedDecoder(torch.nn.Linear(2, 2))


def test_beams_are_refused() -> None:
    embeds, mask = prompt(1, 4)
    beams = Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=2, num_beams=2)
    with pytest.raises(UserError, match="no beam search"):
        CapturedDecoder(llama()).generate(embeds, mask, beams, (2,), 0, silent)


def test_forced_logits_are_those_of_one_forward_over_all_tokens() -> None:
    model = llama(num_key_value_heads=2)
    embeds, mask = prompt(1, 6)
    forced = torch.tensor([[5, 9, 17, 3]])
    ours = CapturedDecoder(model).logits(embeds, mask, forced)
    with torch.inference_mode():
        rest = model.get_input_embeddings()(forced[:, :-1])
        theirs = model(inputs_embeds=torch.cat([embeds, rest], dim=1)).logits[:, 5:]
    torch.testing.assert_close(ours, theirs.float(), atol=2e-5, rtol=1e-5)


def test_a_captured_module_gives_what_the_module_gives() -> None:
    module = torch.nn.Linear(4, 3)
    run = CapturedCall(lambda x: (module(x),), module)
    x = torch.randn(5, 4)
    assert torch.equal(run(x)[0], module(x))
    assert (run.captures, run.unseen_calls) == (0, 0)
    run.close()


def test_a_seed_repeats_its_answer_and_another_one_gives_another() -> None:
    model = llama()
    embeds, mask = prompt(2, 6)
    sampling = Sampling(temperature=1.5, top_p=0.95, top_k=50, max_new_tokens=16, stop="fixed")
    engine, answers = CapturedDecoder(model), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        answers.append(engine.generate(embeds, mask, sampling, (2,), 0, silent).tolist())
    assert answers[0] == answers[1] != answers[2]


def test_draws_of_an_answer_have_the_distribution_of_transformers() -> None:
    model, rows = llama(), 3000
    sampling = Sampling(temperature=1.5, top_p=0.9, top_k=40, max_new_tokens=2, stop="fixed")
    embeds, _ = prompt(1, 5)
    embeds, mask = embeds.expand(rows, -1, -1), torch.ones(rows, 5, dtype=torch.long)
    decoder = CapturedDecoder(model, generator=torch.Generator().manual_seed(0))
    draws = decoder.generate(embeds, mask, sampling, (), 0, silent)
    first = draws[:, 0].mode().values
    seconds = draws[draws[:, 0] == first, 1]  # a decode step's, all after the same tokens
    scores = decoder.logits(embeds[:1], mask[:1], torch.tensor([[int(first), 0]]))[:, 1]
    expected = filtered(scores.double(), sampling).softmax(-1)[0] * len(seconds)
    counts = torch.bincount(seconds, minlength=len(expected)).double()
    assert counts[expected == 0].sum() == 0
    often = expected >= 5
    observed = torch.cat([counts[often], counts[~often].sum()[None]])
    wanted = torch.cat([expected[often], expected[~often].sum()[None]])
    assert stats.chisquare(observed.numpy(), wanted.numpy()).pvalue > 1e-3


def test_layers_that_the_fused_kernels_do_not_cover_stay_as_they_are() -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    tower = CLIPVisionModel(config).eval()
    with fused_layers(tower) as layers:  # on a CPU
        assert layers == 0
        assert not any("forward" in vars(module) for module in tower.modules())
