"""Runs side by side: read → pair → compare → say.

python -m fourstage.compare                                # the last sweep, its first run as baseline
python -m fourstage.compare baseline=<id or name> target=<id or name>
python -m fourstage.compare sweep=<name> uri=http://host:5000
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from fourstage.config import SettingError, suggest
from fourstage.stages import SampleRecord, UserError
from fourstage.words import parse_words

if TYPE_CHECKING:
    from fourstage.tracking.read import RunFacts

WORDS = {"baseline": "", "target": "", "sweep": "", "uri": "sqlite:///mlruns/mlflow.db", "experiment": "fourstage"}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if any(word in ("-h", "--help") for word in argv):
        print(__doc__)
        return 0
    try:
        words = parse_words(argv, WORDS)
        print_comparison(words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def print_comparison(words: dict[str, str]) -> None:
    """Print a row for each run against the baseline. Raises UserError where there are no two runs to compare."""
    from fourstage.tracking.read import find_runs, run_records
    from fourstage.tracking.store import Destination

    where = Destination(words["uri"], None, words["experiment"])
    runs = choose_runs(find_runs(where), words["baseline"], words["target"], words["sweep"])
    records = [[r for r in run_records(where, run.run_id) if r.role == "sample"] for run in runs]
    _print_table([run.name for run in runs], records)
    _print_differences(runs)


def choose_runs(runs: Sequence[RunFacts], baseline: str, target: str, sweep: str) -> list[RunFacts]:
    """The runs to compare, the baseline first; `runs` come newest first. Raises UserError."""
    finished = [run for run in runs if run.status == "FINISHED"]
    if baseline or target:
        if not (baseline and target):
            raise SettingError("give both: baseline=<run id or name> target=<run id or name>")
        return [_find(finished, baseline), _find(finished, target)]
    sweeps = [run.tags["fourstage.sweep"] for run in finished if "fourstage.sweep" in run.tags]
    if not sweeps:
        raise UserError("no finished sweep in this store: run one with -m, or name baseline= and target=")
    wanted = sweep or sweeps[0]
    if wanted not in sweeps:
        raise SettingError(f"unknown sweep {wanted!r}; {suggest(wanted, sorted(set(sweeps)))}")
    chosen = [run for run in finished if run.tags.get("fourstage.sweep") == wanted]
    if len(chosen) < 2:
        raise UserError(f"sweep {wanted} has one finished run; a comparison needs two")
    return sorted(chosen, key=lambda run: int(run.tags["fourstage.job"]))


def _find(runs: Sequence[RunFacts], wanted: str) -> RunFacts:
    """The newest run of that id or name."""
    for run in runs:
        if wanted in (run.run_id, run.name):
            return run
    raise SettingError(f"no finished run {wanted!r}; {suggest(wanted, sorted({run.name for run in runs}))}")


def _print_table(names: Sequence[str], records: Sequence[Sequence[SampleRecord]]) -> None:
    """Medians of each run; under them the ratio to the baseline over the samples that pair."""
    import numpy as np
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from fourstage.analysis.columns import Columns
    from fourstage.analysis.pairing import pair, ratio
    from fourstage.screen import COLUMNS, console, table_cells

    table = Table(box=box.SIMPLE_HEAD, title="medians; ratios are target / baseline of means over paired samples")
    table.add_column("run")
    table.add_column("n", justify="right")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for i, (name, rows) in enumerate(zip(names, records, strict=True)):
        columns = Columns.of(rows)
        done = f"{len(columns.done)}/{len(columns)}"
        table.add_row(escape(name) + (" (baseline)" if i == 0 else ""), done, *table_cells(columns, np.median))
        if i:
            paired = pair(records[0], rows)
            ratios = [ratio(paired, attrgetter(attribute)) for attribute, _ in COLUMNS.values()]
            table.add_row(
                "  ratio", str(len(paired.both)), *(f"{value:.2f}x" if value is not None else "-" for value in ratios)
            )
    screen = console()
    screen.print(table)
    for name, rows in zip(names[1:], records[1:], strict=True):
        if (value := ratio(paired := pair(records[0], rows), attrgetter("total_s"))) is not None:
            if f"{value:.2f}" == "1.00":
                screen.print(f"{escape(name)} takes as long as {escape(names[0])} in total")
                continue
            word = "slower" if value > 1 else "faster"
            factor = value if value > 1 else 1 / value
            screen.print(
                f"{escape(name)} is {factor:.2f}x {word} than {escape(names[0])} in total, over {len(paired.both)} "
                "samples that both answered"
            )


def _print_differences(runs: Sequence[RunFacts]) -> None:
    """The settings in which the runs differ: a ratio is of these, not of the models alone."""
    from rich.markup import escape

    from fourstage.screen import console

    screen = console()
    for key in sorted({key for run in runs for key in run.params}):
        values = [run.params.get(key, "-") for run in runs]
        if len(set(values)) > 1 and not key.startswith("tracking."):
            screen.print(f"  {key}: {escape(', '.join(values))}")
    for run in runs:
        if run.tags.get("fourstage.valid") == "false":
            screen.print(f"[red]invalid[/red] {escape(run.name)}: {run.tags.get('fourstage.checks_failed', '')}")
        if (warned := run.tags.get("fourstage.checks_warned", "none")) != "none":
            screen.print(f"[yellow]warned[/yellow] {escape(run.name)}: {warned}")


if __name__ == "__main__":
    sys.exit(main())
