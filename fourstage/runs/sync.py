"""Deliver the runs that the store did not take, and end those whose process died.

Each run is sent from its folder (`tracking/folder.py`), whole and once: idempotent, safe to retry. A run whose process
was killed is sent as KILLED with the samples that it had finished; one that still runs is left alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fourstage.exit_codes import UNDELIVERED
from fourstage.runs.outcome import describe_error
from fourstage.stages import UserError
from fourstage.text import say

if TYPE_CHECKING:
    from fourstage.tracking.folder import RunFolder


def sync(root: Path, uri: str = "") -> int:
    """Deliver what lies below `root`, of one store only where `uri` names it. Gives the exit code.

    What could not be sent is reported and stays.
    """
    from fourstage.tracking.destination import resolved_uri
    from fourstage.tracking.folder import undelivered
    from fourstage.tracking.patience import WAIT_S, forget, patience_with

    forget()
    unreadable: list[UserError] = []
    sent = left = 0
    for folder in undelivered(root, unreadable.append):
        state = folder.state
        if uri and state.destination.uri != resolved_uri(uri):
            say(f"left {state.name} ({folder.path}): it goes to {state.destination.uri}")
            continue
        alive = state.process.alive() if state.status == "RUNNING" else False
        if alive is not False:
            where = "still goes on" if alive else f"may still go on, on {state.process.host}: call sync there"
            say(f"left {state.name} ({folder.path}): it {where}")
            continue
        patience_with(state.destination.uri).begin(WAIT_S)
        try:
            sent += send(folder)
        except Exception as error:  # of one run: the others are sent
            left += 1
            say(f"error: {describe_error(error)}; {state.name} stays in {folder.path}")
    for fault in unreadable:
        say(f"error: {fault}; it is not sent: mend the file, or move its folder away")
    left += len(unreadable)
    say(f"{sent} sent, {left} could not be sent" if sent or left else f"nothing to send below {root}")
    return UNDELIVERED if left else 0


def send(folder: RunFolder) -> bool:
    """Deliver a run whose process ended; whether there was anything to deliver.

    A run whose process died is ended first. Where another run has replaced it, or it died before it had a record, its
    folder is marked as done. Raises UserError where the store fails.
    """
    from fourstage.tracking.deliver import deliver

    if why := superseded(folder):
        folder.supersede()
        say(f"not sent: {folder.state.name} ({folder.path}): {why}")
        return False
    if folder.state.status == "RUNNING":
        end_dead(folder)
    if warning := deliver(folder):
        say(f"warning: {warning}")
    say(f"sent {folder.state.name} ({folder.state.status}) as run {folder.state.run_id}")
    return True


def superseded(folder: RunFolder) -> str:
    """Why a run that was not delivered must not be any more; "": it must. Raises UserError where the store fails.

    A resumed sweep takes over its parent's run, which then has the new folder's token; and it measures a job
    again where the store had not heard of it.
    """
    from fourstage.tracking.deliver import run_of
    from fourstage.tracking.reader import children_of

    state = folder.state
    run = run_of(folder)
    if run is not None:
        now, own = run.data.tags, state.tags
        if now.get("fourstage.token") == state.token or now.get("fourstage.folder") == own.get("fourstage.folder"):
            return ""
        return f"run {run.info.run_id} went on from {now.get('fourstage.folder')}"
    has_records = any(True for _ in folder.journaled())
    if state.status == "RUNNING" and not has_records and not any(folder.path.glob("*/run.json")):
        return "its process died before it had begun"
    parent, identity = state.tags.get("mlflow.parentRunId"), state.tags.get("fourstage.identity")
    if parent and identity:
        for other in children_of(state.destination, parent, state.tags.get("fourstage.settings_hash")):
            counts = state.status != "FINISHED" or other.status in ("FINISHED", "RUNNING")
            if counts and other.tags.get("fourstage.identity") == identity:
                return f"its sweep measured this job again, as run {other.run_id}"
    return ""


def end_dead(folder: RunFolder) -> None:
    """End a run whose process died: KILLED, with the figures of the samples that it had finished."""
    from fourstage.records.columns import Columns
    from fourstage.records.summary import summarise_run
    from fourstage.records.table import write_records
    from fourstage.trust.check import as_dict, as_tags, not_finished

    folder.records.unlink(missing_ok=True)  # unreadable without its footer; the journal has the records
    if records := list(folder.journaled()):
        write_records(records, folder.records)
        folder.add_metrics(summarise_run(Columns.read(folder.records).measured))
    checks = [not_finished("KILLED", len(records))]
    folder.add_file("checks.json", as_dict(checks))
    folder.add_tags(as_tags(checks) | {"fourstage.error": "its process died"})
    folder.end("KILLED")
