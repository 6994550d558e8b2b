"""How much time and memory does the report of a long run take? A million synthetic records: no model is loaded.

python benchmarks/report.py             # or: report.py RECORDS; default 1000000
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fourstage.models.shapes import LanguageModel, Linear, Shapes, VisionTower
from fourstage.records.summary import summarise_run
from fourstage.records.table import schema
from fourstage.trust.checks import check_run
from fourstage.trust.evidence import Evidence, Expected
from fourstage.trust.roofline import Peaks, run_shares

KEYS = 5000  # distinct samples; the rest are repeats
STEPS = 63  # decode steps of the longest answer
EXPECTED = Expected("bf16", "bfloat16", ("png",), 5, 1, STEPS + 1, "natural", 1, 2048)
SHAPES = Shapes(
    VisionTower(24, 1024, 4096, 577, 3 * 14 * 14, 13 * 1024),
    (Linear(1024, 4096), Linear(4096, 4096)),
    Linear(4096, 4096),
    LanguageModel(32, 4096, 11008, 32, 32, 128, 32000, 2 * 4096),
    bytes_per_value=2,
)
PEAKS = Peaks("made up", ((1, 2e12),), {"bf16": 600e12}, "highest", 0.0)


def main() -> int:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.parquet"
        write_synthetic(path, n)
        print(f"{n:,} records, {path.stat().st_size / 1e6:.0f} MB, {_peak_gb():.2f} GB so far")
        planned = [(f"clip {i % KEYS}", i // KEYS) for i in range(n)]
        evidence = _timed("read", lambda: Evidence.read(path, planned=planned, expected=EXPECTED))
        _timed("metrics", lambda: summarise_run(evidence.columns))
        _timed("shares", lambda: run_shares(evidence.columns, evidence.sampled, SHAPES, PEAKS, "bf16"))
        checks = _timed("checks", lambda: check_run(evidence))
    for check in checks:
        print(f"  {check.verdict:13} {check.id:19} {check.value}  {check.detail}")
    return 0


def write_synthetic(path: Path, n: int, chunk: int = 50_000) -> None:
    """Generate a plausible run of `n` records with answers of 32 to 64 tokens, one table at a time."""
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema()) as file:
        for start in range(0, n, chunk):
            file.write_table(_table(start, min(chunk, n - start), rng))


def _table(start: int, n: int, rng: np.random.Generator) -> pa.Table:
    steps = rng.integers(STEPS // 2, STEPS + 1, n)
    ends = np.concatenate([[0], np.cumsum(steps)])
    token_s = 0.02 * np.exp(rng.normal(0, 0.05, ends[-1]))
    stages = {name: mean * np.exp(rng.normal(0, 0.05, n)) for name, mean in
              (("load_s", 0.01), ("preprocess_s", 0.02), ("encode_s", 0.04), ("prefill_s", 0.1))}  # fmt: skip
    decode_s = stages["prefill_s"] + np.add.reduceat(token_s, ends[:-1])
    total_s = stages["load_s"] + stages["preprocess_s"] + stages["encode_s"] + decode_s
    position = np.arange(start, start + n)
    plain: dict[str, Any] = stages | {
        "position": position, "repeat": position // KEYS, "replicate": 0 * position,
        "started_unix_s": 1.7e9 + position, "decode_s": decode_s,
        "total_s": total_s, "end_to_end_s": 1.001 * total_s, "output_tokens": steps + 1,
        "key": np.char.add("clip ", (position % KEYS).astype(str)),
    }  # fmt: skip
    text = "a short answer " * 10
    constant = {
        "sample_id": "clip", "role": "sample", "batch_size": 1, "seed": 0, "source": "png", "images": 5,
        "text_tokens": 40, "visual_tokens": 600, "finish_reason": "stop", "vision_calls": 1, "peak_memory_bytes": 2**34,
        "question": "What happens?", "prompt": "USER: What happens? ASSISTANT:", "output": text, "reference": "",
    }  # fmt: skip
    values = {name: pa.nulls(n, kind) for name, kind in zip(schema().names, schema().types, strict=True)}
    values |= {name: pa.array(array) for name, array in plain.items()}
    values |= {name: pa.repeat(value, n) for name, value in constant.items()}
    ids = np.concatenate([[0], np.cumsum(steps + 1)])
    values["token_s"] = pa.ListArray.from_arrays(ends.astype(np.int32), token_s)
    values["output_ids"] = pa.ListArray.from_arrays(ids.astype(np.int32), np.arange(ids[-1]) % 32000)
    empty = pa.array(np.zeros(n + 1, dtype=np.int32))
    values |= {name: pa.ListArray.from_arrays(empty, pa.array([], pa.string())) for name in ("notes", "gpu_throttle")}
    return pa.table([values[field.name].cast(field.type) for field in schema()], schema())


def _timed(what: str, work: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    found = work()
    print(f"  {what:8} {time.perf_counter() - start:6.2f} s   peak {_peak_gb():.2f} GB")
    return found


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    sys.exit(main())
