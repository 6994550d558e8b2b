"""What a run says on the screen: a progress bar while it goes, one table when it is done.

with Progress(len(planned)) as progress:
    progress.advance(record)
print_run("eventgpt-demo", run_id, "FINISHED", file, columns, checks, reached, "sqlite:///mlruns/mlflow.db")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box, progress
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fourstage.credentials import masked
from fourstage.records.columns import Columns
from fourstage.records.wording import at_least, plain
from fourstage.stages import STAGES, SampleRecord
from fourstage.stats.intervals import bootstrap_interval
from fourstage.text import one_line, printable

if TYPE_CHECKING:
    from fourstage.records.table import RecordFile
    from fourstage.trust.checks import Check

MOST_FAULTS = 5  # as many are told on the screen; all are on the records


class _Console(Console):
    """A console that shows what would steer a terminal; only rich's own styles do. No word becomes an emoji."""

    def render_str(self, text: str, **options: Any) -> Text:  # every text that is printed passes here
        return super().render_str(printable(masked(text)), **options)


def console(stderr: bool = False) -> Console:
    """A console whose width does not cut a table when the output goes to a file."""
    made = _Console(stderr=stderr, highlight=False, emoji=False)
    return made if made.is_terminal else _Console(stderr=stderr, highlight=False, emoji=False, width=170)


def shown(text: str) -> str:
    """Text from outside for `console`, on one line, without a meaning as markup."""
    return escape(one_line(text))


class Progress:
    """A bar over samples; silent where the output is no terminal."""

    def __init__(self, total: int, done: int = 0):
        screen = console(stderr=True)
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            console=screen,
            transient=True,
            disable=not screen.is_terminal,
            auto_refresh=False,  # no thread draws while a stage is timed
        )
        self._task = self._bar.add_task("samples", total=total, completed=done)
        self._failed = 0

    def __enter__(self) -> Progress:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def expect(self, total: int) -> None:
        """So many samples are planned by now."""
        self._bar.update(self._task, total=total)

    def advance(self, record: SampleRecord) -> None:
        """One sample is done."""
        self._failed += not record.ok
        label = f"samples [red]({self._failed} failed)[/red]" if self._failed else "samples"
        self._bar.update(self._task, advance=1, description=label)
        self._bar.refresh()


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


def milliseconds(seconds: float) -> str:
    """`41.2 ms`, `1.84 s`: three digits in the unit that fits."""
    return f"{plain(seconds)} s" if at_least(seconds, 1) else f"{plain(1000 * seconds)} ms"


COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {  # heading → attribute of records, how it is shown
    **{stage: (f"{stage}_s", milliseconds) for stage in STAGES},
    "prefill": ("prefill_s", milliseconds),  # the part of decode up to the first token
    "total": ("total_s", milliseconds),
    "TTFT": ("ttft_s", milliseconds),
    "TPOT": ("tpot_ms", lambda value: f"{plain(value)} ms"),
    "tokens in": ("input_tokens", lambda value: f"{value:.0f}"),
    "tokens out": ("output_tokens", lambda value: f"{value:.0f}"),
}


def table_cells(columns: Columns, choose: Callable[[Any], float]) -> list[str]:
    """One figure a column, chosen from the successful samples; a dash where there is none."""
    cells = []
    for attribute, show in COLUMNS.values():
        values = getattr(columns.done, attribute)
        values = values[~np.isnan(values)]
        cells.append(show(float(choose(values))) if len(values) else "-")
    return cells


def heading(column: str, cached: Sequence[str]) -> str:
    """A column's name, and that its figure is not that of work done where stages came from the cache."""
    if column in cached:
        return f"{column}\ncached"
    return f"{column}\nwithout fill" if cached and column in ("total", "TTFT") else column


def fill_line(columns: Columns) -> str:
    """What was cached, and what filling it took; nothing for a run without a cache."""
    done = columns.done
    if not (stages := done.cached_stages):
        return ""
    filled = done.where(~np.isnan(done.cache_fill_s))
    _, first = np.unique(filled.key_codes, return_index=True)  # repeats share one filling
    seconds = filled.cache_fill_s[first]
    what = " and ".join(stages) + (" (images; text is tokenised each time)" if "preprocess" in stages else "")
    return (
        f"[yellow]cached[/yellow] {what}: filling took {milliseconds(float(np.median(seconds)))} a sample (median), "
        f"{milliseconds(float(seconds.sum()))} in all, before the measurement"
    )


def interval_cells(columns: Columns) -> list[str]:
    """The 95 % interval of each column's median; a dash where n is too small for one.

    Repeats of a sample are taken together, or the samples of a batch: they share its time.
    """
    cells = []
    done = columns.done
    clusters = done.calls if done.batch_size.max(initial=1) > 1 else done.key_codes
    for attribute, show in COLUMNS.values():
        values = getattr(done, attribute)
        present = ~np.isnan(values)
        cell = "-"
        if present.any():
            found = bootstrap_interval(values[present], "median", clusters=clusters[present], resamples=1000)
            if np.isfinite([found.low, found.high]).all():
                cell = _range(show(found.low), show(found.high))
        cells.append(cell)
    return cells


def _failure(record: SampleRecord) -> str:
    """Which sample failed, where and why, for rich."""
    return f"{shown(sample_name(record.sample_id, record.key))} in {record.error_stage}: {shown(record.error or '')}"


def sample_name(sample_id: str, key: str) -> str:
    """A sample as its dataset calls it, with the key by which runs pair where that is another: `c4 (day/c4.npy)`."""
    return f"{sample_id} ({key})" if sample_id and sample_id != key else key


def _range(low: str, high: str) -> str:
    """`4.9…5.3 ms`: the unit once, where it is the same."""
    number, _, unit = low.partition(" ")
    return f"{number}…{high}" if unit == high.partition(" ")[2] else f"{low}…{high}"


REACHED = {"encode": ("encode_mfu", "MFU"), "prefill": ("prefill_mfu", "MFU"), "TPOT": ("decode_mbu", "MBU")}


def print_run(
    name: str,
    run_id: str,
    status: str,
    file: RecordFile,
    columns: Columns,
    checks: Sequence[Check],
    reached: Mapping[str, float],
    wrote_to: str,
) -> None:
    """One table: median and range of each stage, tokens, TTFT, TPOT, total, and what share of the device's limits
    that is; then faults and checks, name and id. The file is closed."""
    screen = console()
    done = file.count - file.failed
    if done:
        table = Table(box=box.SIMPLE_HEAD, title=f"{shown(name)}   n={done}", title_justify="left")
        table.add_column("", no_wrap=True)
        for column in COLUMNS:
            table.add_column(heading(column, columns.cached_stages), justify="right", no_wrap=True)
        for label, choose in (("median", np.median), ("least", np.min), ("most", np.max)):
            table.add_row(label, *table_cells(columns, choose))
            if label == "median" and "-" not in (cells := interval_cells(columns))[:4]:
                table.add_row("  95 %", *cells)
        if reached:
            shares = [REACHED.get(column) for column in COLUMNS]
            table.add_row(
                "of the device",
                *(f"{reached[found[0]]:.2g} {found[1]}" if found and found[0] in reached else "" for found in shares),
            )
        screen.print(table)
        if line := fill_line(columns):
            screen.print(line)
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
    else:
        print_checks(screen, checks)
    state = "[green]FINISHED[/green]" if status == "FINISHED" else f"[red]{status}[/red]"
    screen.print(
        f"{state}  {done} ok, {file.failed} failed   run [bold]{shown(name)}[/bold]  id {run_id}  in {shown(wrote_to)}"
    )
