"""Measure one configuration in several fresh processes, and print how far they differ: the noise floor.

fourstage aa model=eventgpt                        # five processes
fourstage aa model=eventgpt precision=bf16 replicates=10

It takes all settings of a run, and is one: its run is in the store, where comparisons and `fourstage plan` find the
floor of this machine, model, weights, precision and engine. Exit codes are those of `fourstage run`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fourstage.cli.command import run_command
from fourstage.config.values import SettingError

if TYPE_CHECKING:
    from fourstage.records.columns import Columns
    from fourstage.stats.replicates import Floor

REPLICATES = 5  # where none are asked for


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""
    return run_command(__doc__, argv, aa_command)


def aa_command(words: Sequence[str]) -> int:
    """Measure, and print the floor of each figure. Gives the exit code. Raises UserError."""
    from fourstage.cli.run import execute, exit_code_of

    if any(word in ("-m", "--multirun") for word in words):
        raise SettingError(
            "fourstage aa measures one configuration: leave -m out, or use fourstage run -m replicates=5"
        )
    asked = [word.partition("=")[2] for word in words if word.startswith("replicates=")]
    if "1" in asked:
        raise SettingError("replicates=1: one process shows no difference between processes; give 2 or more")
    more = [] if asked else [f"replicates={REPLICATES}"]

    def measure() -> int:
        execution = execute([*words, *more])
        for outcome in execution.outcomes:
            if outcome.run_id is not None and outcome.status == "FINISHED" and outcome.delivered:
                _print_floor(outcome.run_id, words)
        return execution.code

    return exit_code_of(measure)


def _print_floor(run_id: str, words: Sequence[str]) -> None:
    """The floor that the run shows, and what the store knows with it."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from fourstage.comparison.floors import known_floors, processes
    from fourstage.config.compose import compose
    from fourstage.config.schema import check
    from fourstage.records.columns import Columns
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.reader import find_equal, records_file

    destination = Destination.of(check(compose(list(words))).tracking)
    (run,) = find_equal(destination, "attributes.run_id", run_id)
    with TemporaryDirectory() as folder:
        columns = Columns.read(records_file(destination, run, Path(folder)))
    floors = processes(columns).floors
    print_floors(columns, floors)
    known = known_floors(destination, run.tags.get("fourstage.machine", ""), run.params)
    if known is not None and known.runs > 1:
        from fourstage.comparison.floors import in_words

        print(f"with what the store knew before ({known.origin(time.time())}), {in_words(known.floors)}")


def print_floors(columns: Columns, floors: Mapping[str, Floor]) -> None:
    """A row for each figure: its median, how far two processes differ, and the spread between processes."""
    import numpy as np
    from rich import box
    from rich.table import Table

    from fourstage.comparison.floors import FLOORED, in_words, percent
    from fourstage.records.figures import DECODE, TOTAL
    from fourstage.screen import console

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", "median", "two processes differ by up to", "standard deviation between processes", "95 %"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    done = columns.measured.done
    for figure in FLOORED:
        if (found := floors.get(figure.field)) is None:
            continue
        low, high = found.limits()
        table.add_row(
            figure.heading,
            figure.cell(float(np.nanmedian(getattr(done, figure.field)))),
            percent(found.spread()),
            percent(found.sd),
            f"{percent(low)} to {percent(high)}",
        )
    screen = console()
    screen.print(table)
    largest = max((figure.field for figure in FLOORED[:4] if figure.field in floors), key=lambda f: floors[f].spread())
    replicates = max(found.replicates for found in floors.values())
    shown = dict.fromkeys((TOTAL.field, largest, DECODE.field))
    print(f"on this machine, {in_words(floors, tuple(shown))} ({replicates} processes)")
