"""The table of figures: what is measured of a sample, under which name, in which unit, and where it is shown.

Every metric, table, chart and view reads it, so that a figure is spelled once. docs/figures.md is this table for
readers. Left out: how a number becomes text (`units.py`), and what a run's metrics are made of (`summary.py`).

    TTFT.metric                              # "ttft_s.median": the run's main metric
    [figure.heading for figure in RUN_TABLE]     # the columns of the table at the end of a run
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fourstage.records.units import MISSING, amount, significant
from fourstage.stages import STAGES

Kind = Literal["time", "rate", "count", "size", "score"]
DISTRIBUTION = ("mean", "median", "p90", "p95", "p99", "std", "mad")  # of a figure whose metrics describe all samples


@dataclass(frozen=True)
class Figure:
    """One figure. `field` is an attribute of SampleRecord and of Columns, except for a rate (see `summary.py`)."""

    name: str  # in MLflow
    field: str
    heading: str  # in tables
    unit: str  # "s", "ms", "tokens", "tokens/s", "bytes" or "%"
    kind: Kind  # how a ratio is described
    meaning: str
    of_run: str = "median"  # what the run's main metric is of its samples'
    statistics: tuple[str, ...] = DISTRIBUTION  # suffixes of the run's metrics; (): the name alone
    per_sample: str = ""  # metric with one value a sample; "": none
    stage: str = ""  # a stage that can come from the run's cache

    @property
    def metric(self) -> str:
        """The run's main metric."""
        return f"{self.name}.{self.of_run}" if self.statistics else self.name

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that a run has of it."""
        return tuple(f"{self.name}.{statistic}" for statistic in self.statistics) or (self.name,)

    @property
    def ms(self) -> str:
        """Its name where MLflow shows raw numbers: `load_ms` for times, else its own."""
        return f"{self.field.removesuffix('_s')}_ms" if self.unit == "s" else self.name

    @property
    def column(self) -> str:
        """The metric that MLflow's table of runs shows: times in milliseconds."""
        return self.ms if self.unit == "s" else self.metric

    def in_ms(self, value: float) -> float:
        """A time in milliseconds, to three digits."""
        return significant(1000 * value if self.unit == "s" else value, 3)

    def cell(self, value: float | None) -> str:
        """A value under its heading: `41.2 ms`, `48`; a dash where there is none."""
        return MISSING if value is None else amount(value, "" if self.kind == "count" else self.unit)

    @property
    def better(self) -> int:
        """-1: less is better; 1: more is; 0: neither."""
        return {"time": -1, "size": -1, "rate": 1, "count": 0, "score": 1}[self.kind]


def _stage(stage: str, meaning: str) -> Figure:
    name = f"stage{STAGES.index(stage) + 1}_{stage}_s"
    return Figure(name, f"{stage}_s", stage, "s", "time", meaning, per_sample=name, stage=stage)


def _time(field: str, heading: str, meaning: str) -> Figure:
    return Figure(field, field, heading, "s", "time", meaning, per_sample=field)


def _score(name: str, heading: str, unit: str, meaning: str) -> Figure:
    """A figure of quality, 0 to 100; docs/figures.md."""
    return Figure(f"quality.{name}", f"quality_{name}", heading, unit, "score", meaning, of_run="mean", statistics=())


LOAD = _stage("load", "stage 1: from disk to uint8 images in memory")
PREPROCESS = _stage("preprocess", "stage 2: from images and question to tensors on the device")
ENCODE = _stage("encode", "stage 3: vision tower and projector, to visual features")
DECODE = _stage("decode", "stage 4: prefill and one token at a time, to text")
PREFILL = _time("prefill_s", "prefill", "the part of decode up to the first token")
TOTAL = _time("total_s", "total", "sum of the four stages")
TTFT = _time("ttft_s", "TTFT", "time to first token: start of load to the first token")
TPOT = Figure(
    "tpot_ms", "tpot_ms", "TPOT", "ms", "time", "time per output token after the first",
    statistics=(), per_sample="sample_tpot_ms",  # the plain name is the run's figure: one name, one meaning
)  # fmt: skip
TOKENS_IN = Figure(
    "input_tokens", "input_tokens", "tokens in", "tokens", "count", "text and visual tokens of the prompt",
    of_run="mean", statistics=("mean",),
)  # fmt: skip
TOKENS_OUT = Figure(
    "output_tokens", "output_tokens", "tokens out", "tokens", "count", "tokens of the answer",
    of_run="mean", statistics=("mean",), per_sample="output_tokens",
)  # fmt: skip
TOKENS_PER_S = Figure(
    "tokens_per_s", "tokens_per_s", "tokens/s", "tokens/s", "rate", "output tokens by seconds of decode",
    of_run="sum by sum", statistics=(),
)  # fmt: skip
PEAK_MEMORY = Figure(
    "peak_memory_bytes", "peak_memory_bytes", "peak memory", "bytes", "size",
    "GPU: the allocator's peak; CPU: the process's resident set", of_run="largest", statistics=(),
)  # fmt: skip

ACCURACY = _score("accuracy", "accuracy", "%", "facts of a scene that an answer has right, of those asked or stated")
CHOICE = _score("choice", "choice", "%", "multiple choices answered by the right option")
CHRF = _score("chrf", "chrF", "", "n-grams of characters shared with the reference")
BLEU = _score("bleu", "BLEU", "", "n-grams of words shared with the reference")
ROUGE_L = _score("rouge_l", "ROUGE-L", "", "longest sequence of words shared with the reference")
QUALITY = (ACCURACY, CHOICE, CHRF, BLEU, ROUGE_L)

FIGURES = (
    LOAD, PREPROCESS, ENCODE, PREFILL, DECODE, TOTAL, TTFT, TPOT, TOKENS_IN, TOKENS_OUT, TOKENS_PER_S, PEAK_MEMORY,
    *QUALITY,
)  # fmt: skip
OF_STAGE = (LOAD, PREPROCESS, ENCODE, DECODE)
SUMMARISED = (*OF_STAGE, TOTAL, PREFILL, TTFT)  # with their whole distribution
PER_SAMPLE = (*SUMMARISED, TPOT, TOKENS_OUT)  # logged for each sample

# where they are shown, in the order in which they are shown there
RUN_TABLE = (*OF_STAGE, PREFILL, TOTAL, TTFT, TPOT, TOKENS_IN, TOKENS_OUT)
COMPARISON = tuple(figure for figure in FIGURES if figure not in (BLEU, ROUGE_L))  # each row costs the others power
JOBS = (*OF_STAGE, TOTAL, TTFT, TPOT, TOKENS_OUT)
LISTED = (*OF_STAGE, TOTAL, TPOT, TOKENS_OUT)
VIEW_COLUMNS = (*OF_STAGE, TOTAL, TPOT, TOKENS_OUT, TTFT, TOKENS_IN, TOKENS_PER_S, ACCURACY)
VIEW_CHARTS = (TOTAL, TPOT, TOKENS_OUT, *OF_STAGE, TTFT, TOKENS_IN, TOKENS_PER_S)
PLOTS = (*OF_STAGE, TOTAL, TOKENS_OUT)
SHOWN_IN = {
    "the table at the end of a run": RUN_TABLE,
    "the lines of quality at the end of a run": QUALITY,
    "compare": COMPARISON,
    "a sweep's table of jobs": JOBS,
    "fourstage ls": LISTED,
    "columns of MLflow's view": VIEW_COLUMNS,
    "charts of MLflow's view": VIEW_CHARTS,
    "plots": PLOTS,
}


def for_table(metrics: Mapping[str, float]) -> dict[str, float]:
    """A run's metrics as MLflow's table, which shows raw numbers, can show them.

    The main metrics of its columns have four digits; those of times are also there in milliseconds, with three. A
    stage that came from the cache has no column.
    """
    shown = dict(metrics)
    for figure in VIEW_COLUMNS:
        if (value := metrics.get(figure.metric)) is not None:
            shown[figure.metric] = significant(value, 4)
            if figure.unit == "s":
                shown[figure.ms] = figure.in_ms(value)
    return shown


def cached_name(metric: str) -> str:
    """`stage1_load_s` → `stage1_load_cached_s`: where a stage was not executed, its metric has another name, so that
    no chart shows it as a fast one."""
    name, _, unit = metric.rpartition("_")
    return f"{name}_cached_{unit}"
