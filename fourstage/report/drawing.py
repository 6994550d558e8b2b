"""Drawing with matplotlib, without pyplot: figures, panels, whiskers, and a plot as PNG or SVG.

Left out: what is drawn (`charts.py`).

    png(plot)      # bytes of a file
    svg(plot)      # the same as SVG, for an <img>
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fourstage.stats.clusters import Floats
from fourstage.stats.intervals import Interval
from fourstage.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#222222"
NAME = 30  # letters of a run's name
FONTS = ["DejaVu Sans", "Verdana", "Arial", "Noto Sans", "sans-serif"]


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure, its name as a file, and in words what it shows."""

    name: str
    title: str
    says: str
    figure: Figure


def png(plot: Plot) -> bytes:
    """The plot as a file of its own, the same bytes for the same data."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    image = io.BytesIO()
    with drawing():
        # a canvas's own method draws once, where savefig draws twice
        canvas: Any = FigureCanvasAgg(plot.figure)
        canvas.print_png(image, metadata={"Software": None})
    return image.getvalue()


def svg(plot: Plot) -> bytes:
    """The plot as SVG for an `<img>`, the same bytes for the same data; its texts stay text, in the reader's font."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    dpi = plot.figure.dpi
    image = io.BytesIO()
    with drawing(), rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.name, "font.sans-serif": FONTS}):
        canvas: Any = FigureCanvasSVG(plot.figure)
        canvas.print_svg(image, metadata={"Date": None, "Creator": None})
    plot.figure.set_dpi(dpi)  # an SVG is drawn at 72
    return image.getvalue()


@contextmanager
def drawing() -> Iterator[None]:
    """Names may contain letters that matplotlib's own font does not have; the browser's fonts may."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def short_name(text: str) -> str:
    """A name of at most NAME letters, its middle left out, as text for matplotlib."""
    text = one_line(text)
    if len(text) > NAME:
        text = f"{text[: NAME // 2]}…{text[-(NAME - NAME // 2 - 1) :]}"
    return text.replace("$", r"\$")  # a dollar sign would start a formula


def label_name(text: str) -> str:
    """A name as a label of an axis: a long one in two lines, broken between settings, else its middle left out."""
    text = one_line(text)
    parts = text.split(" · ")
    for first in range(len(parts) - 1, 0, -1):
        lines = [" · ".join(parts[:first]) + " ·", " · ".join(parts[first:])]
        if len(text) > NAME and max(map(len, lines)) <= NAME:
            return "\n".join(lines).replace("$", r"\$")
    return short_name(text)


def is_finite(interval: Interval) -> bool:
    """Whether an interval has limits that can be drawn."""
    return math.isfinite(interval.low) and math.isfinite(interval.high) and interval.high > interval.low


def whiskers(
    axes: Axes, intervals: Sequence[Interval | None], starts: Floats, rows: NDArray[np.floating], width: float
) -> None:
    """The limits of what is known well enough to have any, each from where its bar starts."""
    known = [(i, one) for i, one in enumerate(intervals) if one is not None and is_finite(one)]
    if not known:
        return
    indexes = [i for i, _ in known]
    middles = np.array([one.estimate for _, one in known])
    reach = [middles - [one.low for _, one in known], [one.high for _, one in known] - middles]
    axes.errorbar(starts[indexes] + middles, rows[indexes], xerr=np.clip(reach, 0, None), fmt="none", ecolor=INK,
                  elinewidth=width, capsize=1.5 + width, capthick=width)  # fmt: skip


def new_figure(width: float, height: float) -> tuple[Figure, Any]:
    """A figure of inches by inches with one pair of axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)
    return figure, axes


def columns_of(n: int) -> int:
    """How many of n panels stand beside each other."""
    return min(n, 3 if n != 4 else 2)


def panels(n: int, height: float) -> tuple[Figure, list[Any]]:
    """n panels on common axes, at most three beside each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = columns_of(n)
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


def labelled(figure: Figure, text: str) -> Figure:
    """The figure with one label below all of its panels."""
    figure.supxlabel(text, fontsize=9)
    return laid_out(figure)


def laid_out(figure: Figure) -> Figure:
    """Places settled once, not again for every file that is made of it."""
    engine = figure.get_layout_engine()
    if engine is not None:
        with drawing():
            engine.execute(figure)
    figure.set_layout_engine("none")
    return figure
