"""The metrics of one run, from its records: medians, tails, tokens a second, time per token over the context.

Only samples that succeeded enter a figure; a figure without data is absent, never 0.

    summarise([1.0, 2.0, 3.0]).median                # 2.0
    summarise_run(records)["stage4_decode_s.p95"]    # seconds
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fourstage.records.columns import Columns
from fourstage.records.figures import PEAK_MEMORY, SUMMARISED, TOKENS_IN, TOKENS_OUT, TOKENS_PER_S, TPOT, cached_name
from fourstage.stages import SampleRecord
from fourstage.stats.clusters import Floats, Values
from fourstage.stats.trends import Slope, theil_sen


@dataclass(frozen=True)
class Summary:
    """A sample of numbers in eight figures, in the unit of the numbers."""

    n: int
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    std: float  # of the sample (n - 1); 0.0 for one number
    mad: float  # median absolute deviation x 1.4826: estimates the standard deviation of normal data


@dataclass(frozen=True)
class TpotOverContext:
    """Time per output token as a function of the tokens that it attends to."""

    slope: Slope  # milliseconds per 1000 tokens of context; intercept in milliseconds
    context_tokens: float  # median over the decode steps
    at_context_ms: float  # time per output token there
    samples: int  # that the steps came from; `slope.n` counts the steps


def summarise(values: Values) -> Summary:
    """Mean, median, tails and spread of at least one number, else ValueError.

    Percentiles interpolate linearly between the two nearest numbers (numpy's default, type 7 of Hyndman
    and Fan, The American Statistician 50, 1996). The MAD is scaled by 1.4826 = 1 / Phi^-1(3/4) (Rousseeuw and
    Croux, JASA 88, 1993), so that it compares with `std`: far below it, the spread comes from outliers.
    """
    if not len(values):
        raise ValueError("no values to summarise")
    array = np.asarray(values, dtype=np.float64)
    median, p90, p95, p99 = np.percentile(array, [50, 90, 95, 99])
    return Summary(
        n=len(array),
        mean=float(array.mean()),
        median=float(median),
        p90=float(p90),
        p95=float(p95),
        p99=float(p99),
        std=float(array.std(ddof=1)) if len(array) > 1 else 0.0,
        mad=1.4826 * float(np.median(np.abs(array - median))),
    )


def summarise_run(records: Sequence[SampleRecord] | Columns) -> dict[str, float]:
    """The metrics of a run (docs/figures.md); units are in the names, shares lie in 0 to 1."""
    run = records if isinstance(records, Columns) else Columns.of(records)
    if not len(run):
        return {}
    done = run.done
    metrics: dict[str, float] = {}
    for figure in SUMMARISED:
        if len(values := _present(getattr(done, figure.field))):
            summary = summarise(values)
            name = cached_name(figure.name) if figure.stage in done.cached_stages else figure.name
            metrics |= {f"{name}.{statistic}": getattr(summary, statistic) for statistic in figure.statistics}

    if len(values := _present(done.tpot_ms)):
        metrics[TPOT.metric] = float(np.median(values))
    timed = ~np.isnan(done.output_tokens) & ~np.isnan(done.decode_s)
    if (seconds := float(done.decode_s[timed].sum())) > 0:
        metrics[TOKENS_PER_S.metric] = float(done.output_tokens[timed].sum()) / seconds
    for figure in (TOKENS_OUT, TOKENS_IN):
        if len(values := _present(getattr(done, figure.field))):
            metrics[figure.metric] = float(values.mean())
    if ended := int((done.finish_reason_codes >= 0).sum()):
        length = done.finish_reasons.index("length") if "length" in done.finish_reasons else None
        metrics["truncated_share"] = (
            0.0 if length is None else float((done.finish_reason_codes == length).sum()) / ended
        )
    if len(values := _present(done.peak_memory_bytes)):
        metrics[PEAK_MEMORY.metric] = float(values.max())

    # counts are facts even where they are 0
    metrics["samples_ok"] = float(len(done))
    metrics["samples_failed"] = float(len(run) - len(done))
    return metrics


def tpot_over_context(records: Sequence[SampleRecord], level: float = 0.95) -> TpotOverContext | None:
    """What a longer context costs: the time of each decode step against the tokens that it attends to.

    Step i (from 0) of a sample attends to its input tokens, its first token and the i tokens since. The slope is
    `theil_sen` over the steps of all samples with the keys as clusters: steps of one sample share a clock speed.
    Of more than 1000 samples with steps, 1000 evenly spaced ones are used. None where no step was timed or all
    had the same context.
    """
    timed = [record for record in records if record.ok and record.token_s and record.input_tokens is not None]
    if len(timed) > 1000:
        timed = [timed[i] for i in np.linspace(0, len(timed) - 1, 1000).round().astype(int)]
    if not timed:
        return None
    steps = np.array([len(record.token_s) for record in timed])
    context = np.concatenate([(record.input_tokens or 0) + 1.0 + np.arange(len(record.token_s)) for record in timed])
    if context.min() == context.max():
        return None
    step_ms = 1000 * np.concatenate([np.asarray(record.token_s, dtype=np.float64) for record in timed])
    codes: dict[str, int] = {}
    owner = np.repeat([codes.setdefault(record.key, len(codes)) for record in timed], steps)
    line = theil_sen(context, step_ms, owner, level)
    median = float(np.median(context))
    return TpotOverContext(
        slope=Slope(1000 * line.slope, 1000 * line.low, 1000 * line.high, line.intercept, level, line.n),
        context_tokens=median,
        at_context_ms=line.intercept + line.slope * median,
        samples=len(timed),
    )


def _present(values: Floats) -> Floats:
    return values[~np.isnan(values)]
