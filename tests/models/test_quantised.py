"""precision=int8: torchao's weight-only layers in every engine, and bytes as they are stored."""

from __future__ import annotations

import json

import pytest
import torch

from fourstage.engines import eager
from fourstage.engines.agreement import first_divergence
from fourstage.engines.captured import CapturedDecoder
from fourstage.models.quantised import check_quantisation, is_quantised, language_layers, quantise, stored_bytes
from fourstage.stages import UserError
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import run_file
from tests.engines.llamas import KINDS, llama, prompt
from tests.small import Run, finished


@pytest.mark.parametrize("kind", ["grouped", "tied", "bias"])
@pytest.mark.parametrize("batch", [1, 3])
def test_int8_logits_of_the_graph_are_those_of_torchao(kind: str, batch: int) -> None:
    model = llama(dtype=torch.bfloat16, **KINDS[kind])
    quantise(model, "int8")
    embeds, mask = prompt(batch, 9, dtype=torch.bfloat16)
    forced = torch.randint(3, 300, (batch, 6), generator=torch.Generator().manual_seed(0))
    theirs = eager.Engine(eager.Settings()).logits(model, embeds, mask, forced)
    ours = CapturedDecoder(model).logits(embeds, mask, forced)
    assert ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max() < 0.05
    found = first_divergence(theirs, ours, torch.bfloat16)
    assert found is None or found.near_tie, found
    again = eager.Engine(eager.Settings()).logits(model, embeds, mask, forced)
    assert torch.equal(theirs, again)  # the layers' parts are views by now, and compute what they did


def test_only_the_language_models_linear_layers_are_quantised_and_take_half_the_bytes() -> None:
    model, plain = llama(dtype=torch.bfloat16), llama(dtype=torch.bfloat16)
    layers = language_layers(model)
    before = sum(stored_bytes(layer.weight) for layer in layers)
    quantise(model, "int8")
    assert {name for name, value in model.named_parameters() if is_quantised(value)} == {
        name for name, _ in model.named_parameters() if "proj" in name or "lm_head" in name
    }
    after = sum(stored_bytes(layer.weight) for layer in layers)
    assert before // 2 <= after <= before // 2 + 8 * sum(layer.out_features for layer in layers)
    ours, theirs = (CapturedDecoder(one).weights.bytes_per_step() for one in (model, plain))
    assert ours < 0.6 * theirs


def test_a_tied_output_layer_stays_as_it_is() -> None:
    model = llama(dtype=torch.bfloat16, tie_word_embeddings=True)
    quantise(model, "int8")
    assert not is_quantised(model.lm_head.weight)


@pytest.mark.parametrize(("model", "engine"), [("eventgpt", "graph"), ("videollava", "eager")])
def test_a_run_in_int8_is_valid(run: Run, store: Destination, model: str, engine: str) -> None:
    words = (f"model={model}", f"engine={engine}", "precision=int8", "protocol.audit=true", "dataset.limit=2")
    facts = finished(run(*words))
    checks = {check["id"]: check for check in json.loads(run_file(store, facts, "checks.json"))["checks"]}
    for name in ("staged_equals_own", "answers_repeat", "operations_counted", "config_used"):
        assert checks[name]["verdict"] == "pass", checks[name]
    assert facts.tags["fourstage.quantisation"] == "int8"


def test_int4_without_cuda_is_one_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="torchao's kernels need a CUDA GPU, device=cpu; use precision=int8"):
        check_quantisation("int4", "cpu")
    assert run("precision=int4", "engine=graph") == (2, None)
    assert "precision=int4: engine=graph runs int8 and more bits; set engine=eager|compiled" in capsys.readouterr().err


def test_without_torchao_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourstage.models.quantised.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs torchao: pip install 'fourstage\[quantised\]'"):
        check_quantisation("int8", "cpu")
