"""The stand-ins of `weights=demo`: shipped, small, and able to answer. No training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourstage.answers.facts import check
from fourstage.config.schema import DemoWeights
from fourstage.data.dataset import read_dataset
from fourstage.data.formats.demo import JSON_NAME, DemoSettings, make_demo
from fourstage.data.formats.questions import Question, ask
from fourstage.models import eventgpt, stand_ins, videollava
from fourstage.stages import Sampling

GREEDY = Sampling(0.0, 1.0, 0, 128)
MODELS: dict[str, Any] = {"eventgpt": eventgpt, "videollava": videollava}
CARRIED = {"eventgpt": ("motion", "speed", "road"), "videollava": ("time", "road", "colour")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("data"), DemoSettings(samples=6, seed=4711))


def load(model: str, precision: str = "fp32") -> Any:
    module = MODELS[model]
    return module.Model.from_weights(module.Settings(), DemoWeights("demo", 0), "cpu", precision, "sdpa")


@pytest.mark.parametrize("model", MODELS)
def test_a_stand_in_is_small(model: str) -> None:
    facts = load(model).facts
    assert 1e6 < facts.parameters < 5e6
    assert facts.checkpoint == f"stand-in of {model}, trained on demo scenes"
    files = [path for path in (stand_ins.FOLDER / model).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert (stand_ins.FOLDER / model / "README.md").is_file()


@pytest.mark.parametrize("model", MODELS)
def test_a_stand_in_answers_what_its_modality_shows_and_ends_by_itself(model: str, root: Path) -> None:
    pipeline, right = load(model), []
    for sample in read_dataset(root, JSON_NAME):
        known = sample.extra["attributes"]
        media = pipeline.load(sample)
        for fact in CARRIED[model]:
            question = ask(fact, known, np.random.default_rng(0), plain=True)
            inputs = pipeline.preprocess([media], [question.text])
            made = pipeline.decode(inputs, pipeline.encode(inputs), GREEDY, lambda: None)
            assert made.finish_reasons == ("stop",)
            right += check(question.text, made.texts[0], known).values()
    assert np.mean(right) > 0.9


def test_a_video_is_described_at_more_length_than_events(root: Path) -> None:
    sample = read_dataset(root, JSON_NAME)[0]
    lengths = {}
    for model in MODELS:
        pipeline = load(model)
        inputs = pipeline.preprocess([pipeline.load(sample)], [Question("key_elements", sample.question).text])
        made = pipeline.decode(inputs, pipeline.encode(inputs), GREEDY, lambda: None)
        lengths[model] = len(made.token_ids[0])
    assert lengths["videollava"] > 1.8 * lengths["eventgpt"]


@pytest.mark.parametrize("model", MODELS)
def test_a_run_of_a_stand_in_is_what_its_settings_say(model: str) -> None:
    from fourstage.config import schema
    from fourstage.config.compose import compose
    from fourstage.models.load import load_pipeline
    from fourstage.trust.gather import unlike

    config = schema.check(compose([f"model={model}"]))
    assert unlike(config, load_pipeline(config)) == []
