"""A comparison on the screen: the tables, remarks and sentences of a layout.

Every text from outside is shown on one line and without what steers a terminal. Left out: what is shown
(`layout.py`); texts and plots, which are in the files.

    print_layout(console(), layout)
    print_notes(console(), notes, findings)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table as RichTable

from fourstage.report.tables import Cell, Table
from fourstage.screen import shown
from fourstage.stats.verdicts import CLAIMS, Verdict

if TYPE_CHECKING:
    from rich.console import Console

    from fourstage.comparison.findings import Finding
    from fourstage.comparison.gate import Gate
    from fourstage.report.layout import Layout

MOST_ROWS = 40  # of a table, and notes; compare.json has all
MOST_SENTENCES = 8
COLOURS = {
    Verdict.IMPROVED.value: "green",
    Verdict.REGRESSED.value: "red",
    Verdict.EQUIVALENT.value: "cyan",
    Verdict.INCONCLUSIVE.value: "dim",
    Verdict.NOT_REPLICATED.value: "yellow",
    Verdict.INVALID.value: "red",
    "bottleneck": "yellow",
    "cached": "italic",
    "invalid": "red",
}
REMARKS = {"bad": "[red]do not use:[/red]", "warned": "[yellow]mind:[/yellow]", "note": "[yellow]note:[/yellow]"}


def print_layout(screen: Console, layout: Layout) -> None:
    """Everything that a reader at a terminal asks of a comparison; the result is at the end."""
    screen.print(f"[bold]{shown(layout.subject.title)}[/bold]", soft_wrap=True)
    if layout.overview is not None:
        for table in (layout.overview, layout.factors, layout.ranking):
            if table is not None:
                _print_table(screen, table)
        if layout.medians is not None:
            _print_table(screen, layout.medians)
    else:
        (pair,) = layout.pairs
        for role, name, run_id in (
            ("baseline", pair.pair.baseline_name, pair.pair.baseline_id),
            ("target", pair.pair.target_name, pair.pair.target_id),
        ):
            screen.print(f"  {role:<9} {shown(name)}  {run_id}", soft_wrap=True)
        for table in (pair.stages, layout.facts, pair.attribution):
            if table is not None:
                _print_table(screen, table)
        screen.print(shown(layout.basis))
    if layout.settings is not None:
        _print_table(screen, layout.settings)
    for remark in layout.remarks:
        screen.print(f"{REMARKS[remark.kind]} {shown(remark.text)}")
    if layout.overview is not None:
        claims = [pair for pair in layout.pairs if pair.pair.verdict in (*CLAIMS, Verdict.EQUIVALENT)]
        for pair in claims[:MOST_SENTENCES]:
            screen.print(shown(pair.sentence))
        if (more := len(claims) - MOST_SENTENCES) > 0:
            screen.print(f"… and {more} more sentences, in compare.json")
    screen.print(f"[bold]{shown(layout.headline)}[/bold]")


def print_notes(screen: Console, notes: Sequence[str], findings: Sequence[Finding]) -> None:
    """What else must be known, and what the study found."""
    for note in notes[:MOST_ROWS]:
        screen.print(f"{REMARKS['note']} {shown(note)}")
    if len(notes) > MOST_ROWS:
        screen.print(f"[yellow]… and {len(notes) - MOST_ROWS} more notes, in compare.json[/yellow]")
    colours = {"yes": "green", "no": "red"}
    for finding in findings:
        colour = colours.get(finding.answer, "yellow")
        screen.print(f"[{colour}]{shown(finding.answer)}[/{colour}]  [bold]{shown(finding.question)}[/bold]")
        screen.print(f"    {shown(finding.measured)}")


def print_gate(screen: Console, gate: Gate) -> None:
    """Whether the conditions of `fail_on=` let the comparison pass; nothing where there are none."""
    if not gate.fail_on:
        return
    outcome = "[red]failed[/red]" if gate.failed else "[green]passed[/green]"
    screen.print(f"gate {outcome} (fail_on={','.join(gate.fail_on)})", soft_wrap=True)
    for target in gate.unjudged[:MOST_ROWS]:
        screen.print(f"    [yellow]cannot tell:[/yellow] {shown(target)}", soft_wrap=True)
    for reason in gate.reasons[:MOST_ROWS]:
        screen.print(f"    {shown(reason)}", soft_wrap=True)
    if (more := len(gate.reasons) - MOST_ROWS) > 0:
        screen.print(f"    … and {more} more reasons, in compare.json")


def _print_table(screen: Console, made: Table) -> None:
    """The table under a line with its title: rich would wrap a title inside to the table's width."""
    screen.print(f"[italic]{shown(made.title)}[/italic]")
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    numeric = [any(row[i].value is not None for row in made.rows) for i in range(len(made.columns))]
    for name, number in zip(made.columns, numeric, strict=True):
        heading = "\n".join(shown(name).rsplit(" ", 1)) if number else shown(name)  # a number is not broken
        table.add_column(heading, justify="right" if number else "left", overflow="fold", no_wrap=number)
    for i, row in enumerate(made.rows[:MOST_ROWS]):
        if made.last_is_sum and i == len(made.rows) - 1:
            table.add_section()
        table.add_row(*map(_cell, row))
    screen.print(table)
    if len(made.rows) > MOST_ROWS:
        screen.print(f"… and {len(made.rows) - MOST_ROWS} more rows, in compare.json")


def _cell(cell: Cell) -> str:
    text = shown(cell.text)
    if (colour := COLOURS.get(cell.mark)) and text:
        text = f"[{colour}]{text}[/{colour}]"
    return f"{text}\n[dim]{shown(cell.detail)}[/dim]" if cell.detail else text
