"""What does measuring cost? Two answers, on the small stand-in model.

    python benchmarks/harness.py            # two minutes on two cores

1. One sample with the stopwatch at every border and token, against a single pair of clock readings, alternating.
2. A run of 200 samples: the share of its time that is no sample's (harness, audits, checks, logging); imports,
   the building of the model and the making of the dataset come before and are not counted.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from fourstage.config.compose import compose
from fourstage.config.schema import check
from fourstage.data.samples import read_samples
from fourstage.measure.plan import plan_round
from fourstage.measure.protocol import question_of, timing_of
from fourstage.models.load import load_pipeline
from fourstage.records.table import read_journal
from fourstage.runs.job import Job
from fourstage.runs.prepare import Shared
from fourstage.runs.session import RunSession
from fourstage.tracking.folder import RunFolder
from fourstage.trust.audits import instrumented_against_bare

SAMPLES = 200
PAIRS = 200


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        place = [
            f"dataset.cache={folder}/data", f"tracking.uri=sqlite:///{folder}/mlflow.db",
            f"tracking.artifacts={folder}/artifacts",
        ]  # fmt: skip
        small = [f"dataset.samples={SAMPLES}", "dataset.seconds=0.4", "dataset.width=160", "dataset.height=120"]
        observer(compose([*place, *small, "generation=greedy", "max_new_tokens=64"]))
        outside(compose([*place, *small]), Path(folder))
    return 0


def observer(tree: dict[str, object]) -> None:
    """Answer 1."""
    config = check(tree)
    pipeline, samples = load_pipeline(config), read_samples(config.dataset)[:1]
    planned = plan_round(samples, [question_of(samples[0], config)], repeat=0, seed=0)
    ratio = instrumented_against_bare(pipeline, planned[0], config.sampling, timing_of(config, pipeline), pairs=PAIRS)
    print(
        f"instrumented / bare, end to end: {ratio.estimate:.4f} [{ratio.low:.4f}, {ratio.high:.4f}]  "
        f"n={PAIRS} pairs  (limit 1.01)"
    )


def outside(tree: dict[str, object], folder: Path) -> None:
    """Answer 2."""
    config, shared = check(tree), Shared()
    shared.models.get(config)
    with RunSession(Job(tree, folder / "run"), shared) as run:
        run.begin()
        start = time.perf_counter()
        run.measure_round()
        measured = time.perf_counter()
        inside = sum(record.end_to_end_s or 0.0 for record in read_journal(RunFolder.open(folder / "run").journal))
        read = time.perf_counter()
        run.finish()
    end = time.perf_counter() - (read - measured)
    total = end - start
    harness, logging = measured - start - inside, end - measured
    print(
        f"{SAMPLES} samples: {total:.1f} s, of which samples {inside:.1f} s, harness and warm-up "
        f"{harness:.2f} s, checks, audits and logging {logging:.2f} s: {1 - inside / total:.1%} outside (limit 10 %)"
    )


if __name__ == "__main__":
    sys.exit(main())
