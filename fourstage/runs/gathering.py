"""How every job of a sweep ended, also of those that died or never began.

outcomes, children = gather_outcomes(parent_folder, membership, expected, known)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fourstage.exit_codes import FAILED
from fourstage.runs.job import Membership
from fourstage.runs.outcome import NOT_STARTED, OUTCOME, Outcome, read_outcome
from fourstage.stages import UserError

if TYPE_CHECKING:
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.folder import RunFolder
    from fourstage.tracking.reader import RunFacts


def gather_outcomes(
    parent: RunFolder,
    membership: Membership,
    expected: Sequence[Sequence[str]] | None,
    known: Mapping[int, Outcome],
) -> tuple[dict[int, Outcome], list[RunFacts]]:
    """The outcome of every job by its number, and the sweep's runs in the store.

    `known` are the outcomes of this process, `expected` the overrides of each job. Other processes leave theirs in
    the job's folder; a job that left none is found in the store, and ended there where its process died.
    """
    from fourstage.runs.resume import process_of
    from fourstage.tracking.reader import children_of

    destination = parent.state.destination
    outcomes = dict(known)
    for path in parent.path.glob(f"*/{OUTCOME}"):
        if (found := read_outcome(path.parent)) and found.job is not None:
            outcomes.setdefault(found.job, found)
    try:
        children = children_of(destination, parent_run_id(parent, membership) or membership.parent)
    except UserError:  # the store is away; the folders say how the jobs ended
        children = []
    for run in children:
        number = int(run.tags.get("fourstage.job", -1))
        if run.tags.get("fourstage.session") == membership.session:
            outcomes.setdefault(number, _ended(destination, run, number))  # also where a later try left an outcome
        elif run.status == "RUNNING" and (process := process_of(run)) and process.alive() is False:
            _end_dead(destination, run)  # of an earlier session, and no job of this one
    for number, overrides in enumerate(expected or ()):
        if number not in outcomes:
            outcomes[number] = Outcome(NOT_STARTED, " ".join(overrides), number, why="it never began", code=FAILED)
    return dict(sorted(outcomes.items())), children


def parent_run_id(folder: RunFolder, membership: Membership) -> str | None:
    """The parent's run id in the store, which may have got it late, or lost it and got it again."""
    from fourstage.tracking.reader import find_by_token, parent_in_store

    state = folder.state
    return parent_in_store(state.destination, membership.parent) or find_by_token(state.destination, state.token)


def _ended(destination: Destination, run: RunFacts, number: int) -> Outcome:
    """The outcome of a job that left none: its run in the store, ended where its process died."""
    folder = run.tags.get("fourstage.folder", "")
    if run.status == "FINISHED":
        return Outcome("FINISHED", run.name, number, run.run_id, metrics=run.metrics, folder=folder)
    status, why = run.status, run.tags.get("fourstage.error", "")
    if status == "RUNNING":
        status, why = _end_dead(destination, run), "its process died"
    code = 0 if status == "FINISHED" else FAILED
    return Outcome(status, run.name, number, run.run_id, why, code=code, folder=folder)


def _end_dead(destination: Destination, run: RunFacts) -> str:
    """End a run that is RUNNING in the store and whose process died; gives its status."""
    from fourstage.runs.sync import end_dead
    from fourstage.tracking.deliver import deliver
    from fourstage.tracking.writer import TrackedRun

    if (folder := _folder_of(run)) is not None:
        if folder.state.status == "RUNNING":
            end_dead(folder)
        deliver(folder)
        return folder.state.status
    dead = TrackedRun.reopen(destination, run.run_id)  # its folder is on another machine's disk
    if dead is not None:
        dead.log_tags({"fourstage.error": "its process died"})
        dead.end("KILLED")
    return "KILLED"


def _folder_of(run: RunFacts) -> RunFolder | None:
    """The folder of a run, if this machine has it."""
    from fourstage.tracking.folder import RunFolder

    try:
        folder = RunFolder.open(Path(run.tags.get("fourstage.folder", "")))
    except UserError:
        return None
    return folder if folder.state.run_id == run.run_id else None
