"""List runs and sweeps of a store, newest first.

    fourstage ls
    fourstage ls model=videollava precision=bf16 valid=true
    fourstage ls sweep=night* limit=100

Every other word filters: a setting of the run (model=, precision=, temperature=, dataset=, model.frames=, …), or
name=, status=, valid=, sweep=, study=, host=, device=; `*` stands for any characters.

| setting | meaning |
|---|---|
| `uri=`, `experiment=` | the store and the experiment; `sqlite:///mlruns/mlflow.db`, `fourstage` |
| `limit=` | how many runs to show; 20, all with 0 |

Times are medians. `id` is the beginning of the run's id: it names the run in compare.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fourstage.cli.command import run_command
from fourstage.config.values import SettingError
from fourstage.records.figures import LISTED
from fourstage.records.units import MISSING
from fourstage.stages import UserError

if TYPE_CHECKING:
    from fourstage.tracking.reader import RunFacts

WORDS = {"uri": "sqlite:///mlruns/mlflow.db", "experiment": "fourstage", "limit": "20"}
FILTERS = ("model", "weights", "dataset", "precision", "generation", "temperature")  # the most used settings
COMPLETED = (*WORDS, *FILTERS, "name", "status", "valid", "sweep", "study", "host", "device")  # offered by the shell
ID_CHARS = 8


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""

    def command(words: Sequence[str]) -> int:
        from fourstage.comparison.filters import matching
        from fourstage.comparison.selection import is_parent
        from fourstage.tracking.destination import Destination
        from fourstage.tracking.reader import find_runs

        given, filters = _words(words)
        limit = _limit(given["limit"])
        runs = find_runs(Destination(given["uri"], None, given["experiment"]))
        found = [run for run in matching(runs, filters) if not is_parent(run)]
        if not found:
            raise UserError("no run fits" if runs else f"no runs in {given['uri']}")
        shown = found[:limit] if limit else found
        parents = {run.run_id: run for run in runs if is_parent(run)}
        _print(shown, parents)
        if len(shown) < len(found):
            print(f"{len(found) - len(shown)} more: limit=0 shows all")
        return 0

    return run_command(__doc__, argv, command)


def _words(words: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Where to look, and what to look for."""
    given, filters = dict(WORDS), dict[str, str]()
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise SettingError(f"{word!r} is not a filter: expected key=value, such as model=videollava")
        (given if key in WORDS else filters)[key] = value
    return given, filters


def _limit(text: str) -> int:
    if not text.isdigit():
        raise SettingError(f"limit={text}: expected a whole number, 0 for all")
    return int(text)


def _print(runs: Sequence[RunFacts], parents: Mapping[str, RunFacts]) -> None:
    """A table; the runs of one sweep stand together under its line."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from fourstage.screen import console
    from fourstage.text import one_line

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("started", "run", "state", "samples"):
        table.add_column(heading, no_wrap=heading != "run", overflow="fold")
    for heading in (*(figure.heading for figure in LISTED), "id"):
        table.add_column(heading, justify="left" if heading == "id" else "right", no_wrap=True)
    sweep = ""
    for run in _by_sweep(runs):
        parent = run.tags.get("mlflow.parentRunId", "")
        if parent and parent != sweep:
            found = parents.get(parent)
            name = found.tags.get("fourstage.sweep", found.name) if found else run.tags.get("fourstage.sweep", parent)
            state = "" if found is None else found.status
            table.add_row(
                _when(found or run),
                f"[bold]{escape(one_line(name))}[/bold]",
                state,
                *[""] * (1 + len(LISTED)),
                parent[:ID_CHARS],
            )
        sweep = parent
        figures = [figure.cell(run.metrics.get(figure.metric)) for figure in LISTED]
        indent = "  " if parent else ""
        counted = f"{run.metrics['samples_ok']:.0f}" if "samples_ok" in run.metrics else MISSING
        if run.metrics.get("samples_failed"):
            counted += f" ({run.metrics['samples_failed']:.0f} failed)"
        table.add_row(
            _when(run), f"{indent}{escape(one_line(run.name))}", _state(run), counted, *figures, run.run_id[:ID_CHARS]
        )  # fmt: skip
    console().print(table)


def _by_sweep(runs: Sequence[RunFacts]) -> list[RunFacts]:
    """The runs of a sweep together, at the place of its newest; sweeps may have run at the same time."""
    together: dict[str, list[RunFacts]] = {}
    for run in runs:
        together.setdefault(run.tags.get("mlflow.parentRunId", run.run_id), []).append(run)
    return [run for members in together.values() for run in members]


def _state(run: RunFacts) -> str:
    """`valid` or `INVALID` of a finished run, else its status."""
    if run.status != "FINISHED":
        return run.status
    return {"true": "valid", "false": "INVALID"}.get(run.tags.get("fourstage.valid", ""), "unchecked")


def _when(run: RunFacts) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started_unix_s))
