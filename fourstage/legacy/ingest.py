"""Old result files in the store: one run for each model of the file, with the checks of a new run.

The layouts that can be read are in `layouts.py`. A file that is in the store already is left alone, unless asked again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fourstage.config.values import SettingError
from fourstage.exit_codes import FAILED
from fourstage.legacy.keys import shown
from fourstage.legacy.layouts import NoResultsError
from fourstage.legacy.reader import LegacyRun, read_legacy
from fourstage.paths import readable_file
from fourstage.stages import UserError
from fourstage.text import line, say

if TYPE_CHECKING:
    from fourstage.records.columns import Columns
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.reader import RunFacts
    from fourstage.tracking.writer import TrackedRun
    from fourstage.trust.check import Check


def ingest(given: Mapping[str, str]) -> int:
    """Read the file and leave its runs in the store. Gives the exit code; raises UserError before anything is there."""
    if not given["file"]:
        raise SettingError("which file? file=results.json")
    if given["again"] not in ("true", "false"):
        raise SettingError(f"again={given['again']}: expected again=true or again=false")
    path = readable_file(given["file"], "file")
    runs, digest = read_file(path, given["unit"])
    if not any(record.ok for run in runs for record in run.records):
        failed = [record for run in runs for record in run.records]
        raise NoResultsError(f"{path}: no results: all {len(failed)} failed, the first by: {failed[0].error}")

    from fourstage.tracking.destination import Destination
    from fourstage.tracking.store import open_store

    where = Destination(given["uri"], None, given["experiment"])
    open_store(where)  # made where it is missing
    there = _there(where, digest)
    sweep = f"{path.stem}-{digest[:8]}"
    if given["again"] == "true" and there:
        sweep += f"-{1 + len({run.tags['fourstage.sweep'] for run in there})}"
        there = []
    present = {run.params.get("model.name", ""): run for run in reversed(there)}
    for model, run in present.items():
        there_already = f"{model} of {shown(path)} is there already: run {run.name}  id {run.run_id}"
        print(line(f"{there_already}; again=true takes it in again"))
    origin = Origin(path, digest, sweep, given["name"] or shown(path.stem))
    new = [(job, run) for job, run in enumerate(runs) if run.model not in present]
    if new:
        _print_reading(path, runs)
    statuses = [_take_in(where, run, origin, job) for job, run in new]
    if new:
        _print_what_no_file_shows(sweep)
    return FAILED if "FAILED" in statuses else 0


def _print_reading(path: Path, runs: Sequence[LegacyRun]) -> None:
    """How the file was understood, so that a wrong reading is seen."""
    from fourstage.screen import console
    from fourstage.screen import shown as on_screen

    screen = console()
    first = runs[0]
    unit = {"s": "seconds", "ms": "milliseconds"}[first.unit]
    models = ", ".join(run.model for run in runs)
    how = f"layout {first.layout} with {models}; times are {unit} ({first.unit_evidence})"
    screen.print(on_screen(f"{shown(path)}: {how}"))
    for notes, of_models in _alike({run.model: run.notes for run in runs}).items():
        screen.print(on_screen(f"{', '.join(of_models)}: {'; '.join(notes)}"))


def _alike(notes: Mapping[str, tuple[str, ...]]) -> dict[tuple[str, ...], list[str]]:
    found: dict[tuple[str, ...], list[str]] = {}
    for model, lines in notes.items():
        if lines:
            found.setdefault(lines, []).append(model)
    return found


def _print_what_no_file_shows(sweep: str) -> None:
    from fourstage.legacy.checks import NOT_IN_A_FILE
    from fourstage.screen import console
    from fourstage.screen import shown as on_screen

    screen = console()
    screen.print(f"[dim]not possible[/dim] on any result file: {', '.join(NOT_IN_A_FILE)} (checks.json says why)")
    screen.print(on_screen(f"compare: fourstage compare sweep={sweep}"))


def read_file(path: Path, unit: str = "") -> tuple[tuple[LegacyRun, ...], str]:
    """The runs of a result file, and its sha256. Raises UserError with the file's name."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no UTF-8 at byte {error.start}, so no JSON") from error
    try:
        return read_legacy(text, unit), hashlib.sha256(content).hexdigest()
    except SettingError:
        raise
    except UserError as error:
        raise type(error)(f"{path}: {error}") from error


@dataclass(frozen=True)
class Origin:
    """Where runs came from, and what ties them together."""

    path: Path
    digest: str
    sweep: str
    name: str  # that of the file, or what stands for it


def _there(where: Destination, digest: str) -> list[RunFacts]:
    """The runs of this content that were recorded whole, newest first."""
    from fourstage.tracking.reader import find_runs

    runs = find_runs(where, f"tags.`fourstage.file_hash` = '{digest}'")
    # the checks are among the last that is written: without them the recording was stopped
    return [run for run in runs if run.status != "RUNNING" and "fourstage.valid" in run.tags]


def _take_in(where: Destination, legacy: LegacyRun, origin: Origin, job: int) -> str:
    """One run, from its creation in the store to its end there; gives its status."""
    from fourstage.legacy.checks import NOT_IN_A_FILE, check_legacy
    from fourstage.records.columns import Columns
    from fourstage.records.table import RecordFile
    from fourstage.records.units import seconds
    from fourstage.report.run_table import print_run
    from fourstage.screen import console
    from fourstage.tracking.writer import TrackedRun

    checks = check_legacy(legacy)
    name = f"{legacy.model}-{origin.name}"
    with TemporaryDirectory(prefix="fourstage-") as folder:
        with RecordFile(Path(folder) / "records.parquet") as file:
            for record in legacy.records:
                file.append(record)
        done = "FINISHED" if file.count > file.failed else "FAILED"
        status = "FAILED"  # until all of it is recorded
        run = TrackedRun.start(where, name, legacy.params, _tags(legacy, origin, job))
        try:
            columns = Columns.read(file.path).measured
            possible = [check for check in checks if check.id not in NOT_IN_A_FILE]
            print_run(name, run.run_id, done, file, columns, possible, {}, where.uri)
            if generate := _of_the_file(legacy).get("generate_s.median"):
                console().print(f"generate, which is encode and decode together: median {seconds(generate)}")
            _record(run, legacy, origin, checks, columns, file.path)
            status = done
        except UserError as error:
            say(f"error: {error}; not all of the run was recorded")
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            run.end(status)
    return status


def _record(
    run: TrackedRun, legacy: LegacyRun, origin: Origin, checks: Sequence[Check], columns: Columns, records: Path
) -> None:
    """Everything that a run of ours leaves, as far as a file has it; no traces, since a file has no start times."""
    from fourstage.records.quality import quality
    from fourstage.records.summary import summarise_run
    from fourstage.tracking.deliver import SHOWN
    from fourstage.trust.check import as_dict, as_tags

    name = legacy.params.get("dataset.name", origin.path.stem)
    run.log_dataset(name, origin.digest, str(origin.path), len(legacy.records))
    shown = legacy.records[:SHOWN]
    run.log_samples(shown)
    run.log_metrics(summarise_run(columns) | _of_the_file(legacy) | quality(shown))
    run.log_results(shown, records)
    run.log_dict(
        "legacy.json",
        {
            "file": str(origin.path),
            "sha256": origin.digest,
            "layout": legacy.layout,
            "unit": legacy.unit,
            "unit_evidence": legacy.unit_evidence,
            "stage_of": {str(number): ours for number, ours in legacy.stage_of.items()},
            "notes": list(legacy.notes),
            "params": dict(legacy.params),
        },
    )
    run.log_dict("checks.json", as_dict(checks))
    run.log_tags(as_tags(checks))


def _of_the_file(legacy: LegacyRun) -> dict[str, float]:
    """Figures that only a file has: generate, where encode and decode are not apart, and prompts' lengths."""
    from statistics import fmean

    from fourstage.records.figures import DISTRIBUTION, TOKENS_IN
    from fourstage.records.summary import summarise

    figures: dict[str, float] = {}
    samples = [facts for record, facts in zip(legacy.records, legacy.facts, strict=True) if record.ok]
    if "generate" in legacy.stage_of.values() and samples:
        summary = summarise([sample.stage_s[-1] for sample in samples])
        figures |= {f"generate_s.{figure}": getattr(summary, figure) for figure in DISTRIBUTION}
    if prompts := [sample.prefill_length for sample in samples if sample.prefill_length is not None]:
        figures[TOKENS_IN.metric] = fmean(prompts)
    return figures


def _tags(legacy: LegacyRun, origin: Origin, job: int) -> dict[str, str]:
    from fourstage.version import __version__

    return {
        "fourstage.version": __version__,
        "fourstage.ingested": "true",
        "fourstage.file": str(origin.path),
        "fourstage.file_hash": origin.digest,
        "fourstage.layout": legacy.layout,
        "fourstage.unit": legacy.unit,
        "fourstage.unit_evidence": legacy.unit_evidence,
        "fourstage.notes": "; ".join(legacy.notes) or "none",
        "fourstage.sweep": origin.sweep,
        "fourstage.job": str(job),
    }
