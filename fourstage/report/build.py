"""Runs side by side: select → read → pair → compare → say, and write report.html, report.md and compare.json.

python -m fourstage.compare                                # the last sweep, its first valid run as baseline
python -m fourstage.compare baseline=<id or name> target=<id or name>
python -m fourstage.compare sweep=<name> by=model          # runs that differ in the model only, each group by itself
python -m fourstage.compare 'filter=params.model.name = "videollava" and metrics.total_s.median < 2'

  baseline=       run id or name; alone with sweep= or filter=: the run that all others are compared with
  target=         run id or name
  sweep=          a sweep's name, its parent's name (the newest) or its parent's run id
  filter=         MLflow's search language; names need no quotes
  by=             settings, with commas: within each group, runs differ in these only, and in what follows from them
  exclude=        samples that are left out of every figure: keys or globs, with commas
  margin=0.02     within which two times are called equivalent
  allow_invalid=false   whether a run with a failed check may be the baseline
  out=            folder of the files; by itself mlruns/compare/<name>
  uri=, experiment=     where the runs are; by itself sqlite:///mlruns/mlflow.db, fourstage
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fourstage.cli.command import parse_words, run_command
from fourstage.comparison.selection import brief
from fourstage.config.schema import SettingError
from fourstage.paths import path_of
from fourstage.stages import SampleRecord, UserError
from fourstage.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from fourstage.comparison.effects import Comparison, RunData
    from fourstage.comparison.findings import Finding
    from fourstage.comparison.selection import Chosen, LeftOut
    from fourstage.comparison.texts import TextRow
    from fourstage.config.studies import Study
    from fourstage.records.columns import Columns
    from fourstage.tracking.reader import RunFacts
    from fourstage.tracking.store import Destination

WORDS = {
    "baseline": "",
    "target": "",
    "sweep": "",
    "by": "",
    "exclude": "",
    "filter": "",
    "margin": "0.02",
    "allow_invalid": "false",
    "out": "",
    "uri": "sqlite:///mlruns/mlflow.db",
    "experiment": "fourstage",
}
MOST_SECONDS = 1e9  # of a stage: 30 years
TEXT_SAMPLES, TEXT_RUNS = 12, 8  # whose texts and pictures the report shows; records.parquet has all
SLUG_CHARS = 80  # of a folder's name
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
    excluded: tuple[str, ...]  # keys of samples that are in no figure
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
    out = path_of(words["out"], "out") if words["out"] else beside(where) / slug(chosen.name)
    return _compare(console(), where, chosen, by, margin, allow_invalid, out, words["exclude"])


def compare_sweep(destination: Destination, parent: str, out: Path, margin: float = 0.02) -> Compared:
    """Compare the runs nested under a parent (its run id), print it, and write the files into `out`.

    The baseline is the first valid run, where there is one. Fewer than two finished runs are no error: the result
    then has no parts, and
    a line says so. Raises UserError where the store cannot be read or `out` cannot be written.
    """
    from fourstage.comparison.selection import children, too_few
    from fourstage.screen import console

    chosen = children(destination, parent)
    screen = console()
    if len(chosen.runs) < 2:
        return _nothing(screen, chosen, f"not compared: {too_few(chosen.runs, chosen.left_out)}")
    try:
        return _compare(screen, destination, chosen, (), margin, None, out)
    except _TooFewError as error:
        return _nothing(screen, chosen, f"not compared: {error}")


class _TooFewError(UserError):
    """Fewer than two of the runs have records that can be read."""


def _nothing(screen: Console, chosen: Chosen, line: str) -> Compared:
    from fourstage.report.terminal import print_notes

    notes = (line, *_left_out(chosen.left_out))
    print_notes(screen, notes, ())
    return Compared(chosen.name, (), (), chosen.left_out, (), notes, (), f"{line}\n")


def _compare(
    screen: Console,
    destination: Destination,
    chosen: Chosen,
    by: Sequence[str],
    margin: float,
    allow_invalid: bool | None,
    out: Path,
    exclude: str = "",
) -> Compared:
    """Compare, print and write. `allow_invalid` None: an invalid baseline is allowed where no run is valid."""
    from fourstage.comparison.effects import compare
    from fourstage.comparison.findings import find
    from fourstage.report.terminal import markdown_summary, print_comparison, print_notes

    with TemporaryDirectory() as folder, _collector_at_rest():
        runs, places, left_out = read_runs(destination, chosen.runs, Path(folder))
        left_out = (*chosen.left_out, *left_out)
        named = chosen.runs[chosen.baseline] if chosen.named else None
        if len(runs) < 2 or (named is not None and all(run.run_id != named.run_id for run in runs)):
            raise _too_few(chosen, runs, left_out)
        if allow_invalid is None:
            allow_invalid = not any(run.valid for run in runs)
        whole = {run.run_id: run.columns for run in runs}
        excluded = _excluded(exclude, runs)
        runs = [replace(run, columns=_without(run.columns, excluded)) for run in runs] if excluded else runs
        groups, told = _groups(runs, named.run_id if named else None, by, allow_invalid)
        parts = []
        for label, members, first in groups:
            if excluded and not len(members[first].columns.measured):
                raise UserError(f"exclude={brief(exclude)} leaves no sample of the baseline {members[first].name}")
            found = compare(members, first, margin)
            parts.append(Part(label, found, read_texts(found, places, whole)))
    facts = {run.run_id: run for run in chosen.runs}
    study = _study(runs)
    findings = find(study.name, runs) if study else ()
    notes = [*_left_out(left_out), *_told_excluded(excluded), *told, *_doubts(runs)]
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
        excluded=excluded,
        notes=tuple(notes),
        files=(),
        markdown=markdown_summary(chosen.name, [(part.label, part.comparison) for part in parts], notes, findings),
    )
    question, command = (study.question, study.command) if study else ("", _command(chosen.parent))
    files = _write(out, compared, titles, pictures, question, command)
    screen.print(one_line(f"written: {', '.join(map(_near, files))}"), markup=False, soft_wrap=True)
    return replace(compared, files=files)


def read_runs(
    destination: Destination, runs: Sequence[RunFacts], folder: Path
) -> tuple[list[RunData], dict[str, Path], tuple[LeftOut, ...]]:
    """The runs with their columns, where the records of each are, and those that have none, with the reason.

    Records on this machine are read in place, others are downloaded into `folder`. No two runs have one name.
    """
    from fourstage.comparison.effects import RunData, cached_stages
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
            _refuse_unusable(path, columns)
            cached_stages(run.params)
        except UserError as error:
            left_out.append(LeftOut(name, run.run_id, one_line(str(error))))
            continue
        except Exception as error:  # whatever pyarrow and numpy raise for a damaged file: the others are compared
            why = f"its records.parquet cannot be read: {one_line(str(error)) or type(error).__name__}"
            left_out.append(LeftOut(name, run.run_id, why))
            continue
        places[run.run_id] = path
        found.append(
            RunData(
                run_id=run.run_id,
                name=name,
                params=run.params,
                tags=run.tags,
                metrics=run.metrics,
                columns=columns,
                valid=run.tags.get("fourstage.valid") == "true",
                checks_failed=_listed(run.tags.get("fourstage.checks_failed", "")),
                checks_warned=_listed(run.tags.get("fourstage.checks_warned", "")),
            )
        )
    return found, places, tuple(left_out)


def _refuse_unusable(path: Path, columns: Columns) -> None:
    """Raise UserError for numbers that no measurement gives: a figure of them would be one of nothing."""
    import numpy as np

    from fourstage.records.columns import SECONDS

    for name in SECONDS:
        values = getattr(columns, name)
        wrong = np.flatnonzero((values < 0) | (values > MOST_SECONDS))
        if len(wrong):
            key = columns.keys[columns.key_codes[wrong[0]]]
            raise UserError(f"{path}: {name} of {key} is {values[wrong[0]]:g}: expected seconds from 0")
    if len(columns) and columns.batch_size.min() < 1:
        raise UserError(f"{path}: a batch of {columns.batch_size.min()} samples: expected 1 or more")


def read_texts(found: Comparison, places: Mapping[str, Path], whole: Mapping[str, Columns]) -> tuple[TextRow, ...]:
    """What the first runs answered to the first samples of the baseline; `whole` has all rows of each run's file."""
    from fourstage.comparison.texts import compare_texts

    base = found.runs[found.baseline]
    runs = [base, *(run for run in found.runs if run is not base)][:TEXT_RUNS]
    measured = base.columns.measured
    keys = [measured.keys[code] for code in dict.fromkeys(measured.key_codes.tolist())][:TEXT_SAMPLES]
    return compare_texts([(run.name, _first_records(whole[run.run_id], keys, places[run.run_id])) for run in runs])


def _first_records(columns: Columns, keys: Sequence[str], path: Path) -> list[SampleRecord]:
    """Of each key the first measured record that succeeded, else the first."""
    import numpy as np

    from fourstage.records.table import read_rows

    code = {key: place for place, key in enumerate(columns.keys)}
    rows = []
    for key in keys:
        of_key = np.flatnonzero((columns.key_codes == code.get(key, -1)) & columns.is_sample)
        if len(of_key):
            done = of_key[columns.ok[of_key]]
            rows.append(done[0] if len(done) else of_key[0])
    return read_rows(path, np.array(sorted(rows), dtype=np.int64))


def _excluded(text: str, runs: Sequence[RunData]) -> tuple[str, ...]:
    """The keys of samples that `exclude=` names. Raises SettingError for a word that names none of them."""
    import difflib
    from fnmatch import fnmatchcase

    known = dict.fromkeys(key for run in runs for key in run.columns.keys)
    words = [text] if text in known else [word.strip() for word in text.split(",") if word.strip()]
    found: dict[str, None] = {}
    for word in words:
        matched = [word] if word in known else [key for key in known if fnmatchcase(key, word)]
        if not matched:
            near = difflib.get_close_matches(word[:80], list(known), n=5, cutoff=0.5)
            hint = (
                f"near it are {', '.join(near)}" if near else f"the first of {len(known)} is {next(iter(known), '-')}"
            )
            raise SettingError(f"exclude={brief(word)}: no sample of these runs has this key; {hint}")
        found |= dict.fromkeys(matched)
    return tuple(key for key in known if key in found)


def _without(columns: Columns, keys: Sequence[str]) -> Columns:
    import numpy as np

    gone = set(keys)
    codes = [code for code, key in enumerate(columns.keys) if key in gone]
    return columns.where(~np.isin(columns.key_codes, codes))


def _told_excluded(keys: Sequence[str]) -> list[str]:
    if not keys:
        return []
    samples = "1 sample is" if len(keys) == 1 else f"{len(keys)} samples are"
    more = f" and {len(keys) - TEXT_SAMPLES} more" if len(keys) > TEXT_SAMPLES else ""
    return [f"{samples} excluded from every figure: {', '.join(keys[:TEXT_SAMPLES])}{more}"]


def _groups(
    runs: Sequence[RunData], named: str | None, by: Sequence[str], allow_invalid: bool
) -> tuple[list[tuple[str, list[RunData], int]], list[str]]:
    """The groups that can be compared, each with its baseline's place, and what a reader must know of the others and
    of the choice of the baseline.

    Where no baseline is named, it is the first run against which something can be compared. Raises UserError where
    there is none.
    """
    tried = [i for i, run in enumerate(runs) if named is None or run.run_id == named]
    reasons: list[str] = []
    for baseline in tried:
        told: list[str] = []
        found = []
        for label, members, places in _divide(runs, baseline, by, told):
            if allowed := [place for place in places if members[place].valid or allow_invalid]:
                found.append((label, members, allowed[0]))
                continue
            where = f" at {label}" if label else ""
            told.append(f"not compared{where}: {_refusal(members[places[0]])}")
        if found:
            if baseline and named is None:
                told.insert(0, f"the baseline is {runs[baseline].name}: {_passed_over(runs[:baseline])}")
            return found, told
        reasons = reasons or told
    if by:
        raise UserError(f"by={brief(','.join(by))}: {'; '.join(reasons)}")
    first = _refusal(runs[tried[0]])
    raise UserError(first if named or len(tried) < 2 else f"no run of these is valid: {first}")


def _passed_over(runs: Sequence[RunData]) -> str:
    """Why none of the runs before the baseline is it."""
    invalid = [f"{run.name} before it {run.fault}" for run in runs if not run.valid]
    more = f" and {len(invalid) - 3} more" if len(invalid) > 3 else ""
    return "; ".join(invalid[:3]) + more if invalid else "those before it have nothing to be compared with"


def _refusal(run: RunData) -> str:
    return (
        f"{run.name} ({run.run_id}) is invalid, it {run.fault}: against it nothing should be claimed; name another run "
        "with baseline=, or say allow_invalid=true"
    )


def _divide(
    runs: Sequence[RunData], baseline: int, by: Sequence[str], lonely: list[str]
) -> list[tuple[str, list[RunData], list[int]]]:
    """The groups to compare: label, runs and the places that the baseline can have; what has no partner is appended
    to `lonely`.

    In each group the baseline is a run with the baseline's own values of the chosen settings.
    """
    if not by:
        return [("", list(runs), [baseline])]
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
            found.append((group.label, members, same))
    return found


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name and name != "none")


def _too_few(chosen: Chosen, runs: Sequence[RunData], left_out: Sequence[LeftOut]) -> UserError:
    wanted = chosen.runs[chosen.baseline] if chosen.named else None
    why = next((item.why for item in left_out if wanted is not None and item.run_id == wanted.run_id), None)
    if wanted is not None and why is not None:
        return _TooFewError(f"the baseline {wanted.name} ({wanted.run_id}) cannot be read: {why}")
    told = "; ".join(f"{item.name}: {item.why}" for item in left_out[:3])
    return _TooFewError(f"{chosen.name}: {len(runs)} run with records, and a comparison needs two ({told})")


def _left_out(left_out: Sequence[LeftOut]) -> list[str]:
    return [f"left out: {item.name} ({item.run_id}): {item.why}" for item in left_out]


def _doubts(runs: Sequence[RunData]) -> list[str]:
    """What speaks against the comparison: invalid runs, warnings, runs of other data, code or machines."""
    notes = ["no run of this comparison is valid: nothing should be claimed"] if not any(r.valid for r in runs) else []
    notes += [f"invalid: {run.name} {run.fault}" for run in runs if not run.valid]
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
    try:
        return read_pictures(told, keys, roots)
    except Exception as error:  # of data that changed since, or of settings that another program wrote
        return {}, f"no pictures of the samples: {type(error).__name__}: {error}"


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
            compared.excluded,
        )
        (out / "compare.json").write_text(as_json(found), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write into {brief(str(out))}: {error.strerror or error}; set out= to another folder"
        ) from error
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
    """A name as that of a folder, which leads nowhere else; two long names that begin alike have two folders."""
    text = re.sub(r"[^\w.=+-]+", "-", name, flags=re.ASCII).strip("-.") or "compare"
    if len(text) <= SLUG_CHARS:
        return text
    end = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text[: SLUG_CHARS - 9]}-{end}"


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
        raise SettingError(f"margin={brief(text)}: expected a number between 0 and 1, such as 0.02 for 2 %")
    return margin


def _flag(key: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise SettingError(f"{key}={brief(text)}: expected true or false")
    return text.lower() == "true"


if __name__ == "__main__":
    sys.exit(main())
