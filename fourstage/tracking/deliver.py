"""From a run's folder to the store: its creation there, and at its end everything that it leaves.

Both may be tried again after a failure half way, by this process or a later one (`python -m fourstage.sync`):
what arrived stays, and nothing arrives twice. Left out: what a folder holds (`folder.py`).

    announce(folder)     # RUNNING, with params and tags
    deliver(folder)      # after folder.end(…)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import islice

from fourstage.records.table import iterate_records
from fourstage.stages import SampleRecord, UserError
from fourstage.tracking.folder import RunFolder
from fourstage.tracking.store import open_store, reporting
from fourstage.tracking.writer import TrackedRun

UNDELIVERED = "fourstage.undelivered"  # on a run that the store has in part, and why
SHOWN = 10_000  # samples whose metrics and texts the UI shows; records.parquet has all


def announce(folder: RunFolder) -> TrackedRun:
    """The run in the store, made where it is not there yet, RUNNING; raises UserError where the store fails."""
    state = folder.state
    if run_id := state.run_id or _by_token(folder):
        run = TrackedRun.reopen(state.destination, run_id, running=True)
        there = run.params()  # they cannot be changed, and a sweep that goes on may have more values than before
        run.log_params({key: value for key, value in state.params.items() if key not in there})
        run.log_tags(state.tags)
    else:
        run = TrackedRun.start(state.destination, state.name, state.params, state.tags)
    if state.run_id != run.run_id:
        folder.change(run_id=run.run_id)
    return run


def deliver(folder: RunFolder, run: TrackedRun | None = None) -> str | None:
    """Send everything that the folder holds and end the run in the store. Raises UserError where the store fails.

    `run`: what `announce` gave. Gives what could not be shown and takes nothing from the measurement: why traces are
    missing.
    """
    if run is None:
        run = announce(folder)
    else:  # announced by this process: only what was added since
        run.log_tags(folder.state.tags)
    try:
        missing = _send(run, folder)
    except Exception as error:
        with suppress(UserError):  # a store that takes only some things: the run does not stay RUNNING there
            run.log_tags({UNDELIVERED: _first_line(error)})
            run.end(folder.state.status, folder.state.ended_ms)
        raise
    if UNDELIVERED in run.tags():
        run.delete_tag(UNDELIVERED)
    folder.change(delivered=True)
    folder.tidy()
    return missing


def _send(run: TrackedRun, folder: RunFolder) -> str | None:
    missing, state = None, folder.state
    run.log_metrics(state.metrics, state.ended_ms)
    if state.dataset is not None:
        run.log_dataset(**state.dataset)
    if folder.files.is_dir():
        run.log_folder(folder.files)
    if folder.records.exists():
        shown = list(islice((record for record in iterate_records(folder.records) if record.role == "sample"), SHOWN))
        run.log_samples(shown)
        if shown:
            run.log_results(shown, folder.records)
            missing = _log_traces(run, state.traces, shown)
    run.end(state.status, state.ended_ms)
    return missing


def _log_traces(run: TrackedRun, limit: int, shown: Sequence[SampleRecord]) -> str | None:
    try:
        run.log_traces(shown, limit)
        return None
    except UserError as error:
        run.log_tags({"fourstage.traces_error": str(error)})
        return str(error)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _by_token(folder: RunFolder) -> str | None:
    """The run that an earlier try made, whose answer was lost."""
    client, experiment_id = open_store(folder.state.destination)
    with reporting(folder.state.destination.uri):
        found = client.search_runs([experiment_id], f"tags.`fourstage.token` = '{folder.state.token}'", max_results=1)
    return found[0].info.run_id if found else None
