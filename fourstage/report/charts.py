"""Pictures of runs side by side: where the time goes, where a gap comes from, time against length, lengths.

Each comes with a sentence that says what it shows, for whoever cannot see it. Colours are Okabe and Ito's, and
hatches, markers or labels say the same in grey. Of many runs the first are shown. Left out: pictures of one run
(`run_charts.py`) and every figure, which `effects.py` found.

    for plot in plot_comparison(found):
        Path(f"{plot.name}.png").write_bytes(png(plot))
        page += svg(plot)  # to stand in HTML
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fourstage.comparison.effects import Comparison, Pairwise, RunData
from fourstage.comparison.pairing import QUANTITIES, PerKey, per_key
from fourstage.records.wording import seconds
from fourstage.report.run_charts import COLOURS, LINE
from fourstage.report.tables import without_rounding
from fourstage.stages import STAGES
from fourstage.stats.intervals import Interval, ratio_intervals
from fourstage.stats.trends import regression
from fourstage.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

MOST_BARS = 24  # runs
MOST_PANELS = 12
MOST_POINTS = 300  # of a run
MOST_BINS = 24
NAME = 30  # letters of a run's name
REST = "not timed apart"
HATCHES = {"load": "////", "preprocess": "....", "encode": "xxxx", "decode": "", REST: "oo"}
FILLS = COLOURS | {REST: "#BBBBBB"}
ON_FILL = {"load": "black", "preprocess": "black", "encode": "white", "decode": "white", REST: "black"}
LONGER, SHORTER, TOTAL, INK = LINE, "#009E73", "#999999", "#222222"
FONTS = ["DejaVu Sans", "Verdana", "Arial", "Noto Sans", "sans-serif"]


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure, its name as a file, and in words what it shows."""

    name: str
    title: str
    says: str
    figure: Figure


@dataclass(frozen=True)
class _Bar:
    """A run's mean seconds of a sample, by part of the total, in the order in which they follow each other."""

    name: str
    n: int
    parts: dict[str, Interval]
    total: Interval


def plot_comparison(comparison: Comparison) -> list[Plot]:
    """Of all runs together: stages, time against tokens, output tokens; a plot without data is left out."""
    made = (stage_bars(comparison), time_against_tokens(comparison), token_histograms(comparison))
    return [plot for plot in made if plot is not None]


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
    figure, axes = _figure(7.4, height)
    width = max(bar.total.estimate for bar in there)
    names = [part for part in FILLS if any(part in bar.parts for bar in there)]
    left = np.zeros(len(there))
    rows: Floats = np.arange(len(there), dtype=np.float64)
    for place, part in enumerate(names):
        values = np.array([bar.parts[part].estimate if part in bar.parts else 0.0 for bar in there])
        axes.barh(rows, values, left=left, height=0.66, color=FILLS[part], hatch=HATCHES[part], edgecolor="white",
                  linewidth=0.6, label=part)  # fmt: skip
        for row, bar in enumerate(there):
            if values[row] > 0.08 * width:
                share = f"{100 * values[row] / bar.total.estimate:.0f} %"
                share = f"{part} {share}" if values[row] > 0.22 * width else share  # else it does not fit
                box = {"facecolor": FILLS[part], "edgecolor": "none", "pad": 1.2}
                place_s = left[row] + 0.015 * width
                axes.text(place_s, row, share, ha="left", va="center", fontsize=8, color=ON_FILL[part], bbox=box)
        intervals = [bar.parts.get(part) for bar in there]
        # each stage's own at its end, one below another so that short stages stay apart
        _whiskers(axes, intervals, left, rows + 0.33 - 0.05 * place, 0.9)
        left += values
    _whiskers(axes, [bar.total for bar in there], np.zeros(len(there)), rows - 0.22, 1.8)
    for row, bar in enumerate(there):
        axes.text(_end(bar) + 0.012 * width, row, seconds(bar.total.estimate), va="center", fontsize=8.5, color=INK)
    axes.set_yticks(rows, [bar.name for bar in there])
    axes.set_ylim(len(there) - 0.45, -0.55)  # the first on top
    axes.set_xlim(0, max(map(_end, there)) + 0.12 * width)
    axes.set_xlabel("mean time of a sample (s)")
    axes.legend(ncols=len(names), loc="lower center", bbox_to_anchor=(0.45, 1.0), frameon=False, fontsize=8.5)
    over = f"the {len(common)} samples that all of them answered" if common else "each run's own samples, which differ"
    told = "; ".join(
        f"{bar.name} {seconds(bar.total.estimate)}: "
        + ", ".join(f"{part} {seconds(value.estimate)}" for part, value in bar.parts.items())
        for bar in there[:6]
    )
    more = f"; and {len(there) - 6} runs more" if len(there) > 6 else ""
    return Plot(
        "stages",
        f"Where the time of a sample goes: stage after stage, means over {over}{_of(comparison, MOST_BARS)}. Whiskers "
        f"are {100 * comparison.level:.0f} % intervals, thick of the total, thin of each stage at its end",
        f"Stacked bars of mean time: {told}{more}.",
        _laid_out(figure),
    )


def waterfall(pair: Pairwise, number: int = 1) -> Plot | None:
    """From the baseline's total to the target's, a step for each factor; None where nothing pairs."""
    found = pair.attribution
    if found is None:
        return None
    steps = [(one.label, without_rounding(one.contribution, found), one.share) for one in found.factors]
    rows = len(steps) + 2
    figure, axes = _figure(7.4, 0.9 + 0.36 * rows)
    ends = found.baseline_s + np.cumsum([0.0, *(step.estimate for _, step, _ in steps)])
    reached = [
        before + end
        for before, (_, step, _) in zip(ends, steps, strict=False)
        if _finite(step)
        for end in (step.low, step.high)
    ]
    low, high = (float(of([*ends, found.target_s, *reached])) for of in (min, max))
    # a small gap between long bars is shown from near their ends
    zoomed = high > 0 and (high - low) < 0.25 * high
    start = max(0.0, low - 0.4 * (high - low)) if zoomed and high > low else 0.0
    reach = high - start or 1.0
    for row, value in ((0, found.baseline_s), (rows - 1, found.target_s)):
        axes.barh(row, value - start, left=start, height=0.62, color=TOTAL, edgecolor=INK, linewidth=0.6)
        axes.text(value + 0.015 * reach, row, seconds(value), va="center", fontsize=8.5, color=INK)
    for row, (_, step, share) in enumerate(steps, start=1):
        before, after = ends[row - 1], ends[row]
        longer = step.estimate > 0
        style = {"color": LONGER, "hatch": "////"} if longer else {"color": SHORTER}
        edge = "white" if step.estimate else INK
        axes.barh(row, step.estimate, left=before, height=0.62, edgecolor=edge, linewidth=0.6, **style)
        right = max(before, after)
        if _finite(step):
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
    _whiskers(axes, [step for _, step, _ in steps], ends[:-1], np.arange(1.0, rows - 1), 1.2)
    axes.plot([ends[0], ends[0]], [-0.31, 1.31], color=INK, linewidth=0.6, linestyle=":")
    labels = [_name(pair.baseline_name), *(name for name, _, _ in steps), _name(pair.target_name)]
    axes.set_yticks(np.arange(rows), labels)
    axes.invert_yaxis()
    axes.set_xlim(start, high + 0.24 * (high - start))
    note = "; the axis does not begin at 0" if start else ""
    axes.set_xlabel(f"mean time of a sample (s){note}")
    told = ", ".join(
        f"{name} {'+' if step.estimate > 0 else '−'}{seconds(abs(step.estimate))}" for name, step, _ in steps
    )
    return Plot(
        f"waterfall_{number}",
        f"From {pair.baseline_name} to {pair.target_name}: what each factor adds (hatched) or takes away",
        f"Waterfall from {seconds(found.baseline_s)} to {seconds(found.target_s)} a sample: {told}.",
        _laid_out(figure),
    )


def time_against_tokens(comparison: Comparison) -> Plot | None:
    """Decode time against output tokens with the fitted line, a panel a run; None where all lengths are one."""
    points = [(run, *_lengths(run)) for run in _first(comparison, MOST_PANELS)]
    points = [(run, tokens, times) for run, tokens, times in points if len(tokens)]
    if not any(len(set(tokens.tolist())) > 1 for _, tokens, _ in points):
        return None
    figure, panels = _panels(len(points), 2.3)
    told = []
    ahead: tuple[Floats, Floats] | None = None
    for place, (axes, (run, tokens, times)) in enumerate(zip(panels, points, strict=True)):
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
        axes.set_title(f"{_name(run.name)}\n{text}", fontsize=8.5, loc="left")
        told.append(f"{_name(run.name)}: {text}")
        if place % _columns(len(points)) == 0:
            axes.set_ylabel("decode (s)")
    return Plot(
        "time_against_tokens",
        "Decode time against output tokens, with the line fitted by least squares (dashed: the baseline's)"
        + _of(comparison, MOST_PANELS),
        f"Scatter plots: {'; '.join(told)}.",
        _labelled(figure, "output tokens"),
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
    figure, panels = _panels(len(lengths), 1.7)
    for place, (axes, (run, tokens)) in enumerate(zip(panels, lengths, strict=True)):
        axes.hist(tokens, bins=edges.tolist(), color=COLOURS["preprocess"], edgecolor=INK, linewidth=0.6)
        axes.axvline(float(np.median(tokens)), color=LINE, linewidth=1.6, linestyle="--")
        axes.set_title(f"{_name(run.name)}\nmedian {np.median(tokens):g}, n = {len(tokens)}", fontsize=8.5, loc="left")
        if place % _columns(len(lengths)) == 0:
            axes.set_ylabel("samples")
        axes.yaxis.get_major_locator().set_params(integer=True)
    told = "; ".join(
        f"{_name(run.name)}: {tokens.min():g} to {tokens.max():g}, median {np.median(tokens):g}"
        for run, tokens in lengths
    )
    return Plot(
        "output_tokens",
        "Output tokens of each sample (dashed: the median)" + _of(comparison, MOST_PANELS),
        f"Histograms of output tokens: {told}.",
        _labelled(figure, "output tokens"),
    )


def png(plot: Plot) -> bytes:
    """The plot as a file of its own, the same bytes for the same data."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    image = io.BytesIO()
    with _drawing():
        # a canvas's own method draws once, where savefig draws twice
        FigureCanvasAgg(plot.figure).print_png(image, metadata={"Software": None})
    return image.getvalue()


def svg(plot: Plot) -> str:
    """The plot as an `<svg>` element to stand in HTML beside others: no ids but its own, no styles for the page."""
    import xml.etree.ElementTree as ET

    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    dpi = plot.figure.dpi
    image = io.BytesIO()
    with _drawing(), rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.name, "font.sans-serif": FONTS}):
        FigureCanvasSVG(plot.figure).print_svg(image, metadata={"Date": None, "Creator": None})
    plot.figure.set_dpi(dpi)  # an SVG is drawn at 72
    root = ET.fromstring(image.getvalue())
    for parent in root.iter():
        for child in list(parent):
            # a sheet of styles would hold for the whole page
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    values = [(_local(name), value) for node in root.iter() for name, value in node.attrib.items()]
    used = {value[1:] for name, value in values if name == "href"}
    used |= {name for _, value in values for name in re.findall(r"url\(#(.+?)\)", value)}
    for node in root.iter():
        node.tag = _local(node.tag)
        attributes = {_local(name): value.replace("url(#", f"url(#{plot.name}-") for name, value in node.attrib.items()}
        if "href" in attributes:
            attributes["href"] = f"#{plot.name}-{attributes['href'][1:]}"
        if (name := attributes.pop("id", None)) in used:
            attributes["id"] = f"{plot.name}-{name}"
        node.attrib = attributes
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": one_line(plot.says), "class": "plot"}
    return ET.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


@contextmanager
def _drawing() -> Iterator[None]:
    """A name may have letters that matplotlib's own font lacks; the browser's need not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def _bar(run: RunData, side: PerKey, common: set[str], comparison: Comparison) -> _Bar | None:
    rows = [i for i, key in enumerate(side.keys) if not common or key in common]
    totals = side.values[rows, QUANTITIES.index("total_s")]
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
        _name(run.name), len(rows), {part: intervals[part] for part in FILLS if part in intervals}, intervals["total"]
    )


def _end(bar: _Bar) -> float:
    """Where its longest whisker ends."""
    finite = [value.high - value.estimate for value in (bar.total, *list(bar.parts.values())[-1:]) if _finite(value)]
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


def _name(text: str) -> str:
    text = one_line(text)
    if len(text) > NAME:
        text = f"{text[: NAME // 2]}…{text[-(NAME - NAME // 2 - 1) :]}"
    return text.replace("$", r"\$")  # a dollar sign would start a formula


def _finite(interval: Interval) -> bool:
    return math.isfinite(interval.low) and math.isfinite(interval.high) and interval.high > interval.low


def _whiskers(
    axes: Axes, intervals: Sequence[Interval | None], starts: Floats, rows: NDArray[np.floating], width: float
) -> None:
    """The limits of what is known well enough to have any, each from where its bar starts."""
    known = [(i, one) for i, one in enumerate(intervals) if one is not None and _finite(one)]
    if not known:
        return
    places = [i for i, _ in known]
    middles = np.array([one.estimate for _, one in known])
    reach = [middles - [one.low for _, one in known], [one.high for _, one in known] - middles]
    axes.errorbar(starts[places] + middles, rows[places], xerr=np.clip(reach, 0, None), fmt="none", ecolor=INK,
                  elinewidth=width, capsize=1.5 + width, capthick=width)  # fmt: skip


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    """A figure of inches by inches with one pair of axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)
    return figure, axes


def _columns(n: int) -> int:
    return min(n, 3 if n != 4 else 2)


def _panels(n: int, height: float) -> tuple[Figure, list[Any]]:
    """n panels on common axes, at most three beside each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = _columns(n)
    figure = Figure(figsize=(7.4, 0.35 + height * -(-n // columns)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(-(-n // columns), columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    for axes in panels[n:]:
        axes.set_visible(False)
    return figure, panels[:n]


def _labelled(figure: Figure, text: str) -> Figure:
    figure.supxlabel(text, fontsize=9)
    return _laid_out(figure)


def _laid_out(figure: Figure) -> Figure:
    """Places settled once, not again for every file that is made of it."""
    engine = figure.get_layout_engine()
    if engine is not None:
        with _drawing():
            engine.execute(figure)
    figure.set_layout_engine("none")
    return figure
