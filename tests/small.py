"""Runs and sweeps at their smallest, for the tests of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fourstage.data.formats.demo import DemoSettings
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import RunFacts, find_runs

Run = Callable[..., tuple[int, RunFacts | None]]
SMALL = ["generation=greedy", "max_new_tokens=6", "protocol=quick", "tracking.traces=2"]
SIZE = DemoSettings(samples=3, seconds=0.4, width=96, height=64)


def on(root: Path) -> list[str]:
    return ["dataset=eventgpt_json", f"dataset.root={root}"]


def finished(result: tuple[int, RunFacts | None]) -> RunFacts:
    code, facts = result
    assert facts is not None
    assert (code, facts.status) == (0, "FINISHED")
    return facts


def into(store: Destination) -> list[str]:
    return [f"tracking.uri={store.uri}", f"tracking.artifacts={store.artifacts}"]


def jobs_since(store: Destination, before: int) -> list[RunFacts]:
    """The runs of jobs, in their order, since there were `before` runs; not their parent."""
    found = find_runs(store)
    made = [facts for facts in found[: len(found) - before] if "mlflow.parentRunId" in facts.tags]
    return sorted(made, key=lambda facts: int(facts.tags["fourstage.job"]))
