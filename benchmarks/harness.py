"""What does measuring cost? Two answers, with the tiny stand-in model.

    python benchmarks/harness.py            # two minutes on two cores

1. One sample timed at every stage and token, against the same sample with a single pair of clock readings, alternating.
2. A run of 200 samples: the share of its time spent outside samples (harness, audits, checks, logging). Imports,
   building the model and generating the dataset are not counted.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from fourstage.cli import run as fourstage_run
from fourstage.config.compose import compose
from fourstage.config.schema import check, flatten
from fourstage.measure.loop import plan
from fourstage.measure.protocol import question_of, timing_of
from fourstage.models.load import load_pipeline
from fourstage.records.columns import Columns
from fourstage.records.table import RecordFile
from fourstage.tracking.store import Destination
from fourstage.tracking.writer import TrackedRun
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
    """Time one sample with and without the stopwatch, alternating, and print the difference."""
    config = check(tree)
    pipeline, samples = load_pipeline(config), fourstage_run.read_samples(config)[:1]
    planned = plan(samples, [question_of(samples[0], config)], repeats=1, seed=0)
    ratio = instrumented_against_bare(pipeline, planned[0], config.sampling, timing_of(config, pipeline), pairs=PAIRS)
    print(
        f"instrumented / bare, end to end: {ratio.estimate:.4f} [{ratio.low:.4f}, {ratio.high:.4f}]  "
        f"n={PAIRS} pairs  (limit 1.01)"
    )


def outside(tree: dict[str, object], folder: Path) -> None:
    """Run 200 samples, and print the share of the time outside samples."""
    config = check(tree)
    pipeline, samples = load_pipeline(config), fourstage_run.read_samples(config)
    tracking = config.tracking
    destination = Destination(tracking.uri, tracking.artifacts, tracking.experiment)
    run = TrackedRun.start(destination, "bench", flatten(tree), {})
    file = RecordFile(folder / "records.parquet")
    start = time.perf_counter()
    checks, reached = fourstage_run._measure_and_check(config, pipeline, samples, file)
    measured = time.perf_counter()
    fourstage_run._record(config, tree, run, file, Columns.read(file.path).measured, checks, reached)
    run.end("FINISHED")
    end = time.perf_counter()
    inside = float(Columns.read(file.path).end_to_end_s.sum())
    total = end - start
    harness, logging = measured - start - inside, end - measured
    print(
        f"{SAMPLES} samples: {total:.1f} s, of which samples {inside:.1f} s, harness, warm-up and audits "
        f"{harness:.2f} s, logging {logging:.2f} s: {1 - inside / total:.1%} outside (limit 10 %)"
    )


if __name__ == "__main__":
    sys.exit(main())
