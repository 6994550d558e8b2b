"""How often does a comparison claim a difference between processes of one configuration, and does it find a real one?

    python benchmarks/aa.py                  # about six minutes on two idle cores
    python benchmarks/aa.py threads=2        # any settings of a run
    PROCESSES=6 PARTS= python benchmarks/aa.py weights=random weights.size=7b precision=bf16    # on a GPU

The demo model, 64 tokens, 12 samples. First 20 processes as they are and 20 with a sleep of 10 % of decode inside the
stage, in turn; then 20 processes beside a busy loop on one core. Each 20 are divided at random, 200 times, into two
arms of 3, 5 and 10 processes, which are compared with all figures of times as one family: what is claimed is false. The
slow 20 are compared with the others, 5 against 5, 200 times: what is not found is missed. Draws of 20 processes share
processes, so these shares are less certain than those of 200 independent comparisons. Last, beside the busy loop,
processes with a thread on each core and with one thread less, in turn. PARTS names the parts beyond the first 20.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import numpy as np

from fourstage.comparison.floors import FLOORED
from fourstage.config.compose import compose
from fourstage.records.columns import Columns
from fourstage.runs import replicates
from fourstage.runs.replicates import Request
from fourstage.stats.replicates import Measured, floor, log_ratio
from fourstage.stats.verdicts import CLAIMS, judge

WORDS = ["generation=fixed", "max_new_tokens=64", "dataset.samples=12"]
SPLITS, ARMS = 200, (3, 5, 10)
PROCESSES = int(os.environ.get("PROCESSES", "20"))
PARTS = os.environ.get("PARTS", "slow busy threads").split()
SLOW = 0.10
FIELDS = tuple(figure.field for figure in FLOORED)


def measure(folder: Path, number: int, tree: dict[str, object], slow: bool = False) -> tuple[Columns, float]:
    """The records of a fresh process, and the seconds that it took beyond its samples."""
    replicates.PROGRAM = (__file__, "--slow") if slow else ("-m", "fourstage.runs.replicate")
    begun = time.monotonic()
    code = replicates.run_fresh(Request(tree, str(folder), number))
    took = time.monotonic() - begun
    assert code == 0, f"{folder}: the process ended with {code}"
    columns = Columns.read(folder / "records.parquet").measured.done
    return columns, took - float(columns.end_to_end_s.sum())


def configuration(processes: Sequence[Columns], field: str) -> Measured:
    """One side of a comparison; samples of one sequence are a cluster."""
    names = [[columns.keys[code] for code in columns.key_codes] for columns in processes]
    keys = [key for of_process in names for key in of_process]
    return Measured(
        np.concatenate([getattr(columns, field) for columns in processes]),
        [number for number, of_process in enumerate(names) for _ in of_process],
        keys,
        [key.partition("/")[0] for key in keys],
    )


def verdicts(target: Sequence[Columns], baseline: Sequence[Columns]) -> dict[str, bool]:
    """Whether a difference is claimed, by figure, after the correction over all of them."""
    effects = [log_ratio(configuration(target, field), configuration(baseline, field)) for field in FIELDS]
    return {field: row.verdict in CLAIMS for field, row in zip(FIELDS, judge(effects), strict=True)}


def splits(processes: int, arm: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Two arms of so many processes: every way of two arms of all where there are few, else SPLITS at random."""
    if 2 * arm == processes and math.comb(processes, arm) <= SPLITS:
        everyone = frozenset(range(processes))
        halves = [one for one in combinations(range(processes), arm) if 0 in one]
        return [(one, tuple(everyone - set(one))) for one in halves]
    rng = np.random.default_rng(0)
    drawn = [tuple(rng.permutation(processes)[: 2 * arm].tolist()) for _ in range(SPLITS)]
    return [(one[:arm], one[arm:]) for one in drawn]


def report_false_claims(name: str, processes: Sequence[Columns]) -> None:
    """How often arms of one configuration are called different."""
    spreads = ", ".join(
        f"{figure.heading} {100 * floor(configuration(processes, figure.field)).spread():.1f} %" for figure in FLOORED
    )
    print(f"{name}: two processes differ by up to: {spreads}")
    for arm in (arm for arm in ARMS if 2 * arm <= len(processes)):
        total = anything = 0
        tried = splits(len(processes), arm)
        for one, other in tried:
            found = verdicts([processes[i] for i in one], [processes[i] for i in other])
            total += found["total_s"]
            anything += any(found.values())
        print(
            f"  {arm:2} against {arm:2}: total called different in {100 * total / len(tried):.1f} % of {len(tried)} "
            f"splits, anything in {100 * anything / len(tried):.1f} %",
            flush=True,
        )


def report_power(usual: Sequence[Columns], slow: Sequence[Columns], arm: int = 5) -> None:
    """How often the slow arm is found."""
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(SPLITS):
        one, other = (rng.permutation(PROCESSES)[:arm] for _ in range(2))
        found += verdicts([slow[i] for i in one], [usual[i] for i in other])["decode_s"]
    ratio = log_ratio(configuration(slow, "decode_s"), configuration(usual, "decode_s"))
    print(
        f"decode slower by {100 * SLOW:.0f} %: measured {ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]; "
        f"found by {arm} against {arm} processes in {100 * found / SPLITS:.1f} % of {SPLITS} draws",
        flush=True,
    )


@contextmanager
def busy_loop() -> Iterator[None]:
    """Another program that takes one core."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    os.chdir(tempfile.mkdtemp(prefix="fourstage-bench-"))
    tree, here = compose([*WORDS, *sys.argv[1:]]), Path.cwd()
    measure(here / "first", 0, tree)  # makes the dataset, and measures the device's peaks
    usual, slow, beyond = list[Columns](), list[Columns](), list[float]()
    for number in range(PROCESSES):
        sides = [False, True][: 1 + ("slow" in PARTS)][:: 1 if number % 2 == 0 else -1]
        for planted in sides:
            columns, seconds = measure(here / f"{'slow' if planted else 'usual'}{number}", number, tree, planted)
            (slow if planted else usual).append(columns)
            beyond.append(seconds)
    print(f"a process takes {statistics.median(beyond):.2f} s beyond its samples (median of {len(beyond)})", flush=True)
    report_false_claims("as the machine is", usual)
    if slow:
        report_power(usual, slow)
    with busy_loop():
        if "busy" in PARTS:
            beside = [measure(here / f"beside{number}", number, tree)[0] for number in range(PROCESSES)]
            report_false_claims("beside a busy loop on one core", beside)
        if "threads" in PARTS:
            report_threads(here)


def report_threads(here: Path, pairs: int = 8) -> None:
    """A thread on each core against one less, in turn: the spread between processes, mean and median."""
    cores = len(os.sched_getaffinity(0))
    counts = (cores, max(1, cores - 1))
    found: dict[int, list[Columns]] = {count: [] for count in counts}
    for number in range(pairs):
        for count in counts if number % 2 == 0 else counts[::-1]:
            tree = compose([*WORDS, *sys.argv[1:], f"threads={count}"])
            found[count].append(measure(here / f"threads{count}-{number}", number, tree)[0])
    for count, processes in found.items():
        parts = []
        for field in ("encode_s", "decode_s", "total_s"):
            values = 1000 * np.concatenate([getattr(columns, field) for columns in processes])
            spread = 100 * floor(configuration(processes, field)).spread()
            parts.append(
                f"{field.removesuffix('_s')} median {np.median(values):.1f} ms, mean {values.mean():.1f} ms, largest "
                f"{values.max():.0f} ms, two processes differ by up to {spread:.0f} %"
            )
        print(f"threads={count}: {'; '.join(parts)}", flush=True)


def slow_replicate() -> int:
    """A replicate whose decode sleeps for a tenth of its time."""
    from fourstage.models.base import StagedPipeline
    from fourstage.runs.replicate import main as measure_replicate

    real = StagedPipeline.decode

    def decode(self: StagedPipeline, *words: object, **more: object) -> object:
        begun = time.perf_counter()
        generation = real(self, *words, **more)  # type: ignore[arg-type]
        time.sleep(SLOW * (time.perf_counter() - begun))
        return generation

    StagedPipeline.decode = decode  # type: ignore[method-assign,assignment]
    return measure_replicate()


if __name__ == "__main__":
    sys.exit(slow_replicate()) if "--slow" in sys.argv else main()
