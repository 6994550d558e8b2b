"""Plots show what the records hold."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest

from fourstage.records.plots import plot_run
from tests.builders import timed

RECORD = timed(prefill=1.0, token_s=(), output_tokens=10)
RUN = [replace(RECORD, key=f"clip_$_{n}", position=n, decode_s=0.5 + 0.02 * n, output_tokens=10 + n) for n in range(12)]


def test_a_run_has_three_plots_that_can_be_saved() -> None:
    plots = plot_run(RUN)
    assert set(plots) == {"stages", "output_tokens", "decode_s_against_output_tokens"}
    for figure in plots.values():
        figure.savefig(image := io.BytesIO(), format="png")
        assert image.getvalue().startswith(b"\x89PNG")


def test_axes_name_their_units() -> None:
    plots = plot_run(RUN)
    assert plots["stages"].axes[0].get_xlabel() == "time (s)"
    assert plots["output_tokens"].axes[0].get_xlabel() == "output tokens"
    assert plots["decode_s_against_output_tokens"].axes[0].get_ylabel() == "decode (s)"


def test_a_bar_reaches_the_sum_of_the_stages() -> None:
    axes = plot_run(RUN)["stages"].axes[0]
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert max(ends) == pytest.approx(0.1 + 0.2 + 0.3 + 0.5 + 0.02 * 11)
    assert len(axes.patches) == 4 * len(RUN)


def test_the_line_has_the_slope_of_the_decode() -> None:
    axes = plot_run(RUN)["decode_s_against_output_tokens"].axes[0]
    assert axes.get_legend().get_texts()[0].get_text().startswith("20.0 ms per token, 300 ms")


def test_many_samples_become_one_bar_per_stage() -> None:
    axes = plot_run([replace(RECORD, position=n) for n in range(41)])["stages"].axes[0]
    assert len(axes.patches) == 4
    assert "41 samples" in axes.get_xlabel()


def test_samples_of_one_length_have_no_plots_of_length() -> None:
    assert set(plot_run([RECORD, RECORD])) == {"stages"}


def test_no_plot_comes_from_no_data() -> None:
    assert plot_run([]) == {}
    assert plot_run([replace(RECORD, error="broken")]) == {}
    unmeasured = [replace(RECORD, load_s=None, decode_s=None, output_tokens=n) for n in (10, 20)]
    assert set(plot_run(unmeasured)) == {"output_tokens"}


def test_no_global_figure_is_left() -> None:
    plot_run(RUN)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_every_sample_is_counted_in_the_histogram() -> None:
    for tokens in ([1, 60], [7, 8, 9, 500], list(range(3, 64))):
        axes = plot_run([replace(RECORD, output_tokens=n) for n in tokens])["output_tokens"].axes[0]
        assert sum(bar.get_height() for bar in axes.patches) == len(tokens)
        assert len(axes.patches) <= 30


def test_a_samples_name_is_drawn_as_letters_that_steer_nothing_and_are_no_formula() -> None:
    axes = plot_run([replace(RECORD, key="${x} \x1b[31m\n\u202e")])["stages"].axes[0]
    assert axes.get_yticklabels()[0].get_text() == r"\${x} ␛[31m ⏎ \u202e"
