"""Runs side by side: select → read → pair → compare → say, and write report.html, report.md and compare.json.

python -m fourstage.compare                                # the last sweep, its first run as baseline
python -m fourstage.compare baseline=<id or name> target=<id or name>
python -m fourstage.compare sweep=<name> by=model          # runs that differ in the model only, each group by itself
python -m fourstage.compare 'filter=params.model.name = "videollava" and metrics.total_s.median < 2'

  baseline=       run id or name; alone with sweep= or filter=: the run that all others are compared with
  target=         run id or name
  sweep=          a sweep's name, its parent's name (the newest) or its parent's run id
  filter=         MLflow's search language; names need no quotes
  by=             settings, with commas: within each group, runs differ in these only, and in what follows from them
  margin=0.02     within which two times are called equivalent
  allow_invalid=false   whether a run with a failed check may be the baseline
  out=            folder of the files; by itself mlruns/compare/<name>
  uri=, experiment=     where the runs are; by itself sqlite:///mlruns/mlflow.db, fourstage
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fourstage.cli.command import parse_words, run_command
from fourstage.config.schema import SettingError
from fourstage.stages import SampleRecord, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from fourstage.comparison.effects import Comparison, RunData
    from fourstage.comparison.findings import Finding
    from fourstage.comparison.selection import Chosen, LeftOut
    from fourstage.comparison.texts import TextRow
    from fourstage.config.studies import Study
    from fourstage.tracking.reader import RunFacts
    from fourstage.tracking.store import Destination

WORDS = {
    "baseline": "",
    "target": "",
    "sweep": "",
    "by": "",
    "filter": "",
    "margin": "0.02",
    "allow_invalid": "false",
    "out": "",
    "uri": "sqlite:///mlruns/mlflow.db",
    "experiment": "fourstage",
}
TEXT_SAMPLES, TEXT_RUNS = 12, 8  # whose texts and pictures the report shows; records.parquet has all
SAME = {  # what makes runs comparable, by the tag that tells it
    "fourstage.dataset_hash": "data",
    "fourstage.code_hash": "code",
    "fourstage.machine": "machine",
}


@dataclass(frozen=True, eq=False)
class Part:
    """A baseline with its targets: all runs, or a group of them."""

    label: str  # of the group; "": there is one
    comparison: Comparison
    texts: tuple[TextRow, ...]


@dataclass(frozen=True, eq=False)
class Compared:
    """What was compared, as it is written."""

    name: str
    parts: tuple[Part, ...]  # none where there were fewer than two runs
    findings: tuple[Finding, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    files: tuple[Path, ...]
    markdown: str  # the result in short


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""

    def command(words: Sequence[str]) -> int:
        compare_command(parse_words(words, WORDS))
        return 0

    return run_command(__doc__, argv, command)


def compare_command(words: Mapping[str, str]) -> Compared:
    """Compare what the words name. Raises UserError where there are no two runs to compare."""
    margin, allow_invalid = _margin(words["margin"]), _flag("allow_invalid", words["allow_invalid"])
    from fourstage.comparison.selection import Words, select_runs
    from fourstage.screen import console
    from fourstage.tracking.store import Destination

    where = Destination(words["uri"], None, words["experiment"])
    by = tuple(word.strip() for word in words["by"].split(",") if word.strip())
    with _collector_at_rest():
        chosen = select_runs(where, Words(words["baseline"], words["target"], words["sweep"], words["filter"], by))
    out = Path(words["out"]).expanduser() if words["out"] else beside(where) / slug(chosen.name)
    return _compare(console(), where, chosen, by, margin, allow_invalid, out)


def compare_sweep(destination: Destination, parent: str, out: Path, margin: float = 0.02) -> Compared:
    """Compare the runs nested under a parent (its run id), print it, and write the files into `out`.

    The baseline is the first valid run. Fewer than two finished runs are no error: the result then has no parts, and
    a line says so. Raises UserError where the store cannot be read or `out` cannot be written.
    """
    from fourstage.comparison.selection import children, too_few
    from fourstage.screen import console

    chosen = children(destination, parent)
    screen = console()
    if len(chosen.runs) < 2:
        return _nothing(screen, chosen, f"not compared: {too_few(chosen.runs, chosen.left_out)}")
    valid = [place for place, run in enumerate(chosen.runs) if not _faults(run)]
    baseline = valid[0] if valid else 0
    try:
        return _compare(screen, destination, replace(chosen, baseline=baseline), (), margin, not valid, out)
    except _TooFewError as error:
        return _nothing(screen, chosen, f"not compared: {error}")


class _TooFewError(UserError):
    """Fewer than two of the runs have records that can be read."""


def _nothing(screen: Console, chosen: Chosen, line: str) -> Compared:
    from fourstage.report.terminal import print_notes

    notes = (line, *_left_out(chosen.left_out))
    print_notes(screen, notes, ())
    return Compared(chosen.name, (), (), chosen.left_out, notes, (), f"{line}\n")


def _compare(
    screen: Console,
    destination: Destination,
    chosen: Chosen,
    by: Sequence[str],
    margin: float,
    allow_invalid: bool,
    out: Path,
) -> Compared:
    from fourstage.comparison.effects import compare
    from fourstage.comparison.findings import find
    from fourstage.report.terminal import markdown_summary, print_comparison, print_notes

    with TemporaryDirectory() as folder, _collector_at_rest():
        runs, places, left_out = read_runs(destination, chosen.runs, Path(folder))
        left_out = (*chosen.left_out, *left_out)
        wanted = chosen.runs[chosen.baseline].run_id
        if len(runs) < 2 or all(run.run_id != wanted for run in runs):
            raise _too_few(chosen, runs, left_out)
        baseline = next(place for place, run in enumerate(runs) if run.run_id == wanted)
        parts, lonely = [], list[str]()
        for label, members, first in _divide(runs, baseline, by, lonely):
            _refuse_invalid(members[first], allow_invalid)
            found = compare(members, first, margin)
            parts.append(Part(label, found, read_texts(found, places)))
    if not parts:
        raise UserError(f"by={','.join(by)}: {'; '.join(lonely)}")
    facts = {run.run_id: run for run in chosen.runs}
    study = _study(runs)
    findings = find(study.name, runs) if study else ()
    notes = [*_left_out(left_out), *lonely, *_doubts(runs)]
    pictures, missing = _pictures(destination, parts, facts)
    notes += [missing] if missing else []
    titles = [f"{chosen.name}: {part.label}" if part.label else chosen.name for part in parts]
    for title, part in zip(titles, parts, strict=True):
        print_comparison(screen, title, part.comparison)
    print_notes(screen, notes, findings)
    compared = Compared(
        name=chosen.name,
        parts=tuple(parts),
        findings=findings,
        left_out=left_out,
        notes=tuple(notes),
        files=(),
        markdown=markdown_summary(chosen.name, [(part.label, part.comparison) for part in parts], notes, findings),
    )
    question, command = (study.question, study.command) if study else ("", _command(chosen.parent))
    files = _write(out, compared, titles, pictures, question, command)
    screen.print(f"written: {', '.join(map(_near, files))}", markup=False, soft_wrap=True)
    return replace(compared, files=files)


def read_runs(
    destination: Destination, runs: Sequence[RunFacts], folder: Path
) -> tuple[list[RunData], dict[str, Path], tuple[LeftOut, ...]]:
    """The runs with their columns, where the records of each are, and those that have none, with the reason.

    Records on this machine are read in place, others are downloaded into `folder`. No two runs have one name.
    """
    from fourstage.comparison.effects import RunData
    from fourstage.comparison.grouping import distinct_names
    from fourstage.comparison.selection import LeftOut
    from fourstage.records.columns import Columns
    from fourstage.tracking.reader import records_file

    names = distinct_names([run.name for run in runs], [run.params for run in runs], [run.run_id for run in runs])
    found, places, left_out = [], {}, []
    for run, name in zip(runs, names, strict=True):
        try:
            path = records_file(destination, run, folder)
            columns = Columns.read(path)
        except (UserError, OSError, ValueError) as error:  # ValueError: what pyarrow raises for a damaged file
            left_out.append(LeftOut(name, run.run_id, str(error)))
            continue
        places[run.run_id] = path
        failed = _faults(run)
        found.append(
            RunData(
                run_id=run.run_id,
                name=name,
                params=run.params,
                tags=run.tags,
                metrics=run.metrics,
                columns=columns,
                valid=not failed,
                checks_failed=failed,
                checks_warned=_listed(run.tags.get("fourstage.checks_warned", "")),
            )
        )
    return found, places, tuple(left_out)


def read_texts(found: Comparison, places: Mapping[str, Path]) -> tuple[TextRow, ...]:
    """What the first runs answered to the first samples of the baseline."""
    from fourstage.comparison.texts import compare_texts

    base = found.runs[found.baseline]
    runs = [base, *(run for run in found.runs if run is not base)][:TEXT_RUNS]
    measured = base.columns.measured
    keys = [measured.keys[code] for code in dict.fromkeys(measured.key_codes.tolist())][:TEXT_SAMPLES]
    return compare_texts([(run.name, _first_records(run, keys, places[run.run_id])) for run in runs])


def _first_records(run: RunData, keys: Sequence[str], path: Path) -> list[SampleRecord]:
    """Of each key the first measured record that succeeded, else the first."""
    import numpy as np

    from fourstage.records.table import read_rows

    columns = run.columns
    code = {key: place for place, key in enumerate(columns.keys)}
    rows = []
    for key in keys:
        of_key = np.flatnonzero((columns.key_codes == code.get(key, -1)) & columns.is_sample)
        if len(of_key):
            done = of_key[columns.ok[of_key]]
            rows.append(done[0] if len(done) else of_key[0])
    return read_rows(path, np.array(sorted(rows), dtype=np.int64))


def _divide(
    runs: Sequence[RunData], baseline: int, by: Sequence[str], lonely: list[str]
) -> list[tuple[str, list[RunData], int]]:
    """The groups to compare: label, runs and the baseline's place; what has no partner is told in `lonely`.

    In each group the baseline is the run with the baseline's own values of the chosen settings.
    """
    if not by:
        return [("", list(runs), baseline)]
    from fourstage.comparison.grouping import distinct_names, group_by

    groups = group_by([run.params for run in runs], by)
    wanted = next(
        (choice, name)
        for group in groups
        for place, choice, name in zip(group.members, group.choices, group.names, strict=True)
        if place == baseline
    )
    found = []
    order = list(dict.fromkeys(choice for group in groups for choice in group.choices))
    for group in groups:
        together = sorted(range(len(group.members)), key=lambda i: order.index(group.choices[i]))
        members = [runs[group.members[i]] for i in together]
        names = distinct_names(
            [group.names[i] for i in together], [run.params for run in members], [run.run_id for run in members]
        )
        members = [replace(run, name=name) for run, name in zip(members, names, strict=True)]
        same = [place for place, i in enumerate(together) if group.choices[i] == wanted[0]]
        if baseline in group.members:
            same = [[run.run_id for run in members].index(runs[baseline].run_id)]
        where = f" at {group.label}" if group.label else ""
        if not same:
            lonely.append(f"no run with {wanted[1]}{where}: {', '.join(names)} there is compared with nothing")
        elif len(members) < 2:
            lonely.append(f"only {names[0]}{where}: nothing to compare it with")
        else:
            found.append((group.label, members, same[0]))
    return found


def _refuse_invalid(run: RunData, allowed: bool) -> None:
    if not run.valid and not allowed:
        raise UserError(
            f"{run.name} ({run.run_id}) is invalid, it failed {', '.join(run.checks_failed)}: against it nothing "
            "should be claimed; name another run with baseline=, or say allow_invalid=true"
        )


def _faults(run: RunFacts) -> tuple[str, ...]:
    """The checks that a run failed; a run that was never checked has failed that."""
    valid = run.tags.get("fourstage.valid")
    if valid == "true":
        return ()
    return _listed(run.tags.get("fourstage.checks_failed", "")) or ("to be checked at all",)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name and name != "none")


def _too_few(chosen: Chosen, runs: Sequence[RunData], left_out: Sequence[LeftOut]) -> UserError:
    wanted = chosen.runs[chosen.baseline]
    if why := next((item.why for item in left_out if item.run_id == wanted.run_id), None):
        return _TooFewError(f"the baseline {wanted.name} ({wanted.run_id}) cannot be read: {why}")
    told = "; ".join(f"{item.name}: {item.why}" for item in left_out[:3])
    return _TooFewError(f"{chosen.name}: {len(runs)} run with records, and a comparison needs two ({told})")


def _left_out(left_out: Sequence[LeftOut]) -> list[str]:
    return [f"left out: {item.name} ({item.run_id}): {item.why}" for item in left_out]


def _doubts(runs: Sequence[RunData]) -> list[str]:
    """What speaks against the comparison: invalid runs, warnings, runs of other data, code or machines."""
    notes = ["no run of this comparison is valid: nothing should be claimed"] if not any(r.valid for r in runs) else []
    notes += [f"invalid: {run.name} failed {', '.join(run.checks_failed)}" for run in runs if not run.valid]
    notes += [f"warned: {run.name}: {', '.join(run.checks_warned)}" for run in runs if run.checks_warned]
    for tag, what in SAME.items():
        by_value: dict[str, list[str]] = {}
        for run in runs:
            by_value.setdefault(run.tags.get(tag, "unknown"), []).append(run.name)
        if len(by_value) > 1:
            told = "; ".join(
                f"{value}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
                for value, names in list(by_value.items())[:4]
            )
            notes.append(f"these runs are not of one {what}: {told}")
    return notes


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
    return " ".join(
        ["python -m fourstage.run -m", *(shlex.quote(f"{key}={value}") for key, value in parent.params.items())]
    )


def _pictures(
    destination: Destination, parts: Sequence[Part], facts: Mapping[str, RunFacts]
) -> tuple[dict[str, dict[str, tuple[bytes, ...]]], str]:
    from fourstage.report.pictures import places, read_pictures
    from fourstage.tracking.store import database_path

    runs = [run for part in parts for run in part.comparison.runs]
    keys = list(dict.fromkeys(row.key for part in parts for row in part.texts))[:TEXT_SAMPLES]
    written = next((facts[run.run_id].dataset_root for run in runs if facts[run.run_id].dataset_root), "")
    written = written or next((root for run in runs if (root := run.params.get("dataset.root"))), "")
    database = database_path(destination.uri)
    beside = [database.parent.parent] if database else []  # a store in mlruns/ of the folder that was worked in
    told = [(run.params, run.tags.get("fourstage.dataset_hash", "")) for run in runs]
    roots = [root for root in places(written, beside) if root.is_dir()] or ([Path(written)] if written else [])
    return read_pictures(told, keys, roots)


def _write(
    out: Path,
    compared: Compared,
    titles: Sequence[str],
    pictures: Mapping[str, Mapping[str, Sequence[bytes]]],
    question: str,
    command: str,
) -> tuple[Path, ...]:
    """The report of each part and one compare.json. Raises UserError where the folder cannot be written."""
    from fourstage.report.document import as_json, document
    from fourstage.report.page import Subject, write_report

    parts, files = compared.parts, list[Path]()
    try:
        out.mkdir(parents=True, exist_ok=True)
        for title, part in zip(titles, parts, strict=True):
            folder = out / slug(part.label) if len(parts) > 1 else out
            write_report(
                folder,
                Subject(
                    title=title,
                    comparison=part.comparison,
                    texts=part.texts,
                    pictures=pictures,
                    findings=compared.findings,
                    question=question,
                    command=command,
                    notes=compared.notes,
                ),
            )
            files += [folder / "report.html", folder / "report.md"]
        found = document(
            compared.name,
            [(part.label, part.comparison) for part in parts],
            compared.findings,
            [{"name": item.name, "run_id": item.run_id, "why": item.why} for item in compared.left_out],
            compared.notes,
            question,
            command,
        )
        (out / "compare.json").write_text(as_json(found), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write into {out}: {error.strerror or error}; set out= to another folder") from error
    return (*files, out / "compare.json")


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Without Python's collector, which reads over and over what was read: half the time of finding 1,000 runs."""
    import gc

    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def slug(name: str) -> str:
    """A name as that of a folder, which leads nowhere else."""
    return re.sub(r"[^\w.=+-]+", "-", name, flags=re.ASCII).strip("-.")[:80] or "compare"


def beside(destination: Destination) -> Path:
    """Where comparisons are written by themselves: beside the database, which is mlruns/."""
    from fourstage.tracking.store import database_path

    database = database_path(destination.uri)
    return (database.parent if database else Path("mlruns")) / "compare"


def _near(path: Path) -> str:
    """The path from here, where it is below."""
    here = Path.cwd()
    return str(path.absolute().relative_to(here)) if path.absolute().is_relative_to(here) else str(path)


def _margin(text: str) -> float:
    try:
        margin = float(text)
    except ValueError:
        margin = 0.0
    if not 0 < margin < 1:
        raise SettingError(f"margin={text}: expected a number between 0 and 1, such as 0.02 for 2 %")
    return margin


def _flag(key: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise SettingError(f"{key}={text}: expected true or false")
    return text.lower() == "true"


if __name__ == "__main__":
    sys.exit(main())
