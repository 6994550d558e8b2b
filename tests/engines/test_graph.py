"""The graph engine without CUDA: the same mathematics uncaptured, beside transformers' own loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fourstage.engines import eager, graph
from fourstage.engines.clip import fused_layers
from fourstage.engines.graph import GraphEngine
from fourstage.stages import Sampling, UserError
from tests.engines.llamas import KINDS, llama, prompt
from tests.settings import DEMO, EVENTGPT, VIDEOLLAVA


def greedy(new: int, stop: str = "natural") -> Sampling:
    return Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=new, stop=stop)


def both(model: Any, batch: int, rows: int, sampling: Sampling, eos: tuple[int, ...] = (2,)) -> tuple[Any, Any]:
    """Ids by the graph engine and by transformers, as lists."""
    embeds, mask = prompt(batch, rows)
    with torch.inference_mode():
        theirs = eager.Engine(eager.Settings()).generate(model, embeds, mask, sampling, eos, 0, lambda: None)
    ours = GraphEngine(model).generate(embeds, mask, sampling, eos, 0, lambda: None)
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
    engine = GraphEngine(model)
    together = engine.generate(embeds, mask, greedy(10, "fixed"), (2,), 0, lambda: None)
    for i in range(batch):
        alone = engine.generate(embeds[i : i + 1, i:], mask[i : i + 1, i:], greedy(10, "fixed"), (2,), 0, lambda: None)
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


def test_each_token_is_reported_once_and_timed() -> None:
    embeds, mask = prompt(1, 6)
    engine, calls = GraphEngine(llama()), []
    ids = engine.generate(embeds, mask, greedy(7, "fixed"), (2,), 0, lambda: calls.append(len(calls)))
    assert len(calls) == ids.shape[1] == len(engine.token_s) == 7
    assert list(engine.token_s) == sorted(engine.token_s)


def test_a_longer_prompt_grows_the_cache_and_a_shorter_one_keeps_it() -> None:
    model = llama(max_position_embeddings=2048)
    engine = GraphEngine(model)
    sizes = []
    for rows in (5, 600, 5):
        embeds, mask = prompt(1, rows)
        engine.generate(embeds, mask, greedy(4, "fixed"), (2,), 0, lambda: None)
        sizes.append(engine.report.cache_bytes)
    assert sizes[0] < sizes[1] == sizes[2]


def test_the_weights_are_the_models_own() -> None:
    model = llama(num_key_value_heads=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine = GraphEngine(model)
    attention = model.model.layers[1].self_attn
    fused = engine.weights.layers[1].qkv
    assert attention.q_proj.weight.data_ptr() == fused.data_ptr()
    assert attention.v_proj.weight.data_ptr() == fused[96:].data_ptr()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert engine.report.extra_bytes == 0
    again = GraphEngine(model)  # fused already: nothing moves
    assert again.weights.layers[1].qkv.data_ptr() == fused.data_ptr()


def test_biases_are_shared_too() -> None:
    model = llama(attention_bias=True, mlp_bias=True)
    engine = GraphEngine(model)
    mlp = model.model.layers[2].mlp
    assert mlp.up_proj.bias.data_ptr() == engine.weights.layers[2].gate_up_bias[112:].data_ptr()  # type: ignore[index]


def test_the_report_says_what_ran() -> None:
    report = GraphEngine(llama()).report
    assert (report.captured, report.kernels, report.why) == (False, "torch", "no CUDA device")
    assert report.graph_pool_bytes == 0


def test_kernels_that_cannot_run_are_an_error_where_they_were_asked_for() -> None:
    with pytest.raises(UserError, match="kernels=triton cannot run here: no CUDA device"):
        GraphEngine(llama(), kernels="triton")


def test_closing_releases_the_cache_and_the_engine_can_go_on() -> None:
    model = llama()
    embeds, mask = prompt(1, 6)
    engine = GraphEngine(model)
    first = engine.generate(embeds, mask, greedy(5, "fixed"), (2,), 0, lambda: None)
    engine.close()
    assert engine.report.cache_bytes == engine.report.buffer_bytes == 0
    assert torch.equal(first, engine.generate(embeds, mask, greedy(5, "fixed"), (2,), 0, lambda: None))


def test_a_models_engine_is_made_once_and_closed_by_its_model() -> None:
    model = llama()
    engine = graph.engine_of(model)
    assert graph.engine_of(model) is engine
    graph.close(model)
    assert graph.engine_of(model) is not engine
    graph.close(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}, "rope_type 'dynamic'"),
        ({"hidden_act": "gelu"}, "hidden_act silu, found 'gelu'"),
    ],
)
def test_a_model_of_other_mathematics_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        GraphEngine(llama(**change))
    assert "engine=eager" in str(caught.value)


def test_another_architecture_is_refused() -> None:
    with pytest.raises(UserError, match="Linear is none"):
        GraphEngine(torch.nn.Linear(2, 2))


def test_beams_are_refused() -> None:
    embeds, mask = prompt(1, 4)
    beams = Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=2, num_beams=2)
    with pytest.raises(UserError, match="no beam search"):
        GraphEngine(llama()).generate(embeds, mask, beams, (2,), 0, lambda: None)


def test_forced_logits_are_those_of_one_forward_over_all_tokens() -> None:
    model = llama(num_key_value_heads=2)
    embeds, mask = prompt(1, 6)
    forced = torch.tensor([[5, 9, 17, 3]])
    ours = GraphEngine(model).logits(embeds, mask, forced)
    with torch.inference_mode():
        rest = model.get_input_embeddings()(forced[:, :-1])
        theirs = model(inputs_embeds=torch.cat([embeds, rest], dim=1)).logits[:, 5:]
    torch.testing.assert_close(ours, theirs.float(), atol=2e-5, rtol=1e-5)


def test_a_captured_module_gives_what_the_module_gives() -> None:
    module = torch.nn.Linear(4, 3)
    run = graph.captured(module, torch.zeros(2, 4))
    x = torch.randn(5, 4)
    assert torch.equal(run(x), module(x))
    assert not run.captured
    run.close()


def test_a_seed_repeats_its_answer_and_another_one_gives_another() -> None:
    model = llama()
    embeds, mask = prompt(2, 6)
    sampling = Sampling(temperature=1.5, top_p=0.95, top_k=50, max_new_tokens=16, stop="fixed")
    engine, answers = GraphEngine(model), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        answers.append(engine.generate(embeds, mask, sampling, (2,), 0, lambda: None).tolist())
    assert answers[0] == answers[1] != answers[2]


def test_layers_that_the_fused_kernels_do_not_cover_stay_as_they_are() -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    tower = CLIPVisionModel(config).eval()
    with fused_layers(tower) as layers:  # on a CPU
        assert layers == 0
        assert not any("forward" in vars(module) for module in tower.modules())


@pytest.mark.parametrize("name", ["eventgpt", "videollava"])
def test_both_models_decode_to_the_ids_of_eager(name: str) -> None:
    from fourstage.models import eventgpt, videollava

    if name == "eventgpt":
        pipeline: Any = eventgpt.Model.from_weights(EVENTGPT, DEMO, "cpu", "fp32", "sdpa")
    else:
        pipeline = videollava.Model.from_weights(VIDEOLLAVA, DEMO, "cpu", "fp32", "sdpa")
    embeds, mask = prompt(2, 40)
    with torch.inference_mode():
        theirs = eager.Engine(eager.Settings()).generate(
            pipeline.generator, embeds, mask, greedy(20, "fixed"), (2,), 0, lambda: None
        )
    ours = graph.generate(pipeline.generator, embeds, mask, greedy(20, "fixed"), (2,), 0, lambda: None)
    assert ours.tolist() == theirs.tolist()
    graph.close(pipeline.generator)
