"""Numbers from records: what is logged as the metrics of one run.

Only samples that succeeded enter a figure; a figure without data is absent, never 0. Left out: comparing
runs, intervals and tests (`pairing`, `compare`), and anything that knows where a metric goes.

    summarise([1.0, 2.0, 3.0]).median            # 2.0
    summarise_run(records)["stage4_decode_s.p95"]  # seconds
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fourstage.stages import SampleRecord

STAGE_METRICS = {
    "load": "stage1_load_s",
    "preprocess": "stage2_preprocess_s",
    "encode": "stage3_encode_s",
    "decode": "stage4_decode_s",
}
# metric name -> field of SampleRecord, in the order in which a reader wants them
SECONDS = {metric: f"{stage}_s" for stage, metric in STAGE_METRICS.items()} | {
    "total_s": "total_s",
    "prefill_s": "prefill_s",
    "ttft_s": "ttft_s",
}


@dataclass(frozen=True)
class Summary:
    """A sample of numbers in six figures, in the unit of the numbers."""

    n: int
    mean: float
    median: float
    p90: float
    p95: float
    std: float  # of the sample (n - 1); 0.0 for one number


def summarise(values: Sequence[float]) -> Summary:
    """Mean, median, tails and spread of at least one number, else ValueError.

    Percentiles interpolate linearly between the two nearest numbers (numpy's default, type 7 of Hyndman
    and Fan, The American Statistician 50, 1996).
    """
    if not len(values):
        raise ValueError("no values to summarise")
    array = np.asarray(values, dtype=np.float64)
    median, p90, p95 = np.percentile(array, [50, 90, 95])
    return Summary(
        n=len(array),
        mean=float(array.mean()),
        median=float(median),
        p90=float(p90),
        p95=float(p95),
        std=float(array.std(ddof=1)) if len(array) > 1 else 0.0,
    )


def summarise_run(records: Sequence[SampleRecord]) -> dict[str, float]:
    """The metrics of a run under the names of DESIGN.md; units are in the names, shares lie in 0 to 1."""
    if not records:
        return {}
    ok = [record for record in records if record.ok]
    metrics: dict[str, float] = {}
    for name, field in SECONDS.items():
        if values := _present(getattr(record, field) for record in ok):
            summary = summarise(values)
            for figure in ("mean", "median", "p90", "p95", "std"):
                metrics[f"{name}.{figure}"] = getattr(summary, figure)

    if values := _present(record.tpot_ms for record in ok):
        metrics["tpot_ms"] = summarise(values).median
    timed = [(r.output_tokens, r.decode_s) for r in ok if r.output_tokens is not None and r.decode_s is not None]
    if (seconds := sum(decode_s for _, decode_s in timed)) > 0:
        metrics["tokens_per_s"] = sum(tokens for tokens, _ in timed) / seconds
    for field in ("output_tokens", "input_tokens"):
        if values := _present(getattr(record, field) for record in ok):
            metrics[f"{field}.mean"] = summarise(values).mean
    if reasons := [record.finish_reason for record in ok if record.finish_reason is not None]:
        metrics["truncated_share"] = reasons.count("length") / len(reasons)
    if values := _present(record.peak_memory_bytes for record in ok):
        metrics["peak_memory_bytes"] = max(values)

    # counts are facts even where they are 0
    metrics["samples_ok"] = float(len(ok))
    metrics["samples_failed"] = float(len(records) - len(ok))
    return metrics


def _present(values: Iterable[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None]
