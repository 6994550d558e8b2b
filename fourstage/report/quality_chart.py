"""The plot of speed against quality: a point a run, and which runs no other beats in both.

front([(0.2, 90.0), (0.1, 80.0), (0.3, 85.0)])       # [0, 1]: the third is slower and worse than the first
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fourstage.comparison.effects import Comparison
from fourstage.records.columns import Columns
from fourstage.records.figures import ACCURACY, CHRF, TOTAL, Figure
from fourstage.records.plots import COLOURS, LINE
from fourstage.records.units import plain, seconds
from fourstage.report.drawing import INK, Plot, is_finite, laid_out, new_figure, short_name
from fourstage.stats.intervals import Interval, bootstrap_interval

NAME = "speed_against_quality"
MOST_POINTS = 24  # runs


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the points (seconds, score) that no other beats: none is as fast and better, or faster and as
    good."""
    return [
        index
        for index, (time, score) in enumerate(points)
        if not any(
            other_time <= time and other_score >= score and (other_time, other_score) != (time, score)
            for other_time, other_score in points
        )
    ]


def speed_against_quality(comparison: Comparison) -> Plot | None:
    """Mean time of a sample against the mean score of its answer, with intervals; the front is joined by a line.

    The score is accuracy where a run has it, else chrF. None where fewer than two runs have it.
    """
    runs = comparison.runs[:MOST_POINTS]
    figure = next((one for one in (ACCURACY, CHRF) if sum(_has(run.columns, one) for run in runs) > 1), None)
    if figure is None:
        return None
    shown = [run for run in runs if _has(run.columns, figure)]
    times = [_mean(run.columns, TOTAL.field, comparison) for run in shown]
    scores = [_mean(run.columns, figure.field, comparison) for run in shown]
    best = front([(time.estimate, score.estimate) for time, score in zip(times, scores, strict=True)])
    canvas, axes = new_figure(7.4, 3.6)
    for index, (run, time, score) in enumerate(zip(shown, times, scores, strict=True)):
        colour = LINE if index in best else COLOURS["decode"]
        axes.errorbar(
            time.estimate, score.estimate, xerr=_reach(time), yerr=_reach(score, 100.0),
            fmt="D" if index in best else "o", color=colour, ecolor=INK, elinewidth=0.9, capsize=2,
        )  # fmt: skip
        offset = (6, (5, -12, 15)[index % 3])  # names of points that are near each other stay apart
        at = (time.estimate, score.estimate)
        axes.annotate(short_name(run.name), at, xytext=offset, textcoords="offset points", fontsize=8, color=INK)
    line = sorted((times[index].estimate, scores[index].estimate) for index in best)
    axes.plot([time for time, _ in line], [score for _, score in line], color=LINE, linewidth=1.2, linestyle="--")
    axes.set_xlabel("mean time of a sample (s)")
    axes.set_ylabel(f"{figure.heading} ({figure.unit})" if figure.unit else figure.heading)
    axes.set_xlim(left=0)
    axes.margins(x=0.25, y=0.15)
    described = "; ".join(
        f"{short_name(run.name)} {seconds(time.estimate)}, {plain(score.estimate)}{' (front)' * (index in best)}"
        for index, (run, time, score) in enumerate(zip(shown[:8], times, scores, strict=False))
    )
    return Plot(
        NAME,
        f"Speed against quality: up and left is better. Diamonds, joined by a line, are the front, which no other run "
        f"beats in both. Whiskers are {100 * comparison.level:.0f} % intervals over samples",
        f"Points of mean time and mean {figure.heading}: {described}.",
        laid_out(canvas),
    )


def _has(columns: Columns, figure: Figure) -> bool:
    done = columns.measured.done
    return bool((np.isfinite(getattr(done, figure.field)) & np.isfinite(done.total_s)).any())


def _mean(columns: Columns, field: str, comparison: Comparison) -> Interval:
    done = columns.measured.done
    values = getattr(done, field)
    there = np.isfinite(values)
    return bootstrap_interval(
        values[there], "mean", clusters=done.key_codes[there], resamples=comparison.resamples, level=comparison.level
    )


def _reach(interval: Interval, most: float = math.inf) -> list[list[float]] | None:
    """How far the whiskers reach, below and above, within 0 and `most`; None without limits to draw."""
    if not is_finite(interval) or not math.isfinite(interval.estimate):
        return None
    low, high = max(interval.low, 0.0), min(interval.high, most)
    return [[max(0.0, interval.estimate - low)], [max(0.0, high - interval.estimate)]]
