"""The noise floor of a machine is that of the runs with replicates which its store has of the same kind."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from fourstage.comparison.floors import in_words, known_floor, known_floors, processes
from fourstage.records.columns import Columns
from fourstage.stages import SampleRecord
from fourstage.tracking.destination import Destination
from tests.builders import timed
from tests.stores import store

MACHINE = "desk cpu"
TAGS = {"fourstage.machine": MACHINE, "fourstage.replicates": "6"}
PARAMS = {"model.name": "eventgpt", "precision": "fp32", "engine.name": "eager", "device": "cpu"}


@pytest.fixture
def where(tmp_path: Path) -> Destination:
    return Destination(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"), "fourstage")


def replicated(seed: int, replicates: int = 6, sd: float = 0.05, n: int = 8) -> list[SampleRecord]:
    """Processes that differ by `sd` in decode (and a tenth of it in encode), 10 s apart, each sample 0.5 s."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(replicates):
        factor = math.exp(rng.normal(0, sd))
        for i in range(n):
            token_s = (0.1 * factor, 0.3 * factor)
            made.append(timed(f"clip {i}", encode=0.3 * factor**0.1, prefill=0.5 * factor, token_s=token_s,
                              replicate=number, position=len(made), started_unix_s=10.0 * number + 0.5 * i,
                              end_to_end_s=0.5))  # fmt: skip
    return made


def test_a_floor_is_the_spread_between_processes(where: Destination) -> None:
    own = processes(Columns.of(replicated(1, replicates=200)))
    assert own.floors["decode_s"].sd == pytest.approx(0.05, rel=0.15)
    assert own.floors["encode_s"].sd == pytest.approx(0.005, rel=0.15)
    assert own.floors["load_s"].sd == 0.0
    assert (own.sample_s, own.beyond_s, own.samples) == (0.5, 6.0, 8)  # 8 samples of 0.5 s, then 6 s to the next
    assert processes(Columns.of(replicated(1, replicates=1))).floors == {}


def test_runs_of_the_same_kind_are_pooled_and_others_do_not_count(where: Destination) -> None:
    for seed in range(2):
        store(where, f"known{seed}", replicated(seed), PARAMS, TAGS)
    store(where, "other model", replicated(3, sd=1.0), PARAMS | {"model.name": "videollava"}, TAGS)
    store(where, "other machine", replicated(4, sd=1.0), PARAMS, TAGS | {"fourstage.machine": "laptop cpu"})
    store(where, "invalid", replicated(5, sd=1.0), PARAMS, TAGS | {"fourstage.valid": "false"})
    store(where, "one process", replicated(6, replicates=1), PARAMS, TAGS | {"fourstage.replicates": "1"})
    store(where, "not fresh", replicated(7, replicates=1), PARAMS, {"fourstage.machine": MACHINE})
    known = known_floors(where, MACHINE, PARAMS)
    assert known is not None
    assert (known.runs, known.processes, known.floors["decode_s"].df) == (2, 12, 10)
    assert known.origin(known.newest_unix_s + 7300) == "12 processes of 2 runs, the last 2 hours ago"
    assert 0.02 < known.floors["decode_s"].sd < 0.1
    floor = known_floor(where, MACHINE, PARAMS, "decode_s")
    assert floor is not None
    assert floor.sd == known.floors["decode_s"].sd
    assert "in total, " in in_words(known.floors)
    assert known_floors(where, MACHINE, PARAMS | {"precision": "bf16"}) is None
