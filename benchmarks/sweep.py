"""What does a job of a sweep cost beyond its samples, and is a reused model as fast as a fresh one?

    python benchmarks/sweep.py            # in a temporary folder; about three minutes on two idle cores
    PAIRS=3 python benchmarks/sweep.py weights=random weights.size=7b precision=bf16      # on a GPU

The demo model with the quick protocol. A job's cost is the time from its start to the start of the next job, minus the
end-to-end times of its samples; it is measured with traces (one for each of 4 samples) and without. Fresh and reused
models alternate: a pair is a job in a process of its own and the second job of another process, on the same samples.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise

from fourstage.records.columns import Columns
from fourstage.stats.intervals import paired_interval
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import RunFacts, children_of, find_runs, run_records

WORDS = ["generation=fixed", "max_new_tokens=64", "protocol=quick", "protocol.warmup=5", "sweep.compare=false"]
STORE = Destination("sqlite:///mlruns/mlflow.db", None, "fourstage")
PAIRS = int(os.environ.get("PAIRS", "5"))


def sweep(*words: str) -> list[RunFacts]:
    """Run a sweep in a process of its own; return its jobs' runs in the order of their start."""
    subprocess.run(
        [sys.executable, "-m", "fourstage.run", "-m", *WORDS, *sys.argv[1:], *words],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (parent,) = find_runs(STORE, "tags.`fourstage.role` = 'parent'", newest=1)
    return sorted(children_of(STORE, parent.run_id), key=lambda run: run.started_unix_s)


def samples_s(run: RunFacts) -> float:
    return float(sum(record.end_to_end_s or 0.0 for record in run_records(STORE, run.run_id)))


def costs(runs: list[RunFacts]) -> list[float]:
    """Seconds of each job beyond its samples, without the first and the last job."""
    return [after.started_unix_s - run.started_unix_s - samples_s(run) for run, after in pairwise(runs)][1:]


def main() -> None:
    os.chdir(tempfile.mkdtemp(prefix="fourstage-bench-"))
    compare_reused()
    for what, words in (
        ("no warm-up", ["protocol.warmup=0"]),
        ("no warm-up, no traces", ["protocol.warmup=0", "tracking.traces=0"]),
    ):
        found = costs(sweep("seed=0,1,2,3,4,5", *words))
        print(f"a job beyond its samples, {what}: median {statistics.median(found):.2f} s of {len(found)}", end="")
        print(f" [{min(found):.2f}, {max(found):.2f}]", flush=True)


def compare_reused() -> None:
    """Compare a job with a reused model and the same job with a fresh one: times, and that token ids are equal."""
    fresh, reused = list[float](), list[float]()
    keys = list[str]()
    for number in range(PAIRS):
        words = [f"sweep.name=pair{number}", f"max_new_tokens={64 + number}"]
        alone = sweep("seed=1", *words)[0]
        second = sweep("seed=0,1", *words)[1]
        assert (second.tags["fourstage.reused_model"], alone.tags["fourstage.reused_model"]) == ("true", "false")
        one, other = (Columns.of(run_records(STORE, run.run_id)) for run in (alone, second))
        ids = [[r.output_ids for r in run_records(STORE, run.run_id)] for run in (alone, second)]
        assert ids[0] == ids[1]
        fresh += one.total_s.tolist()
        reused += other.total_s.tolist()
        keys += [f"pair {number}"] * len(one)
    _, found = paired_interval(fresh, reused, clusters=keys)
    print(f"reused / fresh, total per sample: {found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]", end="")
    print(f"  {PAIRS} pairs of runs, {len(fresh)} samples, same token ids", flush=True)


if __name__ == "__main__":
    main()
