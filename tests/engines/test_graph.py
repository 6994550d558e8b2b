"""engine=graph in the product: the answers of eager on both models, what ran on the record, refusals in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fourstage import plugins
from fourstage.engines import Vision, eager, graph
from fourstage.measure.clock import Stopwatch, Timing
from fourstage.models import eventgpt, videollava
from fourstage.models.device import TorchDevice
from fourstage.stages import Media, Sampling, UserError
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import RunFacts, find_runs, run_file, run_records
from fourstage.trust.audits import run_audits
from fourstage.trust.checks.answers import staged_equals_own
from tests.engines.llamas import llama, prompt, silent
from tests.fakes import plan, samples
from tests.settings import EVENTGPT, TINY, VIDEOLLAVA
from tests.small import Run, finished, jobs_since
from tests.trust.test_checks import evidence

GREEDY = Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=20, stop="fixed")


def checks_of(store: Destination, run: RunFacts) -> dict[str, dict[str, Any]]:
    return {check["id"]: check for check in json.loads(run_file(store, run, "checks.json"))["checks"]}


def ids_of(store: Destination, run: RunFacts) -> dict[str, tuple[int, ...]]:
    return {record.key: record.output_ids for record in run_records(store, run.run_id)}


@pytest.fixture(params=["eventgpt", "videollava"])
def pipeline(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "eventgpt":
        yield eventgpt.Model.from_weights(EVENTGPT, TINY, "cpu", "fp32", "sdpa")
    else:
        yield videollava.Model.from_weights(VIDEOLLAVA, TINY, "cpu", "fp32", "sdpa")


def test_both_models_decode_to_the_ids_of_eager(pipeline: Any) -> None:
    embeds, mask = prompt(2, 40)
    ids = []
    for engine in (eager.Engine(eager.Settings()), graph.Engine(graph.Settings())):
        with torch.inference_mode():
            ids.append(engine.generate(pipeline.generator, embeds, mask, GREEDY, (2,), 0, silent).tolist())
    assert ids[0] == ids[1]


def test_forced_logits_are_those_of_transformers(pipeline: Any) -> None:
    embeds, mask = prompt(2, 12)
    forced = torch.tensor([[5, 9, 17, 3], [7, 7, 2, 30]])
    theirs = eager.Engine(eager.Settings()).logits(pipeline.generator, embeds, mask, forced)
    ours = graph.Engine(graph.Settings()).logits(pipeline.generator, embeds, mask, forced)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_the_vision_tower_counts_once_a_call(pipeline: Any) -> None:
    pipeline.engine = graph.Engine(graph.Settings())
    pixels = torch.randn(3, 3, 112, 112)
    vision = Vision(pipeline.visual_features, pipeline._tower, pipeline._count)
    before = pipeline.vision_calls
    pipeline.engine.encode(vision, pixels, (3,))
    assert pipeline.vision_calls == before + 1


@pytest.mark.parametrize("model", ["eventgpt", "videollava"])
def test_a_sweep_of_engines_gives_the_same_ids_and_valid_runs(run: Run, store: Destination, model: str) -> None:
    before = len(find_runs(store))
    code, _ = run("-m", f"model={model}", "engine=eager,graph", "protocol.audit=true")
    assert code == 0
    one, other = jobs_since(store, before)
    assert ids_of(store, one) == ids_of(store, other)
    checks = checks_of(store, other)
    for name in ("staged_equals_own", "answers_repeat", "operations_counted", "values_finite", "vision_runs_once"):
        assert checks[name]["verdict"] == "pass", checks[name]
    ran = json.loads(run_file(store, other, "engine.json"))
    assert (ran["name"], ran["captured"], ran["kernels"], ran["why"]) == ("graph", False, "torch", "no CUDA device")
    assert (other.tags["fourstage.engine.captured"], ran["extra_bytes"]) == ("False", 0)
    assert other.metrics["engine_cache_bytes"] == ran["cache_bytes"] > 0


def test_sampling_repeats_for_its_seed_and_its_answers_are_made_again(run: Run, store: Destination) -> None:
    words = ("engine=graph", "temperature=1.2", "top_p=0.9", "batch_size=1")
    one, again = finished(run(*words, "protocol.audit=true")), finished(run(*words))
    assert ids_of(store, one) == ids_of(store, again)
    assert checks_of(store, one)["answers_repeat"]["verdict"] == "pass"


def test_beams_are_refused_before_the_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    code, facts = run("engine=graph", "num_beams=2")
    assert (code, facts) == (2, None)
    assert "num_beams=2: engine=graph has no beam search; set num_beams=1 or engine=eager" in capsys.readouterr().err


def test_another_architecture_is_refused_when_it_is_loaded() -> None:
    with pytest.raises(UserError, match="Linear is none: use engine=eager"):
        graph.Engine(graph.Settings()).check(torch.nn.Linear(2, 2))


def test_kernels_that_were_asked_for_and_cannot_run_fail_the_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = run("engine=graph", "engine.kernels=triton")
    assert code != 0
    assert "kernels=triton cannot run here: no CUDA device" in capsys.readouterr().err


def test_a_release_gives_back_the_cache_and_the_engine_goes_on() -> None:
    model, engine = llama(), graph.Engine(graph.Settings())
    embeds, mask = prompt(1, 6)
    first = engine.generate(model, embeds, mask, GREEDY, (2,), 0, silent)
    assert engine.report["cache_bytes"] > 0
    engine.release()
    assert engine.report["cache_bytes"] == engine.report["buffer_bytes"] == 0
    assert torch.equal(first, engine.generate(model, embeds, mask, GREEDY, (2,), 0, silent))


def test_preparing_makes_room_for_the_longest_answer() -> None:
    model, engine = llama(max_position_embeddings=2048), graph.Engine(graph.Settings())
    engine.prepare(model, Sampling(0, 1, 0, max_new_tokens=600), batches=(1, 2), prompts=(500, 40))
    before = engine.report["cache_bytes"]
    for batch in (1, 2):
        engine.generate(model, *prompt(batch, 500), GREEDY, (2,), 0, silent)
    assert engine.report["cache_bytes"] == before


def test_a_time_that_the_engine_knows_is_not_waited_for() -> None:
    watch = Stopwatch(TorchDevice("cpu"), clock=lambda: 5.0)
    watch.tick()
    watch.tick(3.25)
    assert watch.token_at == [5.0, 3.25]


def test_importing_the_engine_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, fourstage.engines.graph; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert plugins.find("engine", "graph").Settings().name == "graph"


class Disturbed(graph.Engine):
    """An engine whose logits are off by noise, in logits, and whose first token is the second best."""

    noise = 0.0

    def logits(self, *arguments: Any) -> torch.Tensor:
        found = super().logits(*arguments)
        return found + self.noise * torch.randn(found.shape, generator=torch.Generator().manual_seed(0))

    def generate(self, model: Any, embeds: torch.Tensor, mask: torch.Tensor, *rest: Any) -> torch.Tensor:
        ids = super().generate(model, embeds, mask, *rest)
        scores = eager.Engine(eager.Settings()).logits(model, embeds, mask, ids[:, :1])
        ids[:, 0] = scores[:, 0].topk(2).indices[:, 1]
        return ids


@pytest.mark.parametrize(("precision", "margin", "verdict"), [("fp32", None, "fail"), ("bf16", 0.02, "pass")])
def test_ids_that_part_pass_at_a_near_tie_only(
    precision: str, margin: float | None, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline: Any = eventgpt.Model.from_weights(EVENTGPT, TINY, "cpu", precision, "sdpa")
    pipeline.engine = Disturbed(graph.Settings())
    if margin is not None:  # a head whose two best tokens are nearly level, and noise as bf16 explains it
        pipeline.engine.noise = 0.02
        theirs = eager.Engine.logits

        def level(*arguments: Any) -> torch.Tensor:
            scores = theirs(*arguments)
            best, second = scores[0, 0].topk(2).indices
            scores[0, 0, second] = scores[0, 0, best] - margin
            return scores

        monkeypatch.setattr(eager.Engine, "logits", level)
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    pipeline.load = lambda _: Media((picture,) * 5, "png", tuple(range(5)), 5, 0)
    sampling = replace(GREEDY, max_new_tokens=4)
    audits = run_audits(pipeline, plan(samples(1), ["what?"], 1, 0), sampling, Timing(TorchDevice("cpu")), samples=1)
    check = staged_equals_own(replace(evidence(n=8), audits=audits))
    assert check.verdict == verdict
    assert ("near-tie, margin 0.02" if margin else "no near-tie, margin") in check.detail
