"""What a run prints at its end: one table of its figures, its faults, its checks, its name and id.

print_run("eventgpt-demo", run_id, "FINISHED", file, columns, checks, reached, "sqlite:///mlruns/mlflow.db")
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from fourstage.records.columns import Columns
from fourstage.records.figures import ENCODE, PREFILL, QUALITY, RUN_TABLE, TOTAL, TPOT, TTFT, Figure
from fourstage.records.units import MISSING, between, seconds
from fourstage.screen import console, sample_name, shown
from fourstage.stages import SampleRecord
from fourstage.stats.intervals import bootstrap_interval

if TYPE_CHECKING:
    from fourstage.records.table import RecordFile
    from fourstage.trust.check import Check

MOST_ANSWERS = 3  # shown on the screen beside their references
MOST_FAULTS = 5  # shown on the screen; all are on the records
REACHED = {  # figure → metric of the share of the device's limit that it reached, and its name
    ENCODE: ("encode_mfu", "MFU"),
    PREFILL: ("prefill_mfu", "MFU"),
    TPOT: ("decode_mbu", "MBU"),
}


def print_checks(screen: Console, checks: Sequence[Check]) -> None:
    """How many passed, and each one that did not, with what was found."""
    count = Counter(check.verdict for check in checks)
    parts = [f"{number} {verdict}" for verdict, number in count.items()]
    mark = "[red]INVALID[/red]" if count["fail"] else "[green]valid[/green]"
    screen.print(f"{mark}  checks: {', '.join(parts)}")
    colours = {"fail": "red", "warn": "yellow", "not possible": "dim"}
    for check in checks:
        if check.verdict == "pass":
            continue
        colour = colours[check.verdict]
        screen.print(f"  [{colour}]{check.verdict}[/{colour}] {shown(check.line)}")


def table_cells(columns: Columns, choose: Callable[[Any], float]) -> list[str]:
    """One figure a column, chosen from the successful samples; a dash where there is none."""
    cells = []
    for figure in RUN_TABLE:
        values = getattr(columns.done, figure.field)
        values = values[~np.isnan(values)]
        cells.append(figure.cell(float(choose(values)) if len(values) else None))
    return cells


def heading(figure: Figure, cached: Sequence[str]) -> str:
    """A column's heading; it says where a figure is not that of work done, since stages came from the cache."""
    if figure.stage in cached:
        return f"{figure.heading}\ncached"
    return f"{figure.heading}\nwithout fill" if cached and figure in (TOTAL, TTFT) else figure.heading


def fill_line(columns: Columns) -> str:
    """What was cached, and how long filling took; "" for a run without a cache."""
    done = columns.done
    if not (stages := done.cached_stages):
        return ""
    filled = done.where(~np.isnan(done.cache_fill_s))
    _, first = np.unique(filled.key_codes, return_index=True)  # repeats share one filling
    fill_s = filled.cache_fill_s[first]
    what = " and ".join(stages) + (" (images; text is tokenised each time)" if "preprocess" in stages else "")
    return (
        f"[yellow]cached[/yellow] {what}: filling took {seconds(float(np.median(fill_s)))} a sample (median), "
        f"{seconds(float(fill_s.sum()))} in all, before the measurement"
    )


def interval_cells(columns: Columns) -> list[str]:
    """The 95 % interval of each column's median; a dash where n is too small for one.

    Repeats of a sample are taken together, or the samples of a batch: they share its time.
    """
    cells = []
    done = columns.done
    clusters = done.calls if done.batch_size.max(initial=1) > 1 else done.key_codes
    for figure in RUN_TABLE:
        values = getattr(done, figure.field)
        present = ~np.isnan(values)
        cell = MISSING
        if present.any():
            found = bootstrap_interval(values[present], "median", clusters=clusters[present], resamples=1000)
            if np.isfinite([found.low, found.high]).all():
                cell = between(found.low, found.high, "" if figure.kind == "count" else figure.unit)
        cells.append(cell)
    return cells


def quality_line(columns: Columns) -> str:
    """Each score's mean with its 95 % interval over the samples that have one; "" where none has."""
    done = columns.done
    parts = []
    for figure in QUALITY:
        values = getattr(done, figure.field)
        present = ~np.isnan(values)
        if not present.any():
            continue
        mean = float(values[present].mean())
        found = bootstrap_interval(values[present], "mean", clusters=done.key_codes[present], resamples=1000)
        low, high = max(found.low, 0.0), min(found.high, 100.0)  # a score lies in 0 to 100, its interval too
        limits = f" [{low:.0f}, {high:.0f}]" if np.isfinite([found.low, found.high]).all() else ""
        parts.append(f"{figure.heading} {mean:.1f}{figure.unit and ' '}{figure.unit}{limits} n={present.sum()}")
    return f"[bold]quality[/bold]  {'   '.join(parts).replace('[', chr(92) + '[')}" if parts else ""


def answer_line(record: SampleRecord, width: int) -> str:
    """A question, its answer and the reference on one line of about so many characters."""
    parts = [record.question or "", record.output or "(nothing)", record.reference]
    left = max(60, width - 16)
    shares = (0.28, 0.40, 0.32) if record.reference else (0.35, 0.65, 0.0)
    question, output, reference = (
        shown(textwrap.shorten(" ".join(part.split()), max(8, int(share * left)), placeholder="…"))
        for part, share in zip(parts, shares, strict=True)
    )
    return f"  [dim]{question}[/dim] {output}" + (f" [dim]reference: {reference}[/dim]" if record.reference else "")


def _failure(record: SampleRecord) -> str:
    """Which sample failed, where and why, for rich."""
    return f"{shown(sample_name(record.sample_id, record.key))} in {record.error_stage}: {shown(record.error or '')}"


def print_run(
    name: str,
    run_id: str,
    status: str,
    file: RecordFile,
    columns: Columns,
    checks: Sequence[Check],
    reached: Mapping[str, float],
    wrote_to: str,
    remark: str = "",
) -> None:
    """One table: median and range of each stage, tokens, TTFT, TPOT, total, and what share of the device's limits
    that is; then faults and checks, name and id. The file is closed."""
    screen = console()
    done = file.count - file.failed
    if done:
        table = Table(box=box.SIMPLE_HEAD, title=f"{shown(name)}   n={done}", title_justify="left")
        table.add_column("", no_wrap=True)
        for figure in RUN_TABLE:
            table.add_column(heading(figure, columns.cached_stages), justify="right", no_wrap=True)
        for label, choose in (("median", np.median), ("least", np.min), ("most", np.max)):
            table.add_row(label, *table_cells(columns, choose))
            if label == "median" and MISSING not in (cells := interval_cells(columns))[:4]:
                table.add_row("  95 %", *cells)
        if reached:
            shares = [REACHED.get(figure) for figure in RUN_TABLE]
            table.add_row(
                "of the device",
                *(f"{reached[found[0]]:.2g} {found[1]}" if found and found[0] in reached else "" for found in shares),
            )
        screen.print(table)
        if line := fill_line(columns):
            screen.print(line)
        if line := quality_line(columns):
            screen.print(line)
        for record in islice((record for record in file if record.role == "sample" and record.ok), MOST_ANSWERS):
            screen.print(answer_line(record, screen.width), soft_wrap=True)
    faulty = (record for record in file if record.role == "sample" and not record.ok)
    nothing = file.failed > 0 and not done
    for record in islice(faulty, MOST_FAULTS if file.failed and not nothing else 0):
        screen.print(f"[red]failed[/red] {_failure(record)}", soft_wrap=True)
    if file.failed > MOST_FAULTS and not nothing:
        screen.print(f"[red]… and {file.failed - MOST_FAULTS} more failed samples[/red]")
    for note in islice(file.notes, MOST_FAULTS):
        screen.print(f"[yellow]note[/yellow] {shown(note)}")
    if nothing:  # no check can be made of such a run: its cause is what there is to say
        all_of_them = f"all {file.failed} failed, first" if file.failed > 1 else "it failed:"
        screen.print(f"[red]INVALID[/red]  no sample succeeded; {all_of_them} {_failure(next(faulty))}", soft_wrap=True)
    elif file.count:  # of a run that failed before its first sample the cause was said
        print_checks(screen, checks)
    if remark:
        screen.print(f"[yellow]note[/yellow] {shown(remark)}")
    state = "[green]FINISHED[/green]" if status == "FINISHED" else f"[red]{status}[/red]"
    screen.print(
        f"{state}  {done} ok, {file.failed} failed   run [bold]{shown(name)}[/bold]  id {run_id}  in {shown(wrote_to)}"
    )
