"""Comparing runs: read → pair → compare → print, and write report.html, report.md, compare.json and tables.

Left out: the command (`cli/compare.py`) and selecting the runs (`comparison/selection.py`).

    compared = compare_sweep(destination, parent_run_id, Path("mlruns/compare/night"))
    compared.parts[0].comparison.pairs[0].verdict
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fourstage.comparison.selection import brief
from fourstage.config.values import SettingError
from fourstage.stages import UserError
from fourstage.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from fourstage.comparison.answer import Answer
    from fourstage.comparison.effects import Comparison, Floors
    from fourstage.comparison.findings import Finding
    from fourstage.comparison.gate import Gate
    from fourstage.comparison.run_data import RunData
    from fourstage.comparison.selection import Chosen, LeftOut
    from fourstage.comparison.texts import TextRow
    from fourstage.config.studies import Study
    from fourstage.report.layout import Layout
    from fourstage.stats.replicates import Floor
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.reader import RunFacts

MOST_FLOORS = 50  # runs of one process whose floors are looked up
SLUG_CHARS = 80  # of a folder's name


@dataclass(frozen=True, eq=False)
class Part:
    """A baseline with its targets: all runs, or a group of them."""

    label: str  # of the group; "": there is one
    comparison: Comparison
    answer: Answer
    texts: tuple[TextRow, ...]


@dataclass(frozen=True, eq=False)
class Compared:
    """What was compared, as it is written."""

    name: str
    parts: tuple[Part, ...]  # none where there were fewer than two runs
    findings: tuple[Finding, ...]
    left_out: tuple[LeftOut, ...]
    excluded: tuple[str, ...]  # keys of samples that are in no figure
    notes: tuple[str, ...]
    files: tuple[Path, ...]
    markdown: str  # the result in short
    gate: Gate | None = None  # None where nothing was compared


def compare_sweep(destination: Destination, parent: str, out: Path, margin: float = 0.02) -> Compared:
    """Compare the runs nested under a parent (its run id), print it, and write the files into `out`.

    The baseline is the first valid run, if there is one. Fewer than two finished runs are no error: the result
    then has no parts, and a line says so. Raises UserError where the store cannot be read or `out` cannot be written.
    """
    from fourstage.comparison.selection import children, too_few
    from fourstage.screen import console

    chosen = children(destination, parent)
    screen = console()
    if len(chosen.runs) < 2:
        return _nothing(screen, chosen, f"not compared: {too_few(chosen.runs, chosen.left_out)}")
    try:
        return compare_chosen(screen, destination, chosen, (), margin, None, out)
    except _TooFewError as error:
        return _nothing(screen, chosen, f"not compared: {error}")


class _TooFewError(UserError):
    """Fewer than two of the runs have records that can be read."""


def _nothing(screen: Console, chosen: Chosen, line: str) -> Compared:
    from fourstage.report.notes import left_out_notes
    from fourstage.report.terminal import print_notes

    notes = (line, *left_out_notes(chosen.left_out))
    print_notes(screen, notes, ())
    return Compared(chosen.name, (), (), chosen.left_out, (), notes, (), f"{line}\n")


def compare_chosen(
    screen: Console,
    destination: Destination,
    chosen: Chosen,
    by: Sequence[str],
    margin: float,
    allow_invalid: bool | None,
    out: Path,
    exclude: str = "",
    formats: Sequence[str] = (),
    fail_on: Sequence[str] = (),
) -> Compared:
    """Compare, print and write; `formats`: of the tables beside the report (`exports.FORMATS`).

    `fail_on`: conditions of the gate (`gate.CONDITIONS`).

    Raises UserError as `lay_out_chosen`, or where `out` cannot be written.
    """
    from fourstage.report.terminal import print_gate, print_layout, print_notes

    compared, layouts = lay_out_chosen(destination, chosen, by, margin, allow_invalid, exclude, fail_on)
    for layout in layouts:
        print_layout(screen, layout)
    print_notes(screen, (), compared.findings)
    if compared.gate is not None:
        print_gate(screen, compared.gate)
    files = _write(out, compared, layouts, formats)
    screen.print(one_line(f"written: {', '.join(map(_near, files))}"), markup=False, soft_wrap=True)
    return replace(compared, files=files)


def lay_out_chosen(
    destination: Destination,
    chosen: Chosen,
    by: Sequence[str] = (),
    margin: float = 0.02,
    allow_invalid: bool | None = None,
    exclude: str = "",
    fail_on: Sequence[str] = (),
) -> tuple[Compared, list[Layout]]:
    """Read the runs, compare them and lay out a report for each group; nothing is printed or written.

    `allow_invalid` None: an invalid baseline is allowed where no run is valid. Raises UserError where nothing can be
    compared.
    """
    from fourstage.comparison.answer import answer
    from fourstage.comparison.answer import named as called
    from fourstage.comparison.baseline import choose_baselines
    from fourstage.comparison.effects import compare
    from fourstage.comparison.exclusion import excluded_keys, without
    from fourstage.comparison.gate import judge
    from fourstage.comparison.pooling import pool
    from fourstage.comparison.reading import read_runs, read_texts
    from fourstage.comparison.studies import find
    from fourstage.report.layout import Subject, lay_out
    from fourstage.report.markdown import summary
    from fourstage.report.notes import doubts, excluded_note, faults, left_out_notes

    with TemporaryDirectory() as folder, gc_disabled():
        runs, files, left_out = read_runs(destination, chosen.runs, Path(folder))
        left_out = (*chosen.left_out, *left_out)
        named = chosen.runs[chosen.baseline] if chosen.named else None
        if len(runs) < 2 or (named is not None and all(run.run_id != named.run_id for run in runs)):
            raise _too_few(chosen, runs, left_out)
        if allow_invalid is None:
            allow_invalid = not any(run.valid for run in runs)
        whole = {run.run_id: run.columns for run in runs}
        excluded = excluded_keys(exclude, runs)
        runs = [replace(run, columns=without(run.columns, excluded)) for run in runs] if excluded else runs
        runs = pool(runs)
        runs = runs if by else called(runs)
        floors, origins = _floors(destination, runs)
        groups, ungrouped = choose_baselines(runs, named.run_id if named else None, by, allow_invalid)
        parts = []
        for label, members, first in groups:
            if excluded and not len(members[first].columns.measured):
                raise UserError(f"exclude={brief(exclude)} leaves no sample of the baseline {members[first].name}")
            found = compare(members, first, margin, floors=floors)
            parts.append(Part(label, found, answer(members, floors, margin), read_texts(found, files, whole)))
    study = _study(runs)
    findings = find(study.name, runs) if study else ()
    question, command = (study.question, study.command) if study else ("", _command(chosen.parent))
    pictures, missing = _pictures(destination, parts, {run.run_id: run for run in chosen.runs})
    notes = [
        *left_out_notes(left_out),
        *excluded_note(excluded),
        *ungrouped,
        *origins,
        *doubts(runs),
        *([missing] * bool(missing)),
    ]
    compared = Compared(
        name=chosen.name,
        parts=tuple(parts),
        findings=findings,
        left_out=left_out,
        excluded=excluded,
        notes=(*faults(runs), *notes),
        files=(),
        markdown=summary(
            chosen.name, [(part.label, part.comparison) for part in parts], [*faults(runs), *notes], findings
        ),
        gate=judge(fail_on, [(part.label, part.comparison) for part in parts], runs, left_out),
    )
    layouts = [
        lay_out(
            Subject(
                title=f"{chosen.name}: {part.label}" if part.label else chosen.name,
                comparison=part.comparison,
                answer=part.answer,
                texts=part.texts,
                pictures=pictures,
                findings=findings,
                question=question,
                command=command,
                notes=notes,
            )
        )
        for part in parts
    ]
    return compared, layouts


def _floors(destination: Destination, runs: Sequence[RunData]) -> tuple[Floors, list[str]]:
    """What the store knows of how far processes of a run's configuration differ, for runs of one process; and notes
    that say where the floors are from."""
    from fourstage.comparison.effects import processes_of
    from fourstage.comparison.floors import in_words, known_floors

    floors: dict[str, Mapping[str, Floor]] = {}
    notes: dict[str, None] = {}
    for run in runs[:MOST_FLOORS]:
        machine = run.tags.get("fourstage.machine")
        if machine is None or processes_of(run) > 1:
            continue
        known = known_floors(destination, machine, run.params)
        if known is not None:
            floors[run.run_id] = known.floors
            what = " ".join(run.params.get(name, "") for name in ("model.name", "precision", "engine.name")).strip()
            notes[f"noise floor of {what}: {in_words(known.floors)} ({known.origin(time.time())})"] = None
    return floors, list(notes)


def _too_few(chosen: Chosen, runs: Sequence[RunData], left_out: Sequence[LeftOut]) -> UserError:
    wanted = chosen.runs[chosen.baseline] if chosen.named else None
    why = next((item.why for item in left_out if wanted is not None and item.run_id == wanted.run_id), None)
    if wanted is not None and why is not None:
        return _TooFewError(f"the baseline {wanted.name} ({wanted.run_id}) cannot be read: {why}")
    reasons = "; ".join(f"{item.name}: {item.why}" for item in left_out[:3])
    return _TooFewError(f"{chosen.name}: {len(runs)} run with records, and a comparison needs two ({reasons})")


def _study(runs: Sequence[RunData]) -> Study | None:
    """The study that all of the runs belong to, where it is one that can be found."""
    from fourstage.config.compose import study_folders
    from fourstage.config.studies import Study, command, find_study

    names = {run.params.get("study", "None") for run in runs}
    name = next(iter(names))
    if len(names) != 1 or name in ("None", ""):
        return None
    try:
        return find_study(name, study_folders())
    except SettingError:  # somebody's own, in another folder: its runs are compared all the same
        return Study(name, Path(), "", command(name), {})


def _command(parent: RunFacts | None) -> str:
    """What made a sweep, from its parent's settings."""
    import shlex

    if parent is None:
        return ""
    return " ".join(["fourstage run -m", *(shlex.quote(f"{key}={value}") for key, value in parent.params.items())])


def _pictures(
    destination: Destination, parts: Sequence[Part], facts: Mapping[str, RunFacts]
) -> tuple[dict[str, dict[str, tuple[bytes, ...]]], str]:
    from fourstage.comparison.reading import TEXT_SAMPLES
    from fourstage.report.pictures import places, read_pictures
    from fourstage.tracking.destination import database_path

    runs = [run for part in parts for run in part.comparison.runs]
    keys = list(dict.fromkeys(row.key for part in parts for row in part.texts))[:TEXT_SAMPLES]
    written = next((facts[run.run_id].dataset_root for run in runs if facts[run.run_id].dataset_root), "")
    written = written or next((root for run in runs if (root := run.params.get("dataset.root"))), "")
    database = database_path(destination.uri)
    beside = [database.parent.parent] if database else []  # a store in mlruns/ of the folder that was worked in
    run_data = [(run.params, run.tags.get("fourstage.dataset_hash", "")) for run in runs]
    roots = [root for root in places(written, beside) if root.is_dir()] or ([Path(written)] if written else [])
    try:
        return read_pictures(run_data, keys, roots)
    except Exception as error:  # of data that changed since, or of settings that another program wrote
        return {}, f"no pictures of the samples: {type(error).__name__}: {error}"


def _write(out: Path, compared: Compared, layouts: Sequence[Layout], formats: Sequence[str]) -> tuple[Path, ...]:
    """The report of each part and one compare.json. Raises UserError where the folder cannot be written."""
    from fourstage.report.document import as_json, document
    from fourstage.report.exports import write_tables

    parts, files = compared.parts, list[Path]()
    try:
        out.mkdir(parents=True, exist_ok=True)
        for part, layout in zip(parts, layouts, strict=True):
            folder = out / slug(part.label) if len(parts) > 1 else out
            files += write_report(folder, layout)
            files += write_tables(folder / "tables", layout, formats) if formats else []
        found = document(
            compared.name,
            [(part.label, part.comparison) for part in parts],
            compared.findings,
            [{"name": item.name, "run_id": item.run_id, "why": item.why} for item in compared.left_out],
            compared.notes,
            layouts[0].subject.question,
            layouts[0].subject.command,
            compared.excluded,
            compared.gate,
            [part.answer for part in parts],
        )
        (out / "compare.json").write_text(as_json(found), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write into {brief(str(out))}: {error.strerror or error}; set out= to another folder"
        ) from error
    return (*files, out / "compare.json")


def write_report(folder: Path, layout: Layout) -> list[Path]:
    """Write report.html, report.md and its plots (plots/*.png) into a folder, which is created; gives both reports."""
    from fourstage.report.charts import plots_of
    from fourstage.report.drawing import png
    from fourstage.report.html import to_html
    from fourstage.report.markdown import to_markdown

    plots = plots_of(layout)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(to_html(layout, plots), encoding="utf-8")
    (folder / "report.md").write_text(to_markdown(layout, plots), encoding="utf-8")
    for name, plot in plots.items():
        (folder / "plots" / f"{name}.png").write_bytes(png(plot))
    return [folder / "report.html", folder / "report.md"]


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Disable Python's garbage collector, which rescans what was read: half the time of finding 1,000 runs."""
    import gc

    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def slug(name: str) -> str:
    """A name as that of a folder, which leads nowhere else; two long names that begin alike have two folders."""
    text = re.sub(r"[^\w.=+-]+", "-", name, flags=re.ASCII).strip("-.") or "compare"
    if len(text) <= SLUG_CHARS:
        return text
    end = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text[: SLUG_CHARS - 9]}-{end}"


def beside(destination: Destination) -> Path:
    """Where comparisons are written by default: beside the database, so in mlruns/."""
    from fourstage.tracking.destination import database_path

    database = database_path(destination.uri)
    return (database.parent if database else Path("mlruns")) / "compare"


def _near(path: Path) -> str:
    """The path from here, where it is below."""
    here = Path.cwd()
    return str(path.absolute().relative_to(here)) if path.absolute().is_relative_to(here) else str(path)
