"""How often is an honest run invalid? Runs of the demo, both models in turn, beside a process that keeps a core busy.

    python benchmarks/false_alarms.py          # 40 runs: five minutes on two cores
    python benchmarks/false_alarms.py 40 0     # the same without the busy process

Prints each run's verdict, every failed check with what it found, the failures per check, and what the audits cost.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from fourstage.config.compose import compose
from fourstage.config.schema import Config, check
from fourstage.data.samples import read_samples
from fourstage.measure.protocol import measure_rounds
from fourstage.models.base import StagedPipeline
from fourstage.models.load import load_pipeline
from fourstage.records.table import write_records
from fourstage.stages import Sample, SampleRecord
from fourstage.trust.check import Check, valid
from fourstage.trust.checks import check_run
from fourstage.trust.gather import gather

MODELS = ("eventgpt", "videollava")


def main(runs: int = 40, busy: int = 1) -> int:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            failed, invalid, audit_s = count(runs, Path(folder))
    finally:
        for other in others:
            other.kill()
    print(f"{invalid} of {runs} honest runs invalid beside {busy} busy processes: {dict(failed) or 'no failed check'}")
    print(f"checks and audits took {statistics.median(audit_s):.2f} s a run (median), at most {max(audit_s):.2f} s")
    return 0


def count(runs: int, folder: Path) -> tuple[Counter[str], int, list[float]]:
    """Failures of each check, invalid runs, and the seconds that each run's checks took."""
    loaded: dict[str, tuple[Config, StagedPipeline, list[Sample]]] = {}
    for model in MODELS:
        config = check(compose([f"model={model}", f"dataset.cache={folder}/data"]))
        loaded[model] = config, load_pipeline(config), read_samples(config.dataset)
    failed, invalid, took = Counter[str](), 0, list[float]()
    for run in range(runs):
        checks, seconds = one(*loaded[MODELS[run % len(MODELS)]], folder / "records.parquet")
        took.append(seconds)
        invalid += not valid(checks)
        print(f"run {run}: {'valid' if valid(checks) else 'invalid'}, audits {seconds:.1f} s", flush=True)
        for found in checks:
            if found.verdict == "fail" or (found.verdict == "not possible" and "busy" in found.detail):
                failed[f"{found.id} ({found.verdict})"] += 1
                print(f"run {run}: {found.verdict} {found.line}", flush=True)
    return failed, invalid, took


def one(config: Config, pipeline: StagedPipeline, samples: list[Sample], path: Path) -> tuple[list[Check], float]:
    """The checks of one run, and the seconds that they and their audits took."""
    records: list[SampleRecord] = []
    rounds = measure_rounds(config, pipeline, samples, records.append)
    write_records(records, path)
    start = time.perf_counter()
    checks = check_run(gather(config, pipeline, rounds.planned, path))
    return checks, time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
