"""From a run's folder to the store: its creation there, and at its end everything that it leaves.

Both may be tried again after a failure half way, by this process or a later one (`fourstage sync`):
what arrived stays, and nothing arrives twice. Left out: what a folder holds (`folder.py`).

    announce(folder)     # RUNNING, with params and tags
    deliver(folder)      # after folder.end(…)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from fourstage.records.figures import for_table
from fourstage.records.table import iterate_records
from fourstage.stages import SampleRecord, UserError
from fourstage.tracking.destination import LOCK_LIMIT_S
from fourstage.tracking.failures import reporting
from fourstage.tracking.folder import NAME, RunFolder
from fourstage.tracking.reader import PARENT, find_by_token, parent_in_store
from fourstage.tracking.store import open_store
from fourstage.tracking.writer import TrackedRun

if TYPE_CHECKING:
    from mlflow.entities import Run

UNDELIVERED = "fourstage.undelivered"  # on a run that the store has in part, and why
SESSIONS = "fourstage.sessions"  # how many -m a sweep took so far, on its parent
SHOWN = 10_000  # samples whose metrics and texts the UI shows; records.parquet has all


def announce(folder: RunFolder) -> TrackedRun:
    """The run in the store, made where it is not there yet or was lost, RUNNING.

    A job's parent is made before it. Raises StoreAwayError or UserError where the store fails.
    """
    open_store(folder.state.destination)  # makes it where it is missing
    _find_parent(folder)
    state, run = folder.state, None
    if state.run_id:
        run = TrackedRun.reopen(state.destination, state.run_id, running=True)
    if run is None and (found := find_by_token(state.destination, state.token)):
        run = TrackedRun.reopen(state.destination, found, running=True)
    if run is None:
        run = TrackedRun.start(state.destination, state.name, state.params, state.tags, state.started_ms)
    else:
        there = run.params()  # they cannot be changed, and a resumed sweep may have more values than before
        run.log_params({key: value for key, value in state.params.items() if key not in there})
        run.log_tags(state.tags)
    if state.run_id != run.run_id:
        folder.change(run_id=run.run_id)
    return run


def deliver(folder: RunFolder) -> str | None:
    """Send everything that the folder holds and end the run in the store. Raises UserError where the store fails.

    Gives what could not be shown and takes nothing from the measurement: why traces are missing.
    """
    run = announce(folder)
    try:
        missing = _send(run, folder)
    except Exception as error:
        with suppress(UserError):  # a store that takes only some things: the run does not stay RUNNING there
            run.log_tags({UNDELIVERED: _first_line(error)})
            run.end(folder.state.status, folder.state.ended_ms)
        raise
    if UNDELIVERED in run.tags():
        run.delete_tag(UNDELIVERED)
    run.check_ended(folder.state.status)
    folder.change(delivered=True)
    folder.tidy()
    return missing


def _find_parent(folder: RunFolder) -> None:
    """Put the id of a sweep's parent on its job: the store may not have had it when the job began, or have lost it."""
    state = folder.state
    parent = state.tags.get(PARENT)
    if parent is None or (found := parent_in_store(state.destination, parent)) == parent:
        return
    if found is None and state.parent and (Path(state.parent) / NAME).exists():
        with FileLock(Path(state.parent) / "announce.lock", timeout=LOCK_LIMIT_S):  # its other jobs may be at it
            parent_folder = RunFolder.open(Path(state.parent))
            run = announce(parent_folder)
            if parent_folder.state.status != "RUNNING":
                run.end(parent_folder.state.status, parent_folder.state.ended_ms)
            found = run.run_id
    if found is not None:
        folder.add_tags({PARENT: found})


def _send(run: TrackedRun, folder: RunFolder) -> str | None:
    missing, state = None, folder.state
    # MLflow keeps every value that a metric ever had: a job that may go on has its figures when it is finished, and the
    # parent of a resumed sweep has them once for each session
    if state.status == "FINISHED" or "mlflow.parentRunId" not in state.tags:
        run.log_metrics(for_table(state.metrics), state.ended_ms, step=int(state.tags.get(SESSIONS, 1)) - 1)
    if state.dataset is not None:
        run.log_dataset(**state.dataset)
    if folder.files.is_dir():
        run.log_folder(folder.files)
    if folder.records.exists():
        shown = list(islice((record for record in iterate_records(folder.records) if record.role == "sample"), SHOWN))
        run.log_samples(shown)
        if shown:
            run.log_results(shown, folder.records)
            # one trace a sample: the UI pairs runs by sample, and the other replicates answer the same
            first = [record for record in shown if record.replicate == shown[0].replicate]
            missing = _log_traces(run, state.traces, first, fault_of(state.tags))
    run.end(state.status, state.ended_ms)
    return missing


def _log_traces(run: TrackedRun, limit: int, shown: Sequence[SampleRecord], fault: str) -> str | None:
    try:
        run.log_traces(shown, limit, fault)
        return None
    except UserError as error:
        run.log_tags({"fourstage.traces_error": str(error)})
        return str(error)


def fault_of(tags: Mapping[str, str]) -> str:
    """Why a run is invalid, from its tags; "" where it is valid."""
    if tags.get("fourstage.valid") == "true":
        return ""
    failed = tags.get("fourstage.checks_failed", "none")
    return "was never checked" if failed == "none" else f"failed {failed.replace(',', ', ')}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def run_of(folder: RunFolder) -> Run | None:
    """The folder's run in the store, also one whose creation was not answered; None where it has none."""
    from mlflow.exceptions import MlflowException

    state = folder.state
    client, _ = open_store(state.destination)
    with reporting(state.destination.uri):
        if run_id := state.run_id:
            try:
                return client.get_run(run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # the store has lost it
                    raise
        found = find_by_token(state.destination, state.token)
        return client.get_run(found) if found else None
