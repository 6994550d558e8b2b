"""A comparison on the screen, and in a few lines of Markdown.

Two runs get their figures, shares, facts and causes; more get a row each against the baseline, and their medians.
Whatever came from outside is shown as what it is: no markup of rich's, nothing that steers a terminal. Left out: the
whole report (`page.py`).

    print_comparison(console(), "sweep night", comparison)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.table import Table

from fourstage.comparison.attribution import Attribution, sentence
from fourstage.comparison.effects import Comparison, Pairwise, Row, RunData, Unpaired, Verdict
from fourstage.records.wording import at_least, plain, seconds, with_limits
from fourstage.screen import COLUMNS, shown, table_cells
from fourstage.stages import STAGES
from fourstage.text import markdown_cell

if TYPE_CHECKING:
    from rich.console import Console

    from fourstage.comparison.findings import Finding

MOST_RUNS = 40  # on the screen; compare.json has all
MOST_SENTENCES = 8
MOST_VALUES = 6  # of a setting
COLOURS = {Verdict.IMPROVED: "green", Verdict.REGRESSED: "red", Verdict.EQUIVALENT: "cyan", Verdict.INCONCLUSIVE: "dim"}


def print_comparison(screen: Console, title: str, found: Comparison) -> None:
    """Everything that a reader at a terminal asks of a comparison."""
    screen.print(f"[bold]{shown(title)}[/bold]")
    if len(found.pairs) == 1:
        _print_pair(screen, found, found.pairs[0])
    else:
        _print_many(screen, found)
    _print_settings(screen, found)


def print_notes(screen: Console, notes: Sequence[str], findings: Sequence[Finding]) -> None:
    """What else must be known, and what the study found."""
    for note in notes[:MOST_RUNS]:
        screen.print(f"[yellow]note[/yellow] {shown(note)}")
    if len(notes) > MOST_RUNS:
        screen.print(f"[yellow]… and {len(notes) - MOST_RUNS} more notes, in compare.json[/yellow]")
    colours = {"yes": "green", "no": "red"}
    for finding in findings:
        colour = colours.get(finding.answer, "yellow")
        screen.print(f"[{colour}]{shown(finding.answer)}[/{colour}]  [bold]{shown(finding.question)}[/bold]")
        screen.print(f"    {shown(finding.measured)}")


def result(pair: Pairwise) -> str:
    """The comparison of two runs in one sentence of plain text."""
    if pair.attribution is not None:
        return sentence(pair.attribution, pair.baseline_name, pair.target_name)
    return f"Nothing is claimed of {pair.target_name} against {pair.baseline_name}: no sample has a total time in both."


def markdown_summary(
    title: str, parts: Sequence[tuple[str, Comparison]], notes: Sequence[str], findings: Sequence[Finding]
) -> str:
    """The result, a table with a row a run, and the findings: what the sweep's parent says of itself in MLflow."""
    lines = [f"## {markdown_cell(title)}", ""]
    for label, found in parts:
        if label:
            lines += [f"### {markdown_cell(label)}", ""]
        lines += [markdown_cell(result(pair)) for pair in found.pairs[:1]] + [""]
        lines += ["| run | n | total (mean) | target / baseline | | verdict | TPOT | tokens out | least effect seen |"]
        lines += ["|---|---:|---:|---:|---|---|---:|---:|---:|"]
        for cells in _rows(found, MOST_RUNS):
            lines.append(f"| {' | '.join(map(markdown_cell, cells))} |")
        if len(found.runs) > MOST_RUNS:
            lines.append(f"\n… and {len(found.runs) - MOST_RUNS} more runs, in compare.json")
        lines.append("")
    for finding in findings:
        answer, question = markdown_cell(finding.answer), markdown_cell(finding.question)
        lines += [f"- **{question}** {answer}. {markdown_cell(finding.measured)}"]
    lines += [""] * bool(findings) + [f"- {markdown_cell(note)}" for note in notes[:MOST_RUNS]]
    return "\n".join(lines).strip() + "\n"


def effect(ratio: float) -> str:
    """`1.3 %`: the smallest slow-down that would have been seen; "none" where any might have been missed."""
    if not math.isfinite(ratio) or ratio > 100:
        return "none"
    percent = 100 * (ratio - 1)
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def value_of(value: float, unit: str) -> str:
    """A figure in its unit, three digits."""
    if math.isnan(value):
        return "-"
    if unit == "s":
        return seconds(value)
    if unit == "bytes":
        return with_bytes(value)
    return f"{plain(value, 4)} ms" if unit == "ms" else plain(value, 4)


def with_bytes(value: float) -> str:
    for size, name in ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")):
        if at_least(value, size):
            return f"{plain(value / size)} {name}"
    return f"{value:.0f} bytes"


def _print_pair(screen: Console, found: Comparison, pair: Pairwise) -> None:
    one, other = found.runs[found.baseline], next(run for run in found.runs if run.run_id == pair.target_id)
    screen.print(f"  baseline  {shown(one.name)}  {one.run_id}{_marks(one)}")
    screen.print(f"  target    {shown(other.name)}  {other.run_id}{_marks(other)}")
    _print_pairing(screen, pair)
    if not pair.rows:
        screen.print("no figure is in both runs: nothing is compared")
        return
    table = _table(
        screen, f"means over paired samples, {100 * found.level:.0f} % intervals; ratio is target / baseline"
    )
    table.add_column("", no_wrap=True)
    for column in ("n", "baseline", "target", "difference", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("in words", "verdict"):
        table.add_column(column)
    table.add_column("least effect seen", justify="right")
    for row in pair.rows:
        table.add_row(*_figures(row))
    screen.print(table)
    _print_legend(screen, found)
    _print_shares(screen, pair)
    _print_facts(screen, found)
    if pair.attribution is not None:
        _print_attribution(screen, pair.attribution)
    screen.print(shown(result(pair)))
    for label, stages, fill in (
        ("baseline", pair.cached_baseline, pair.cache_fill_baseline_s),
        ("target", pair.cached_target, pair.cache_fill_target_s),
    ):
        if stages:
            cost = f"filling took {seconds(fill)}, in no stage" if fill is not None else "what filling took is unknown"
            screen.print(f"[yellow]cached[/yellow] in the {label}: {' and '.join(stages)}; {cost}")


def _print_legend(screen: Console, found: Comparison) -> None:
    screen.print(
        "  in words: of the means, where difference and ratio both exclude none; verdict: of the samples' own ratios, "
        f"at {100 * found.alpha:g} %, equivalent within {100 * found.margin:g} %"
    )


def _figures(row: Row) -> list[str]:
    cached = row.baseline_cached, row.target_cached
    values = [
        value_of(value, row.unit) + (" (cached)" if kept else "")
        for value, kept in zip((row.baseline_mean, row.target_mean), cached, strict=True)
    ]
    ratio = "-" if math.isnan(row.ratio.estimate) else with_limits(row.ratio, "")
    least = effect(row.detectable_ratio) if row.verdict is not None else ""
    difference = with_limits(row.difference, row.unit if row.unit in ("s", "bytes", "ms") else "")
    return [row.name, str(row.n), *values, difference, ratio, row.text, _coloured(row.verdict), least]


def _coloured(verdict: Verdict | None) -> str:
    return f"[{COLOURS[verdict]}]{verdict}[/{COLOURS[verdict]}]" if verdict is not None else ""


def _print_pairing(screen: Console, pair: Pairwise) -> None:
    calls = f" in {pair.clusters} calls of the model" if pair.clusters < pair.n else ""
    parts = [f"{pair.n} samples pair{calls}"]
    for what, missing in (
        ("succeeded in the baseline only", pair.only_baseline),
        ("succeeded in the target only", pair.only_target),
        ("failed in the baseline", pair.failed_baseline),
        ("failed in the target", pair.failed_target),
    ):
        if missing.count:
            parts.append(f"{missing.count} {what} ({_keys(missing)})")
    screen.print(f"  {shown('; '.join(parts))}")


def _keys(missing: Unpaired) -> str:
    return ", ".join(missing.first) + (", …" if missing.count > len(missing.first) else "")


def _print_shares(screen: Console, pair: Pairwise) -> None:
    if not pair.shares:
        return
    table = _table(screen, "share of the total time of each run; the bottleneck is the largest")
    table.add_column("", no_wrap=True)
    for share in pair.shares:
        table.add_column(share.stage, justify="right")
    table.add_column("bottleneck")
    for side, bottleneck in (("baseline", pair.bottleneck_baseline), ("target", pair.bottleneck_target)):
        table.add_row(side, *(f"{100 * getattr(share, side):.1f} %" for share in pair.shares), bottleneck)
    screen.print(table)


def _print_facts(screen: Console, found: Comparison) -> None:
    """Source, operation and data size of each stage, as measured in both runs."""
    table = _table(screen, "what each stage worked on (medians)")
    table.add_column("", no_wrap=True)
    pair = found.pairs[0]
    places = (found.baseline, [run.run_id for run in found.runs].index(pair.target_id))
    for side in ("baseline", "target"):
        table.add_column(side)
    for i, stage in enumerate(STAGES):
        cells = []
        for place in places:
            facts = found.facts[place][i]
            read = f", {with_bytes(facts.bytes_read)} on disk" if stage == "load" and facts.bytes_read else ""
            cells.append(shown(facts.operation + read))
        table.add_row(stage, *cells)
    screen.print(table)


def _print_attribution(screen: Console, found: Attribution) -> None:
    table = _table(screen, f"where the gap comes from: parts that sum to it, over {found.n} samples")
    table.add_column("", no_wrap=True)
    for column in ("contribution a sample", "share of the gap", "as a factor of the ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    told = not found.gap.contains(0.0) and math.isfinite(found.gap.high - found.gap.low)
    for factor in found.factors:
        share = f"{round(100 * factor.share)} %" if told else "-"  # a share of a gap that may be none says nothing
        cached = " (cached in one run)" if factor.cached else ""
        table.add_row(factor.label + cached, with_limits(factor.contribution), share, _factor(factor.ratio))
    table.add_section()
    table.add_row("gap", with_limits(found.gap), "100 %" if told else "-", _factor(found.ratio.estimate))
    screen.print(table)


def _factor(ratio: float) -> str:
    return f"{ratio:.3f}" if math.isfinite(ratio) else "-"


def _rows(found: Comparison, most: int) -> Iterable[list[str]]:
    """A row a run: name, n, total, ratio, words, verdict, TPOT and tokens, smallest effect; the baseline first."""
    pairs = {pair.target_id: pair for pair in found.pairs}
    base = found.runs[found.baseline]
    done = base.columns.measured.done
    yield [
        f"{base.name} (baseline)" + ("" if base.valid else " INVALID"),
        str(len(np.unique(done.key_codes))),
        *(_mean(done.total_s, "s"), "", "", "", _mean(done.tpot_ms, "ms"), _mean(done.output_tokens, ""), ""),
    ]
    others = [run for run in found.runs if run.run_id in pairs and run is not base]
    for run in others[: most - 1]:
        pair = pairs[run.run_id]
        total, tpot, tokens = pair.row("total"), pair.row("TPOT"), pair.row("tokens out")
        yield [
            run.name + ("" if run.valid else " INVALID"),
            str(pair.n),
            value_of(total.target_mean, "s") if total else "-",
            with_limits(total.ratio, "") if total else "-",
            total.text if total else "-",
            str(pair.verdict),
            value_of(tpot.target_mean, "ms") if tpot else "-",
            value_of(tokens.target_mean, "") if tokens else "-",
            effect(pair.detectable_ratio),
        ]


def _mean(values: np.ndarray[tuple[int], np.dtype[np.float64]], unit: str) -> str:
    there = values[~np.isnan(values)]
    return value_of(float(there.mean()), unit) if len(there) else "-"


def _print_many(screen: Console, found: Comparison) -> None:
    shared = f"corrected over {len(found.pairs)} runs, at {100 * found.alpha:g} %"
    table = _table(screen, f"total time of a sample, over the samples that pair with the baseline; verdicts {shared}")
    table.add_column("run", overflow="fold")
    for column in ("n", "mean", "target / baseline"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("in words")
    table.add_column("verdict")
    for column in ("TPOT", "tokens out", "least effect seen"):
        table.add_column(column, justify="right")
    for name, *cells in _rows(found, MOST_RUNS):
        if verdict := cells[4]:
            cells[4] = _coloured(Verdict(verdict))
        table.add_row(shown(name), *cells)
    screen.print(table)
    if len(found.runs) > MOST_RUNS:
        screen.print(f"… and {len(found.runs) - MOST_RUNS} more runs, in compare.json")
    _print_legend(screen, found)
    _print_medians(screen, found.runs[:MOST_RUNS])
    for pair in found.pairs[:MOST_SENTENCES]:
        screen.print(shown(result(pair)))
        unpaired = (pair.only_baseline, pair.only_target, pair.failed_baseline, pair.failed_target)
        if any(missing.count for missing in unpaired):
            _print_pairing(screen, pair)
    if len(found.pairs) > MOST_SENTENCES:
        screen.print(f"… and {len(found.pairs) - MOST_SENTENCES} more sentences, in compare.json")


def _print_medians(screen: Console, runs: Sequence[RunData]) -> None:
    """Each run's own medians, stage by stage."""
    cached = any(run.columns.cached_stages for run in runs)
    table = _table(screen, "medians of each run over all that it answered")
    table.add_column("run", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        cells = table_cells(run.columns.measured, np.median)
        own = run.columns.cached_stages
        marked = [f"{cell} *" if column in own else cell for column, cell in zip(COLUMNS, cells, strict=True)]
        table.add_row(shown(run.name), *marked)
    screen.print(table)
    if cached:
        screen.print("  * cached: not the work of that stage, but what the cache took to serve it")


def _print_settings(screen: Console, found: Comparison) -> None:
    if found.settings:
        screen.print("settings that differ:")
    for setting in found.settings:
        values = list(dict.fromkeys(setting.values)) if len(setting.values) > 2 else list(setting.values)
        more = f", … ({len(values)} values)" if len(values) > MOST_VALUES else ""
        screen.print(f"  {shown(setting.name)}: {shown(', '.join(values[:MOST_VALUES]))}{more}")


def _marks(run: RunData) -> str:
    if run.valid:
        return ""
    return f"  [red]INVALID[/red] {shown(', '.join(run.checks_failed) or 'never checked')}"


def _table(screen: Console, title: str) -> Table:
    """A table under a line of its own: a title inside would be broken to the table's width."""
    screen.print(f"[italic]{title}[/italic]")
    return Table(box=box.SIMPLE_HEAD, pad_edge=False)
