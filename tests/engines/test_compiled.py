"""engine=compiled: transformers' static cache and compiled steps give the answers of eager, and say what ran.

Steps are traced and run by torch here (`backend=eager`): generating code for them takes 40 s.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from fourstage.engines import compiled, eager
from fourstage.stages import Sampling, UserError
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import run_file, run_records
from tests.engines.llamas import llama, prompt, silent
from tests.small import Run, finished

GREEDY = Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=12, stop="fixed")


def test_compiled_steps_give_the_ids_and_logits_of_eager_and_compile_once_a_batch_size() -> None:
    model, plain = llama(), eager.Engine(eager.Settings())
    engine = compiled.Engine(compiled.Settings(backend="eager"))
    engine.prepare(model, GREEDY, batches=(1, 3), prompts=(9, 5))
    forced = torch.tensor([[5, 9, 17, 3]])
    for batch, rows in ((1, 9), (3, 9), (1, 5)):
        embeds, mask = prompt(batch, rows)
        with torch.inference_mode():
            ours = engine.generate(model, embeds, mask, GREEDY, (2,), 0, silent)
            theirs = plain.generate(model, embeds, mask, GREEDY, (2,), 0, silent)
        assert ours.tolist() == theirs.tolist()
    logits = [one.logits(model, *prompt(1, 7), forced) for one in (engine, plain)]
    torch.testing.assert_close(logits[0], logits[1], atol=2e-5, rtol=1e-5)
    report = engine.report
    assert (report["compiled"], report["graphs"], report["graph_breaks"]) == (True, 2, 0)
    assert report["cache_bytes"] == (1 + 3) * 64 * 2 * 3 * 64 * 4
    engine.release()
    assert (engine.report["compiled"], engine.report["cache_bytes"]) == (False, 0)


@pytest.mark.parametrize("model", ["eventgpt", "videollava"])
def test_a_run_has_the_ids_of_eager_and_says_what_ran(run: Run, store: Destination, model: str) -> None:
    def ids(facts: Any) -> list[tuple[int, ...]]:
        return [record.output_ids for record in run_records(store, facts.run_id)]

    words = (f"model={model}", "dataset.limit=2")
    one = finished(run("engine=compiled", "engine.backend=eager", "protocol.audit=true", *words))
    assert ids(one) == ids(finished(run("engine=eager", *words)))
    checks = {check["id"]: check for check in json.loads(run_file(store, one, "checks.json"))["checks"]}
    assert checks["staged_equals_own"]["verdict"] == checks["answers_repeat"]["verdict"] == "pass"
    assert "engine=compiled runs graphs" in checks["operations_counted"]["detail"]
    ran = json.loads(run_file(store, one, "engine.json"))
    assert (ran["name"], ran["compiled"], ran["backend"]) == ("compiled", True, "eager")


def test_a_model_without_a_static_cache_is_refused() -> None:
    model = llama()
    type(model)._can_compile_fullgraph, before = False, type(model)._can_compile_fullgraph
    try:
        with pytest.raises(UserError, match="LlamaForCausalLM does not: use engine=eager"):
            compiled.Engine(compiled.Settings()).check(model)
    finally:
        type(model)._can_compile_fullgraph = before


def test_beams_are_refused_before_the_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("engine=compiled", "num_beams=2") == (2, None)
    assert "num_beams=2: engine=compiled has no beam search" in capsys.readouterr().err
