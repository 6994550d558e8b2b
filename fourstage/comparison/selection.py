"""Which runs are compared: the last sweep's, those of a named one, two by name, or what a search finds.

Finished runs with records are compared; the others of the sweep are left out, with the reason. Left out: opening
their files (`build.py`), and the comparison.

    chosen = select_runs(destination, Words(sweep="night", by=("model",)))
    chosen.runs[chosen.baseline].name, chosen.left_out
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fourstage.config.values import SettingError, suggest
from fourstage.records.units import first_few
from fourstage.stages import UserError
from fourstage.text import say

if TYPE_CHECKING:
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.reader import RunFacts

PARENT = "tags.`fourstage.role` = 'parent'"
MOST_LETTERS = 80  # of a word that a message repeats
MOST_SHARED = 20  # runs of one name that a message lists
PREFIX = re.compile(r"[0-9a-f]{6,32}")  # of a run's id
NAMES = 1000  # newest runs whose names are looked through for one that was meant


@dataclass(frozen=True)
class Words:
    """What was asked for; "" where it was not."""

    baseline: str = ""  # run id or name
    target: str = ""
    sweep: str = ""  # a sweep's tag, its parent's name or its parent's run id
    filter: str = ""  # in MLflow's search language
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """A run that was asked for and is not compared."""

    name: str
    run_id: str
    why: str


@dataclass(frozen=True)
class Chosen:
    """The runs to compare, in order."""

    name: str  # of the sweep, or of the two runs
    runs: tuple[RunFacts, ...]  # finished ones
    baseline: int  # its index in `runs`; if it was not named, another may be taken
    left_out: tuple[LeftOut, ...]
    parent: RunFacts | None  # of the sweep, where there is one
    named: bool = False  # the baseline was asked for


def select_runs(destination: Destination, words: Words) -> Chosen:
    """Find the runs that the words name. Raises UserError where they name none, or fewer than two."""
    if words.target and (words.sweep or words.filter):
        raise SettingError("target= names one run: give it with baseline= alone, or leave it out")
    if words.target or (words.baseline and not (words.sweep or words.filter)):
        if not (words.target and words.baseline):
            raise SettingError(
                "give both: baseline=<run id or name> target=<run id or name>; or baseline= with sweep= or filter="
            )
        return _two(destination, words)
    if words.filter and not words.sweep:
        return _searched(destination, words)
    parent, name = _sweep(destination, words.sweep)
    return _of_sweep(destination, name, parent, words)


def children(destination: Destination, parent_id: str) -> Chosen:
    """The runs of a sweep by its parent's run id, as `select_runs` gives them; they may be fewer than two."""
    from fourstage.tracking.reader import children_of, find_equal

    parents = find_equal(destination, "attributes.run_id", parent_id, newest=1)
    parent = parents[0] if parents else None
    name = parent.tags.get("fourstage.sweep", parent.name) if parent else parent_id
    runs, left_out = _finished(in_order(children_of(destination, parent_id)))
    return Chosen(name, runs, 0, left_out, parent)


def in_order(runs: Sequence[RunFacts]) -> list[RunFacts]:
    """As jobs are numbered, then as they began."""
    last = 2**31
    return sorted(
        runs,
        key=lambda run: (
            int(job) if (job := run.tags.get("fourstage.job", "")).isdigit() else last,
            run.started_unix_s,
            run.run_id,
        ),
    )


def is_parent(run: RunFacts) -> bool:
    """Whether it is the parent of a sweep, which measured nothing itself."""
    return run.tags.get("fourstage.role") == "parent"


def _two(destination: Destination, words: Words) -> Chosen:
    runs = tuple(_find(destination, wanted) for wanted in (words.baseline, words.target))
    if runs[0].run_id == runs[1].run_id:
        raise SettingError(f"baseline and target are the same run, {runs[0].name} ({runs[0].run_id})")
    return Chosen(f"{runs[0].name}-vs-{runs[1].name}", runs, 0, (), None, named=True)


def _find(destination: Destination, wanted: str) -> RunFacts:
    """The finished run of that id or name. Raises UserError where there is none, and where several share the name."""
    from fourstage.tracking.reader import find_equal, find_runs

    found = find_equal(destination, "attributes.run_id", wanted) or find_equal(
        destination, "attributes.run_name", wanted
    )
    if not found and _is_prefix(wanted):
        found = find_runs(destination, f"attributes.run_id LIKE '{wanted}%'")
    runs = [run for run in found if not is_parent(run)]
    if len(runs) > 1:
        raise _shared(wanted, runs)
    if finished := [run for run in runs if run.status == "FINISHED"]:
        return finished[0]
    if runs:
        raise UserError(f"run {wanted!r} is {_why(runs[0])}: a comparison needs runs that finished")
    if found:
        raise UserError(f"{wanted!r} is the parent of a sweep: compare its runs with sweep={wanted}")
    there = find_runs(destination, newest=NAMES)
    names = sorted({run.name for run in there if run.status == "FINISHED" and not is_parent(run)})
    raise SettingError(f"no finished run {brief(wanted)!r}; {_suggest(wanted, names)}")


def _shared(name: str, runs: Sequence[RunFacts]) -> SettingError:
    """Several runs have the name: which of them is meant, nobody can know."""
    import time

    listed = [
        f"{run.run_id} ({time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(run.started_unix_s))}, {run.status})"
        for run in runs
    ]
    called = f"have an id that begins with {name}" if runs[0].name != name else f"are called {brief(name)!r}"
    return SettingError(f"{len(runs)} runs {called}: name one by its id: {first_few(listed, MOST_SHARED)}")


def _is_prefix(text: str) -> bool:
    """Whether it can be the beginning of a run's id: `fourstage ls` shows 8 characters."""
    return PREFIX.fullmatch(text) is not None


def _searched(destination: Destination, words: Words) -> Chosen:
    """What a filter finds, oldest first."""
    from fourstage.tracking.reader import find_runs
    from fourstage.tracking.search import quote_names

    found = [run for run in find_runs(destination, quote_names(words.filter)) if not is_parent(run)]
    return _chosen(destination, "filter", sorted(found, key=lambda run: run.started_unix_s), None, words)


def _sweep(destination: Destination, wanted: str) -> tuple[RunFacts | None, str]:
    """The parent, where there is one, and the tag of the sweep that is meant; "": the newest one.

    Of several sweeps of one name the newest is meant, which is said.
    """
    from fourstage.tracking.reader import find_equal, find_runs

    if not wanted:
        if not (newest := find_runs(destination, "tags.`fourstage.sweep` LIKE '%'", newest=1)):
            raise UserError("no sweep in this store: run one with -m, or name baseline= and target=")
        return _parent_of(destination, newest[0]), newest[0].tags["fourstage.sweep"]
    for field in ("tags.`fourstage.sweep`", "attributes.run_name", "attributes.run_id"):
        if parents := find_equal(destination, field, wanted, also=PARENT):
            _say_which(wanted, parents)
            return parents[0], parents[0].tags.get("fourstage.sweep", parents[0].name)
    if orphans := find_equal(destination, "tags.`fourstage.sweep`", wanted, newest=1):
        return _parent_of(destination, orphans[0]), wanted
    parents = find_runs(destination, PARENT, newest=NAMES)
    known = {*(run.name for run in parents), *(run.tags.get("fourstage.sweep", "") for run in parents)} - {""}
    raise SettingError(f"unknown sweep {brief(wanted)!r}; {_suggest(wanted, sorted(known))}")


def _say_which(wanted: str, parents: Sequence[RunFacts]) -> None:
    if len(parents) > 1:
        newest, *older = (f"{run.tags.get('fourstage.sweep', run.name)} ({run.run_id})" for run in parents)
        others = ", ".join(older[:5])
        say(f"{len(parents)} sweeps are named {wanted!r}: the newest is compared, {newest}; older: {others}")


def _parent_of(destination: Destination, run: RunFacts) -> RunFacts | None:
    """The parent of a sweep's run, or the run itself; None where the store does not have it."""
    from fourstage.tracking.reader import find_equal

    if is_parent(run):
        return run
    parent = run.tags.get("mlflow.parentRunId", "")
    return next(iter(find_equal(destination, "attributes.run_id", parent, also=PARENT, newest=1)), None)


def _of_sweep(destination: Destination, name: str, parent: RunFacts | None, words: Words) -> Chosen:
    """The runs nested under the parent; without one those that carry the sweep's tag."""
    from fourstage.tracking.reader import find_equal
    from fourstage.tracking.search import quote_names

    field, text = ("tags.`fourstage.sweep`", name) if parent is None else ("tags.`mlflow.parentRunId`", parent.run_id)
    found = find_equal(destination, field, text, also=quote_names(words.filter))
    found = [run for run in found if not is_parent(run)]
    return _chosen(destination, name, in_order(found), parent, words)


def _chosen(
    destination: Destination, name: str, found: Sequence[RunFacts], parent: RunFacts | None, words: Words
) -> Chosen:
    runs, left_out = _finished(found)
    baseline = 0
    if words.baseline:
        inside = (
            [i for i, run in enumerate(runs) if run.run_id == words.baseline]
            or [i for i, run in enumerate(runs) if run.name == words.baseline]
            or [i for i, run in enumerate(runs) if _is_prefix(words.baseline) and run.run_id.startswith(words.baseline)]
        )
        if len(inside) > 1:
            raise _shared(words.baseline, [runs[i] for i in inside])
        if not inside:
            runs = (_find(destination, words.baseline), *runs)
        baseline = inside[0] if inside else 0
    if len(runs) < 2:
        what = f"sweep {name}" if name != "filter" or parent else f"filter={brief(words.filter)}"
        raise UserError(f"{what}: {too_few(runs, left_out)}")
    return Chosen(name, runs, baseline, left_out, parent, named=bool(words.baseline))


def too_few(runs: Sequence[RunFacts], left_out: Sequence[LeftOut]) -> str:
    """Why there is nothing to compare, in words."""
    others = f" ({first_few([f'{item.name}: {item.why}' for item in left_out], 5)})" if left_out else ""
    return f"{'one finished run' if runs else 'no finished run'}, and a comparison needs two{others}"


def _finished(runs: Sequence[RunFacts]) -> tuple[tuple[RunFacts, ...], tuple[LeftOut, ...]]:
    return (
        tuple(run for run in runs if run.status == "FINISHED"),
        tuple(LeftOut(run.name, run.run_id, _why(run)) for run in runs if run.status != "FINISHED"),
    )


def _suggest(wanted: str, names: list[str]) -> str:
    """What near it there is; of many names the first few."""
    near = suggest(wanted, names) if names else "there is none"
    if "--help" in near:
        return f"there are {first_few(names, 5)}"
    return near


def brief(text: str) -> str:
    """A word as a message repeats it."""
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"


def _why(run: RunFacts) -> str:
    why = run.tags.get("fourstage.error", "")
    return f"{run.status}: {why}" if why else run.status
