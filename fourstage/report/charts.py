"""Plots of runs side by side: where the time goes, where a gap comes from, time against length, lengths.

Each comes with a sentence that says what it shows, for whoever cannot see it. Colours are Okabe and Ito's, and
hatches, markers or labels say the same in grey. Of many runs the first are shown. Left out: plots of one run
(`records/plots.py`) and every figure, which `effects.py` found.

    for name, plot in plots_of(layout).items():
        Path(f"{name}.png").write_bytes(png(plot))
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fourstage.comparison.effects import Comparison, Pairwise
from fourstage.comparison.pairing import QUANTITIES, PerKey, per_key
from fourstage.comparison.run_data import RunData
from fourstage.records.figures import TOKENS_OUT, TOTAL
from fourstage.records.plots import COLOURS, LINE
from fourstage.records.units import seconds
from fourstage.report import quality_chart
from fourstage.report.drawing import (
    INK,
    Plot,
    columns_of,
    is_finite,
    label_name,
    labelled,
    laid_out,
    new_figure,
    panels,
    short_name,
    whiskers,
)
from fourstage.report.layout import Layout
from fourstage.report.tables import without_rounding
from fourstage.stages import STAGES
from fourstage.stats.clusters import Floats
from fourstage.stats.intervals import Interval, ratio_intervals
from fourstage.stats.trends import regression

if TYPE_CHECKING:
    pass


STAGE_PLOTS = ("stages", quality_chart.NAME)
TOKEN_PLOTS = ("time_against_tokens", TOKENS_OUT.name)
MOST_BARS = 24  # runs

MOST_PANELS = 12

MOST_POINTS = 300  # of a run

MOST_BINS = 24

REST = "not timed apart"

# lines only: a pattern of dots takes 250 KB of SVG
HATCHES = {"load": "////", "preprocess": r"\\\\", "encode": "xxxx", "decode": "", REST: "--"}

FILLS = COLOURS | {REST: "#BBBBBB"}

ON_FILL = {"load": "black", "preprocess": "black", "encode": "white", "decode": "white", REST: "black"}

LONGER, SHORTER, WHOLE = LINE, "#009E73", "#999999"


@dataclass(frozen=True)
class _Bar:
    """A run's mean seconds of a sample, by part of the total, in the order in which they follow each other."""

    name: str
    n: int
    parts: dict[str, Interval]
    total: Interval


def plots_of(layout: Layout) -> dict[str, Plot]:
    """The plots of a report by name; a plot without data is omitted."""
    comparison = layout.subject.comparison
    made = [stage_bars(comparison), time_against_tokens(comparison), token_histograms(comparison)]
    made.append(quality_chart.speed_against_quality(comparison))
    made += [waterfall(one.pair, number) for number, one in enumerate(layout.pairs, start=1) if one.waterfall]
    return {plot.name: plot for plot in made if plot is not None}


def stage_bars(comparison: Comparison) -> Plot | None:
    """A bar a run, its stages one after another, over the samples that all of the runs shown answered."""
    shown = _first(comparison, MOST_BARS)
    sides = [per_key(run.columns) for run in shown]
    common = set(sides[0].keys).intersection(*(side.keys for side in sides[1:]))
    bars = [_bar(run, side, common, comparison) for run, side in zip(shown, sides, strict=True)]
    there = [bar for bar in bars if bar is not None]
    if not there:
        return None
    height = 1.1 + 0.42 * len(there)
    figure, axes = new_figure(7.4, height)
    width = max(bar.total.estimate for bar in there)
    names = [part for part in FILLS if any(part in bar.parts for bar in there)]
    left = np.zeros(len(there))
    rows: Floats = np.arange(len(there), dtype=np.float64)
    for index, part in enumerate(names):
        values = np.array([bar.parts[part].estimate if part in bar.parts else 0.0 for bar in there])
        axes.barh(rows, values, left=left, height=0.66, color=FILLS[part], hatch=HATCHES[part], edgecolor="white",
                  linewidth=0.6, label=part)  # fmt: skip
        for row, bar in enumerate(there):
            if values[row] > 0.08 * width:
                share = f"{100 * values[row] / bar.total.estimate:.0f} %"
                share = f"{part} {share}" if values[row] > 0.22 * width else share  # else it does not fit
                box = {"facecolor": FILLS[part], "edgecolor": "none", "pad": 1.2}
                left_s = left[row] + 0.015 * width
                axes.text(left_s, row, share, ha="left", va="center", fontsize=8, color=ON_FILL[part], bbox=box)
        intervals = [bar.parts.get(part) for bar in there]
        # each stage's own at its end, one below another so that short stages stay apart
        whiskers(axes, intervals, left, rows + 0.33 - 0.05 * index, 0.9)
        left += values
    whiskers(axes, [bar.total for bar in there], np.zeros(len(there)), rows - 0.22, 1.8)
    for row, bar in enumerate(there):
        axes.text(_end(bar) + 0.012 * width, row, seconds(bar.total.estimate), va="center", fontsize=8.5, color=INK)
    axes.set_yticks(rows, [bar.name for bar in there])
    axes.set_ylim(len(there) - 0.45, -0.55)  # the first on top
    axes.set_xlim(0, max(map(_end, there)) + 0.12 * width)
    axes.set_xlabel("mean time of a sample (s)")
    axes.legend(ncols=len(names), loc="lower center", bbox_to_anchor=(0.45, 1.0), frameon=False, fontsize=8.5)
    over = f"the {len(common)} samples that all of them answered" if common else "each run's own samples, which differ"
    described = "; ".join(
        f"{' '.join(bar.name.split())} {seconds(bar.total.estimate)}: "
        + ", ".join(f"{part} {seconds(value.estimate)}" for part, value in bar.parts.items())
        for bar in there[:6]
    )
    more = f"; and {len(there) - 6} runs more" if len(there) > 6 else ""
    return Plot(
        STAGE_PLOTS[0],
        f"Where the time of a sample goes: stage after stage, means over {over}{_of(comparison, MOST_BARS)}. Whiskers "
        f"are {100 * comparison.level:.0f} % intervals, thick of the total, thin of each stage at its end",
        f"Stacked bars of mean time: {described}{more}.",
        laid_out(figure),
    )


def waterfall(pair: Pairwise, number: int = 1) -> Plot | None:
    """From the baseline's total to the target's, a step for each factor; None where nothing pairs."""
    found = pair.attribution
    if found is None:
        return None
    steps = [(one.label, without_rounding(one.contribution, found), one.share) for one in found.factors]
    rows = len(steps) + 2
    figure, axes = new_figure(7.4, 0.9 + 0.36 * rows)
    ends = found.baseline_s + np.cumsum([0.0, *(step.estimate for _, step, _ in steps)])
    reached = [
        before + end
        for before, (_, step, _) in zip(ends, steps, strict=False)
        if is_finite(step)
        for end in (step.low, step.high)
    ]
    low, high = (float(of([*ends, found.target_s, *reached])) for of in (min, max))
    # a small gap between long bars is shown from near their ends
    zoomed = high > 0 and (high - low) < 0.25 * high
    start = max(0.0, low - 0.4 * (high - low)) if zoomed and high > low else 0.0
    reach = high - start or 1.0
    for row, value in ((0, found.baseline_s), (rows - 1, found.target_s)):
        axes.barh(row, value - start, left=start, height=0.62, color=WHOLE, edgecolor=INK, linewidth=0.6)
        axes.text(value + 0.015 * reach, row, seconds(value), va="center", fontsize=8.5, color=INK)
    for row, (_, step, share) in enumerate(steps, start=1):
        before, after = ends[row - 1], ends[row]
        longer = step.estimate > 0
        style = {"color": LONGER, "hatch": "////"} if longer else {"color": SHORTER}
        edge = "white" if step.estimate else INK
        axes.barh(row, step.estimate, left=before, height=0.62, edgecolor=edge, linewidth=0.6, **style)
        right = max(before, after)
        if is_finite(step):
            right = max(right, before + step.high)
        part = f" ({100 * share + 0.0:.0f} %)".replace("(-0 ", "(0 ").replace("-", "−") if math.isfinite(share) else ""
        sign = "+" if longer else "−" if step.estimate < 0 else ""
        axes.text(
            right + 0.015 * reach,
            row,
            f"{sign}{seconds(abs(step.estimate))}{part}",
            va="center",
            fontsize=8.5,
            color=INK,
        )
        axes.plot([after, after], [row - 0.31, row + 1.31], color=INK, linewidth=0.6, linestyle=":")
    whiskers(axes, [step for _, step, _ in steps], ends[:-1], np.arange(1.0, rows - 1), 1.2)
    axes.plot([ends[0], ends[0]], [-0.31, 1.31], color=INK, linewidth=0.6, linestyle=":")
    labels = [label_name(pair.baseline_name), *(name for name, _, _ in steps), label_name(pair.target_name)]
    axes.set_yticks(np.arange(rows), labels)
    axes.invert_yaxis()
    axes.set_xlim(start, high + 0.24 * (high - start))
    note = "; the axis does not begin at 0" if start else ""
    axes.set_xlabel(f"mean time of a sample (s){note}")
    described = ", ".join(
        f"{name} {'+' if step.estimate > 0 else '−'}{seconds(abs(step.estimate))}" for name, step, _ in steps
    )
    return Plot(
        f"waterfall_{number}",
        f"From {pair.baseline_name} to {pair.target_name}: what each factor adds (hatched) or takes away",
        f"Waterfall from {seconds(found.baseline_s)} to {seconds(found.target_s)} a sample: {described}.",
        laid_out(figure),
    )


def time_against_tokens(comparison: Comparison) -> Plot | None:
    """Decode time against output tokens with the fitted line, a panel a run; None where all lengths are one."""
    points = [(run, *_lengths(run)) for run in _first(comparison, MOST_PANELS)]
    points = [(run, tokens, times) for run, tokens, times in points if len(tokens)]
    if not any(len(set(tokens.tolist())) > 1 for _, tokens, _ in points):
        return None
    figure, shown = panels(len(points), 2.3)
    described = []
    ahead: tuple[Floats, Floats] | None = None
    for index, (axes, (run, tokens, times)) in enumerate(zip(shown, points, strict=True)):
        kept = np.unique(np.linspace(0, len(tokens) - 1, min(len(tokens), MOST_POINTS)).round().astype(int))
        axes.scatter(tokens[kept], times[kept], s=16, color=COLOURS["decode"], alpha=0.65, linewidths=0)
        if len(set(tokens.tolist())) > 1:
            line = regression(tokens, times)
            ends = np.array([tokens.min(), tokens.max()])
            fitted = line.intercept + line.slope * ends
            if ahead is not None:
                axes.plot(*ahead, color="#777777", linewidth=1.2, linestyle="--")
            axes.plot(ends, fitted, color=LINE, linewidth=1.8)
            ahead = (ends, fitted) if run is comparison.runs[comparison.baseline] else ahead
            text = f"{seconds(line.slope)} per token, n = {line.n}"
        else:
            text = f"all {len(tokens)} have {tokens[0]:g} tokens: no line"
        axes.set_title(f"{short_name(run.name)}\n{text}", fontsize=8.5, loc="left")
        described.append(f"{short_name(run.name)}: {text}")
        if index % columns_of(len(points)) == 0:
            axes.set_ylabel("decode (s)")
    return Plot(
        TOKEN_PLOTS[0],
        "Decode time against output tokens, with the line fitted by least squares (dashed: the baseline's)"
        + _of(comparison, MOST_PANELS),
        f"Scatter plots: {'; '.join(described)}.",
        labelled(figure, "output tokens"),
    )


def token_histograms(comparison: Comparison) -> Plot | None:
    """How long the outputs are, a panel a run on one scale; None where all lengths are one."""
    lengths = [(run, _lengths(run)[0]) for run in _first(comparison, MOST_PANELS)]
    lengths = [(run, tokens) for run, tokens in lengths if len(tokens)]
    every = np.concatenate([tokens for _, tokens in lengths]) if lengths else np.array([])
    if len(set(every.tolist())) < 2:
        return None
    low, high = int(every.min()), int(every.max())
    width = -(-(high - low + 1) // MOST_BINS)  # whole tokens a bar
    edges = np.arange(low, high + width + 1, width) - 0.5
    figure, shown = panels(len(lengths), 1.7)
    for index, (axes, (run, tokens)) in enumerate(zip(shown, lengths, strict=True)):
        axes.hist(tokens, bins=edges.tolist(), color=COLOURS["preprocess"], edgecolor=INK, linewidth=0.6)
        axes.axvline(float(np.median(tokens)), color=LINE, linewidth=1.6, linestyle="--")
        axes.set_title(
            f"{short_name(run.name)}\nmedian {np.median(tokens):g}, n = {len(tokens)}", fontsize=8.5, loc="left"
        )
        if index % columns_of(len(lengths)) == 0:
            axes.set_ylabel("samples")
        axes.yaxis.get_major_locator().set_params(integer=True)
    described = "; ".join(
        f"{short_name(run.name)}: {tokens.min():g} to {tokens.max():g}, median {np.median(tokens):g}"
        for run, tokens in lengths
    )
    return Plot(
        TOKEN_PLOTS[1],
        "Output tokens of each sample (dashed: the median)" + _of(comparison, MOST_PANELS),
        f"Histograms of output tokens: {described}.",
        labelled(figure, "output tokens"),
    )


def _bar(run: RunData, side: PerKey, common: set[str], comparison: Comparison) -> _Bar | None:
    rows = [i for i, key in enumerate(side.keys) if not common or key in common]
    totals = side.values[rows, QUANTITIES.index(TOTAL.field)]
    rows = [row for row, total in zip(rows, totals, strict=True) if math.isfinite(total)]
    if not rows:
        return None
    values = {name: side.values[rows, QUANTITIES.index(f"{name}_s")] for name in (*STAGES, "total")}
    kept = {name: times for name, times in values.items() if np.isfinite(times).all()}
    rest = kept["total"] - sum((kept[name] for name in STAGES if name in kept), np.zeros(len(rows)))
    if rest.mean() > 1e-3 * kept["total"].mean():
        kept[REST] = rest
    tops = np.stack(list(kept.values()), axis=1)
    found = ratio_intervals(tops, np.ones(tops.shape), len(rows), 0, comparison.resamples, comparison.level)
    intervals = dict(zip(kept, found, strict=True))
    return _Bar(
        label_name(run.name),
        len(rows),
        {part: intervals[part] for part in FILLS if part in intervals},
        intervals["total"],
    )


def _end(bar: _Bar) -> float:
    """Where its longest whisker ends."""
    finite = [value.high - value.estimate for value in (bar.total, *list(bar.parts.values())[-1:]) if is_finite(value)]
    return bar.total.estimate + max([0.0, *finite])


def _lengths(run: RunData) -> tuple[Floats, Floats]:
    """Output tokens and decode seconds of the samples that succeeded."""
    done = run.columns.measured.done
    there = np.isfinite(done.output_tokens) & np.isfinite(done.decode_s)
    return done.output_tokens[there], done.decode_s[there]


def _first(comparison: Comparison, most: int) -> list[RunData]:
    """The baseline, then the others in their order."""
    base = comparison.runs[comparison.baseline]
    return [base, *(run for run in comparison.runs if run is not base)][:most]


def _of(comparison: Comparison, most: int) -> str:
    n = len(comparison.runs)
    return f"; the baseline and the first {most - 1} of {n - 1} runs" if n > most else ""
