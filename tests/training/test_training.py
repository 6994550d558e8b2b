"""Training: a few steps leave a checkpoint that the pipelines read, and go on where they stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourstage.cli.train import main
from fourstage.models import eventgpt, videollava
from fourstage.tracking.destination import Destination
from fourstage.tracking.store import open_store
from fourstage.training.batches import Pool, Recipe, draw_batch, mirror
from fourstage.training.networks import MODELS, Size, make
from fourstage.training.pool import Chunk, read_chunk, write_chunk
from tests.settings import pretrained

MODULES: dict[str, Any] = {"eventgpt": eventgpt, "videollava": videollava}


@pytest.fixture(scope="module")
def chunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chunk(tmp_path_factory.mktemp("pool"), Chunk("train", 3, 0, 8))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two steps, and of one more that was resumed."""
    folder = tmp_path_factory.mktemp("training")
    words = ["model=eventgpt", "scenes=8", "validation=2", "batch=8", "questions=2", "epoch=2", "device=cpu",
             "workers=1", f"out={folder}", f"tracking.uri=sqlite:///{folder}/mlflow.db"]  # fmt: skip
    assert main([*words, "steps=2"]) == 0
    assert main([*words, "steps=3"]) == 0
    return folder


def test_a_trained_checkpoint_is_read_in_the_published_layout(out: Path) -> None:
    pipeline = eventgpt.Model.from_weights(
        eventgpt.Settings(), pretrained(out / "eventgpt"), "cpu", "fp32", "sdpa"
    )  # fmt: skip
    assert 1e6 < pipeline.facts.parameters < 5e6


def test_training_goes_on_from_its_last_checkpoint_and_is_logged(out: Path) -> None:
    client, experiment = open_store(Destination(f"sqlite:///{out}/mlflow.db", None, "fourstage"))
    second, first = client.search_runs([experiment])
    steps = {run.info.run_id: [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")]
             for run in (first, second)}  # fmt: skip
    assert list(steps.values()) == [[2], [3]]
    assert first.info.status == second.info.status == "FINISHED"
    assert "quality.motion" in second.data.metrics
    assert second.data.params["steps"] == "3"


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_is_the_same_for_a_seed_and_its_targets_are_the_answers(model: str, chunk: Path) -> None:
    stand_in = make(model, Size(), 0)
    pool = Pool("cpu", stand_in.style)
    pool.add(read_chunk(chunk))
    one, two = (draw_batch(pool, stand_in, Recipe(scenes=8), np.random.default_rng(1)) for _ in range(2))
    assert torch.equal(one.pixels, two.pixels)
    assert torch.equal(one.after, two.after)
    learnt = [stand_in.tokenizer.decode(ids[weight > 0], skip_special_tokens=True)
              for ids, weight in zip(one.after, one.weight, strict=True)]  # fmt: skip
    assert all(text.endswith(".") or ") " in text for text in learnt)
    changed = (one.seen != one.after) & (one.weight == 0)
    assert not changed.any()  # noise is in the answers alone


def test_the_mirror_turns_directions() -> None:
    known = {"road": "left", "light": {"direction": "right", "speed": "fast"}, "vehicles": [], "people": 1}
    assert mirror(known)["road"] == "right"
    assert mirror(known)["light"] == {"direction": "left", "speed": "fast"}
    assert mirror(mirror(known)) == known


def test_a_slip_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stps=3"]) == 2
    assert "conf/train.yaml lists the settings" in capsys.readouterr().err
