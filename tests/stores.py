"""Stores for tests: runs with records, and sweeps of them, as the tool leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fourstage.records.table import write_records
from fourstage.stages import SampleRecord
from fourstage.tracking.destination import Destination
from fourstage.tracking.writer import TrackedRun
from tests.builders import timed


def records(seed: int, n: int = 12, **costs: float) -> list[SampleRecord]:
    size, rng, made = np.random.default_rng(7).lognormal(0, 0.3, n), np.random.default_rng([seed, 5]), []
    for i in range(n):
        default = {"load": 0.05, "preprocess": 0.02, "encode": 0.04, "prefill": 0.03, "step": 0.01}
        load, preprocess, encode, prefill, step = rng.lognormal(0, 0.01, 5) * size[i] * list((default | costs).values())
        token_s = (step,) * 4
        made.append(
            timed(f"clip {i}", load, preprocess, encode, prefill, token_s, sample_id=f"{i}", position=i,
                  started_unix_s=float(i), bytes_read=20_000, output="a car", output_ids=(1, 2),
                  question="What is there?")
        )  # fmt: skip
    return made


def store(
    where: Destination,
    name: str,
    made: Sequence[SampleRecord] | None,
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
    status: str = "FINISHED",
) -> str:
    """A run with its records, as a sweep leaves it."""
    checked = {"fourstage.valid": "true", "fourstage.checks_failed": "none"}
    run = TrackedRun.start(where, name, params or {}, checked | (tags or {}))
    if made is not None:
        folder = Path(where.uri.removeprefix("sqlite:///")).parent / f"{run.run_id}.files"
        folder.mkdir()
        write_records(made, folder / "records.parquet")
        run.log_folder(folder)
        run.log_metrics({"total_s.median": float(np.median([r.total_s or 0 for r in made]))})
    run.end(status)
    return run.run_id


def sweep(where: Destination, name: str = "night", **children: Any) -> tuple[str, dict[str, str]]:
    """A parent and its children in order: each the arguments of `store` after the name."""
    tags = {"fourstage.role": "parent", "fourstage.sweep": f"{name}-tag"}
    parent = TrackedRun.start(where, name, {"model": "eventgpt,videollava"}, tags)
    ids = {}
    for job, (child, (made, params, more, *status)) in enumerate(children.items()):
        own = {"mlflow.parentRunId": parent.run_id, "fourstage.sweep": f"{name}-tag", "fourstage.job": str(job)}
        ids[child] = store(where, child, made, params, own | more, *status)
    parent.end("FINISHED")
    return parent.run_id, ids


def in_processes(made: Sequence[SampleRecord], processes: int = 3) -> list[SampleRecord]:
    """The same samples as measured by several fresh processes, each with the same times."""
    return [replace(record, replicate=number) for number in range(processes) for record in made]
