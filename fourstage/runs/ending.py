"""How a run ends: everything that it leaves is written into its folder, said on the screen, and sent to the store.

Nothing that fails here is raised: it is reported, and the run does not stay RUNNING.
"""

from __future__ import annotations

import traceback
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from fourstage.config import flat, run_names, schema
from fourstage.exit_codes import FAILED, UNDELIVERED
from fourstage.runs.job import Job
from fourstage.runs.measurement import Measurement
from fourstage.runs.opening import sync_command
from fourstage.runs.outcome import Outcome, describe_error, is_disk_full
from fourstage.runs.prepare import Prepared
from fourstage.runs.replicates import Replicates
from fourstage.runs.signals import signals_held
from fourstage.runs.tags import sweep_tags
from fourstage.stages import UserError
from fourstage.text import say

if TYPE_CHECKING:
    from fourstage.records.columns import Columns
    from fourstage.records.table import RecordFile
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.folder import RunFolder


def end_run(
    prepared: Prepared, folder: RunFolder, measurement: Measurement | Replicates | None, outcome: Outcome
) -> None:
    """Record and send the run, and complete its `outcome`."""
    from fourstage.tracking.deliver import deliver
    from fourstage.tracking.patience import patience_with

    if folder.gone:
        _end_deleted(folder, outcome)
        return
    disk_full = False
    try:
        _record(prepared, folder, measurement, outcome)
    except Exception as error:  # a full disk, a fault of ours
        disk_full = is_disk_full(error)
        outcome.status, outcome.why = "FAILED", describe_error(error)
        if not disk_full:
            say(f"error: {outcome.why}; not all of the run was recorded")
        if measurement is not None and measurement.file is not None and not measurement.file.closed:
            folder.records.unlink(missing_ok=True)  # unreadable without its footer; the journal has the records
    outcome.code = 0 if outcome.status == "FINISHED" else FAILED
    try:
        folder.end(outcome.status)
        outcome.metrics = dict(folder.state.metrics)
        patience_with(folder.state.destination.uri).probe()
        if warning := deliver(folder):
            say(f"warning: {warning}")
    except Exception as error:  # the store is away or full: the folder has everything
        _report_undelivered(folder, outcome, error)
    else:
        if disk_full:
            say(f"error: {outcome.why}; not all of the run was recorded")
    outcome.run_id = folder.state.run_id


def record_error(folder: RunFolder, error: Exception) -> str:
    """What ended a run: on the screen and, with its traceback, in its folder. Gives it in one line."""
    what = describe_error(error)
    if folder.gone or is_disk_full(error):  # `end_run` reports both
        return what
    more = "" if isinstance(error, UserError) else " (traceback.txt of the run has more)"
    say(f"error: {what}{more}")
    folder.add_tags({"fourstage.error": what})
    folder.add_file("traceback.txt", "".join(traceback.format_exception(error)))
    return what


def fail_job(job: Job, error: Exception) -> Outcome:
    """The outcome of a sweep's job that could not begin.

    It leaves a FAILED run where one can be made. What prevents that is reported, and stops no other job.
    """
    assert job.membership is not None
    name = run_names.name_of_varied(job.varied) or f"job {job.number}"
    outcome = Outcome("FAILED", name, job.number, why=describe_error(error), code=FAILED)
    try:
        with signals_held():
            _leave_failed_run(job, error, outcome)
    except Exception as second:  # no folder can be made, the disk is full
        say(f"error: {outcome.why}; job {job.number} leaves no run: {describe_error(second)}")
    return outcome


def _leave_failed_run(job: Job, error: Exception, outcome: Outcome) -> None:
    """The FAILED run of a job that could not begin: its settings, and what was wrong."""
    from fourstage.tracking.deliver import deliver
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.folder import RunFolder

    assert job.membership is not None
    sweep, tracking = schema.sweep_settings(job.tree)
    settings_hash = flat.identity(job.tree)
    tags = sweep_tags(job.membership) | {"fourstage.settings_hash": settings_hash}
    destination = Destination.of(tracking)
    if sweep.resume:
        _trash_failed_tries(destination, job.membership.parent, settings_hash)
    begin = partial(
        RunFolder.begin, destination=destination, name=outcome.name, params=flat.flatten(job.tree), tags=tags,
        traces=0, parent=job.membership.folder,
    )  # fmt: skip
    try:
        folder = begin(job.folder)
    except OSError:  # this may be why it could not begin
        folder = begin(job.folder.parent / f"job-{job.number}")
    outcome.folder = str(folder.path)
    record_error(folder, error)
    folder.end("FAILED")
    try:
        deliver(folder)
    except UserError as undelivered:
        _report_undelivered(folder, outcome, undelivered)
    outcome.run_id = folder.state.run_id


def _trash_failed_tries(destination: Destination, parent: str, settings_hash: str) -> None:
    """A resumed sweep holds each job once, also one that could not begin in the last session either."""
    from fourstage.tracking.reader import children_of, move_to_trash

    with suppress(UserError):  # the store is away, which is reported where the run is delivered
        for run in children_of(destination, parent, settings_hash):
            if run.status == "FAILED":
                move_to_trash(destination, run.run_id)


def _end_deleted(folder: RunFolder, outcome: Outcome) -> None:
    """The run's folder was deleted while it was measured: it is FAILED, also in the store if that is still there."""
    from fourstage.tracking.destination import database_path
    from fourstage.tracking.writer import TrackedRun

    outcome.status, outcome.code = "FAILED", FAILED
    outcome.why = f"{folder.path} was deleted during the run, and its records with it; run it again"
    outcome.run_id, destination = folder.state.run_id, folder.state.destination
    database = database_path(destination.uri)
    try:
        if outcome.run_id and (database is None or database.exists()):
            run = TrackedRun.reopen(destination, outcome.run_id)
            if run is not None:
                run.log_tags({"fourstage.error": outcome.why})
                run.end("FAILED")
    except UserError as error:
        outcome.why += f" ({error})"
    say(f"error: {outcome.why}")


def _report_undelivered(folder: RunFolder, outcome: Outcome, error: Exception) -> None:
    """The store did not take the run: it stays in its folder."""
    say(f"error: {describe_error(error)}; the run stays in {folder.path}: {sync_command(folder)} sends it")
    outcome.delivered = False
    outcome.code = max(outcome.code, UNDELIVERED)


def _record(
    prepared: Prepared, folder: RunFolder, measurement: Measurement | Replicates | None, outcome: Outcome
) -> None:
    """Everything that a run leaves, after the measurement, into its folder and on the screen."""
    from fourstage.comparison.floors import in_words, processes
    from fourstage.config.compose import as_yaml
    from fourstage.records.columns import Columns
    from fourstage.records.table import RecordFile
    from fourstage.report.run_table import print_run
    from fourstage.runs.environment import git_diff
    from fourstage.trust.check import as_dict, as_tags, not_finished

    config = prepared.config
    file = (measurement.file if measurement else None) or RecordFile(folder.records)
    file.close()
    checks = (measurement.checks if measurement else []) or [not_finished(outcome.status, file.count)]
    figures = measurement.figures if measurement else {}
    folder.add_file("config.yaml", as_yaml(prepared.job.tree))
    if measurement is not None and (machine := measurement.environment()):
        folder.add_file("environment.json", machine)
    folder.add_file("checks.json", as_dict(checks))
    if diff := git_diff():
        folder.add_file("git_diff.patch", diff)
    if measurement and measurement.tracebacks:
        folder.add_file("tracebacks.txt", "\n".join(measurement.tracebacks))
    columns = Columns.read(file.path).measured
    folder.add_tags(as_tags(checks) | {"fourstage.source_read": ",".join(columns.sources) or "none"})
    folder.add_metrics(_metrics(columns, file) | figures)
    remark = schema.DemoWeights.note if isinstance(config.weights, schema.DemoWeights) else ""
    if remark:
        folder.add_tags({"fourstage.note": remark})
    print_run(
        prepared.name, folder.state.run_id or "not in the store yet", outcome.status, file, columns, checks,
        figures, config.tracking.uri, remark,
    )  # fmt: skip
    count = len(set(columns.replicate.tolist()))
    if count > 2 and (floors := processes(columns).floors):  # of two, the bound says little
        print(f"{count} processes: {in_words(floors)}", flush=True)


def _metrics(columns: Columns, file: RecordFile) -> dict[str, float]:
    """The run's metrics; the quality of answers is computed on the first `SHOWN` samples."""
    from fourstage.records.quality import quality
    from fourstage.records.summary import summarise_run
    from fourstage.tracking.deliver import SHOWN

    shown = list(islice((record for record in file if record.role == "sample"), SHOWN))
    return summarise_run(columns) | quality(shown)
