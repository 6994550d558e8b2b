"""How much time and memory does comparing a thousand runs take? The runs are synthetic: no model is loaded.

    python benchmarks/compare.py             # or: compare.py RUNS SAMPLES; default 1000 200

A store is written first, with MLflow's own client, so that its tables look as after real runs: 80 params, 90 metrics
and 30 tags a run. Then `python -m fourstage.compare` runs in its own process; its time and peak memory are printed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fourstage.records.table import schema
from fourstage.tracking.destination import Destination
from fourstage.tracking.store import open_store

STEPS = 63  # decode steps of the longest answer
LIMIT_S, LIMIT_GIB = 30, 1


def main() -> int:
    runs, samples = (int(word) for word in (sys.argv[1:] + ["1000", "200"][len(sys.argv) - 1 :])[:2])
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        destination = make_store(Path(folder), runs, samples)
        print(f"made {runs} runs of {samples} samples in {time.perf_counter() - start:.0f} s")
        command = [
            sys.executable, "-m", "fourstage.compare", f"uri={destination.uri}", f"out={folder}/out",
        ]  # fmt: skip
        start = time.perf_counter()
        with (Path(folder) / "screen.txt").open("w") as screen:
            process = subprocess.Popen(command, stdout=screen)
            _, status, usage = os.wait4(process.pid, 0)
        elapsed, gib = time.perf_counter() - start, usage.ru_maxrss / 2**20  # Linux counts KiB
        if status:
            print(f"fourstage.compare ended with {os.waitstatus_to_exitcode(status)}")
            return 1
        files = sorted(path for path in (Path(folder) / "out").iterdir() if path.is_file())
        written = {path.name: path.stat().st_size / 1e6 for path in files}
        processor = usage.ru_utime + usage.ru_stime
        print(
            f"compared in {elapsed:.1f} s (limit {LIMIT_S}), {processor:.1f} s of a processor, peak {gib:.2f} GiB "
            f"(limit {LIMIT_GIB}); load {os.getloadavg()[0]:.1f}"
        )
        print(", ".join(f"{name} {size:.1f} MB" for name, size in written.items()))
    return int(elapsed > LIMIT_S or gib > LIMIT_GIB)


def make_store(folder: Path, runs: int, samples: int) -> Destination:
    """Write a sweep with that many finished runs and their records."""
    from mlflow.entities import Metric, Param, RunTag

    destination = Destination(f"sqlite:///{folder}/mlflow.db", None, "fourstage")
    client, experiment = open_store(destination)
    rng = np.random.default_rng(0)
    for job in range(runs):
        tags = {
            "fourstage.sweep": "bench", "fourstage.job": str(job), "fourstage.valid": "true",
            "fourstage.checks_failed": "none", "fourstage.checks_warned": "none", "fourstage.dataset_hash": "d",
            "fourstage.code_hash": "c", "fourstage.machine": "m", **{f"fact.{i}": "a fact" for i in range(22)},
        }  # fmt: skip
        run = client.create_run(experiment, tags=tags, run_name=f"run-{job}")
        params = {"model.name": "eventgpt", "seed": str(job)} | {f"setting.{i}": "a value" for i in range(78)}
        metrics = [Metric(f"figure_{i}.median", float(job), 0, 0) for i in range(90)]
        client.log_batch(
            run.info.run_id, metrics=metrics, params=[Param(*item) for item in params.items()], tags=[RunTag("x", "y")]
        )
        place = Path(run.info.artifact_uri.removeprefix("file://"))
        place.mkdir(parents=True, exist_ok=True)
        pq.write_table(_table(samples, rng, 1 + 0.0005 * (job % 100)), place / "records.parquet")
        client.set_terminated(run.info.run_id, "FINISHED")
    return destination


def _table(n: int, rng: np.random.Generator, factor: float) -> pa.Table:
    """Records of one run: each sample has its own level, equal in all runs, plus noise of 2 %."""
    what = np.random.default_rng(1)
    size, steps = what.lognormal(0, 0.6, n), what.integers(STEPS // 2, STEPS + 1, n)
    ends = np.concatenate([[0], np.cumsum(steps)])
    token_s = 0.002 * np.exp(rng.normal(0, 0.02, ends[-1])) * factor
    stages = {
        name: mean * size * np.exp(rng.normal(0, 0.02, n)) * factor
        for name, mean in (("load_s", 0.01), ("preprocess_s", 0.02), ("encode_s", 0.04), ("prefill_s", 0.1))
    }
    decode_s = stages["prefill_s"] + np.add.reduceat(token_s, ends[:-1])
    total_s = stages["load_s"] + stages["preprocess_s"] + stages["encode_s"] + decode_s
    plain: dict[str, Any] = stages | {
        "position": np.arange(n), "repeat": np.zeros(n, dtype=int), "replicate": np.zeros(n, dtype=int),
        "started_unix_s": 1.7e9 + np.arange(n), "decode_s": decode_s, "total_s": total_s, "end_to_end_s": total_s,
        "ttft_s": total_s - decode_s + stages["prefill_s"], "output_tokens": steps + 1,
        "key": np.char.add("clip ", np.arange(n).astype(str)), "sample_id": np.arange(n).astype(str),
    }  # fmt: skip
    constant = {
        "role": "sample", "batch_size": 1, "seed": 0, "source": "png", "images": 5, "text_tokens": 40,
        "visual_tokens": 600, "finish_reason": "stop", "vision_calls": 1, "peak_memory_bytes": 2**34,
        "question": "What happens?", "prompt": "USER: What happens? ASSISTANT:", "output": "a short answer " * 10,
        "reference": "", "bytes_read": 100_000,
    }  # fmt: skip
    values = {name: pa.nulls(n, kind) for name, kind in zip(schema().names, schema().types, strict=True)}
    values |= {name: pa.array(array) for name, array in plain.items()}
    values |= {name: pa.repeat(value, n) for name, value in constant.items()}
    ids = np.concatenate([[0], np.cumsum(steps + 1)])
    empty = pa.array(np.zeros(n + 1, dtype=np.int32))
    for field in schema():
        if pa.types.is_list(field.type):
            values[field.name] = pa.ListArray.from_arrays(empty, pa.array([], field.type.value_type))
    values["token_s"] = pa.ListArray.from_arrays(ends.astype(np.int32), token_s)
    values["output_ids"] = pa.ListArray.from_arrays(ids.astype(np.int32), np.arange(ids[-1]) % 32000)
    return pa.table([values[field.name].cast(field.type) for field in schema()], schema())


if __name__ == "__main__":
    sys.exit(main())
