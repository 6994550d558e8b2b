"""Plots of one run: where the time of each sample went, how long the outputs are, and time against length.

Figures are made without pyplot, so nothing is global and no window opens. A plot without data is omitted.
Left out: plots that compare runs (`report/charts.py`).

    for name, figure in plot_run(records).items():
        figure.savefig(f"{name}.png")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fourstage.records.figures import DECODE, TOKENS_OUT
from fourstage.records.units import seconds as in_seconds
from fourstage.stages import STAGES, SampleRecord
from fourstage.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with every common colour vision deficiency (jfly.uni-koeln.de/color)
COLOURS = {"load": "#E69F00", "preprocess": "#56B4E9", "encode": "#009E73", "decode": "#0072B2"}
LINE = "#D55E00"
MOST_BARS = 40  # above it, bars of single samples cannot be read


def plot_run(records: Sequence[SampleRecord]) -> dict[str, Figure]:
    """The plots that the successful records allow, by file name without suffix."""
    ok = [record for record in records if record.ok]
    plots = {
        "stages": _stages(ok),
        TOKENS_OUT.name: _output_tokens(ok),
        f"{DECODE.field}_against_{TOKENS_OUT.name}": _decode_against_tokens(ok),
    }
    return {name: figure for name, figure in plots.items() if figure is not None}


def _stages(records: Sequence[SampleRecord]) -> Figure | None:
    timed = [record for record in records if all(_seconds(record, stage) is not None for stage in STAGES)]
    if not timed:
        return None
    seconds = np.array([[_seconds(record, stage) for stage in STAGES] for record in timed])  # [samples, 4]
    if len(timed) > MOST_BARS:
        return _figure(6.4, 2.6, lambda axes: _draw_means(axes, seconds))
    return _figure(6.4, 1.4 + 0.22 * len(timed), lambda axes: _draw_bars(axes, timed, seconds), left=2.0)


def _draw_bars(axes: Axes, records: Sequence[SampleRecord], seconds: np.ndarray) -> None:
    rows = np.arange(len(records))
    left = np.zeros(len(records))
    for column, stage in enumerate(STAGES):
        label = f"{stage} (cached)" if any(stage in record.cached_stages for record in records) else stage
        axes.barh(rows, seconds[:, column], left=left, color=COLOURS[stage], label=label)
        left += seconds[:, column]
    axes.set_yticks(rows, [_label(record) for record in records], fontsize=7)
    axes.invert_yaxis()  # the first sample on top
    axes.set_xlabel("time (s)")
    axes.set_ylabel("sample")
    axes.legend(ncols=len(STAGES), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def _draw_means(axes: Axes, seconds: np.ndarray) -> None:
    means = seconds.mean(axis=0)  # [4]
    low, high = np.percentile(seconds, [5, 95], axis=0)
    # a mean may lie outside its p5 to p95 where one sample is far off
    reach = np.clip([means - low, high - means], 0, None)
    axes.barh(STAGES, means, xerr=reach, color=[COLOURS[stage] for stage in STAGES], capsize=3)
    axes.invert_yaxis()
    axes.set_xlabel(f"time (s): mean and p5 to p95 of {len(seconds)} samples")
    axes.set_ylabel("stage")


def _output_tokens(records: Sequence[SampleRecord]) -> Figure | None:
    from matplotlib.ticker import MaxNLocator

    tokens = [record.output_tokens for record in records if record.output_tokens is not None]
    if len(set(tokens)) < 2:  # one block says nothing
        return None

    def draw(axes: Axes) -> None:
        width = -(-(max(tokens) - min(tokens) + 1) // 30)  # whole tokens a bar, at most 30 bars
        edges = np.arange(min(tokens), max(tokens) + width + 1, width) - 0.5
        axes.hist(tokens, bins=edges.tolist(), color=COLOURS["decode"])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("output tokens")
        axes.set_ylabel("samples")

    return _figure(6.4, 3.2, draw)


def _decode_against_tokens(records: Sequence[SampleRecord]) -> Figure | None:
    pairs = [(r.output_tokens, r.decode_s) for r in records if r.output_tokens is not None and r.decode_s is not None]
    if len({tokens for tokens, _ in pairs}) < 2:  # one length has no slope
        return None
    tokens, seconds = np.array(pairs, dtype=np.float64).T

    def draw(axes: Axes) -> None:
        axes.scatter(tokens, seconds, s=18, color=COLOURS["decode"], alpha=0.7)
        slope, intercept = np.polyfit(tokens, seconds, 1)
        ends = np.array([tokens.min(), tokens.max()])
        text = f"{in_seconds(slope)} per token, {in_seconds(intercept)} at 0"
        axes.plot(ends, intercept + slope * ends, color=LINE, label=text)
        axes.legend(frameon=False)
        axes.set_xlabel("output tokens")
        axes.set_ylabel("decode (s)")

    return _figure(6.4, 3.6, draw)


def _figure(width: float, height: float, draw: Callable[[Axes], None], left: float = 0.9) -> Figure:
    """A figure of inches by inches on the Agg canvas, with one pair of axes, `left` for their labels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100)
    # margins in inches: a layout that looks for them draws everything twice
    figure.subplots_adjust(left / width, 0.5 / height, 1 - 0.15 / width, 1 - 0.4 / height)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    return figure


def _seconds(record: SampleRecord, stage: str) -> float | None:
    value: float | None = getattr(record, f"{stage}_s")
    return value


def _label(record: SampleRecord) -> str:
    key = one_line(record.key)
    key = key if len(key) <= 28 else f"…{key[-27:]}"
    key = key.replace("$", r"\$")  # a dollar sign would start a formula
    return f"{key} #{record.repeat}" if record.repeat else key
