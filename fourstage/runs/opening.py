"""How a run begins: is it measured already, can it go on from a half-done one, where do its folder and its run go?

skipped, earlier = look_back(prepared, membership)
folder = open_run(prepared, earlier)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fourstage.config import flat
from fourstage.credentials import variables
from fourstage.runs.identity import Identity
from fourstage.runs.job import Job, Membership
from fourstage.runs.outcome import Outcome
from fourstage.runs.prepare import Prepared
from fourstage.runs.tags import machine_tag, run_tags
from fourstage.stages import UserError
from fourstage.text import say

if TYPE_CHECKING:
    from fourstage.runs.resume import HalfDone
    from fourstage.tracking.folder import RunFolder


def is_retried(job: Job) -> bool:
    """Is the launcher retrying this job after a crash?"""
    from fourstage.tracking.folder import RunFolder

    try:
        state = RunFolder.open(job.folder).state
    except UserError:
        return False
    return job.membership is not None and state.tags.get("fourstage.session") == job.membership.session


def look_back(prepared: Prepared, membership: Membership) -> tuple[Outcome | None, HalfDone | None]:
    """The outcome of a job that was measured before; or the half-done run that it continues."""
    from fourstage.runs.resume import find_earlier

    found = find_earlier(
        membership.parent,
        prepared.identity,
        prepared.config,
        prepared.samples,
        prepared.destination,
        machine_tag(prepared.config),
    )
    for line in found.messages:
        say(f"job {membership.job}: {line}")
    if found.finished is not None:
        run = found.finished
        say(f"job {membership.job}: skipped, run {run.name} ({run.run_id}) has it, finished and valid")
        return Outcome("SKIPPED", run.name, membership.job, run.run_id, "measured before", run.metrics), None
    if (earlier := found.half_done) is not None:
        say(f"job {membership.job}: goes on with run {earlier.folder.state.name}, {earlier.amount} are there")
    return None, found.half_done


def open_run(prepared: Prepared, earlier: HalfDone | None) -> RunFolder:
    """The run's folder, and the run in the store: sent later where the store cannot be reached.

    Raises UserError for a single run whose store cannot be used.
    """
    from fourstage.tracking.deliver import announce
    from fourstage.tracking.patience import StoreAwayError, patience_with

    job, config = prepared.job, prepared.config
    folder = _new_folder(prepared) if earlier is None else _folder_of(earlier, prepared)
    if clock := folder.state.tags.get("fourstage.clock"):
        say(f"warning: this machine's clock is {clock}; the run is measured and sent all the same")
    folder.change(
        dataset={
            "name": config.dataset.name,
            "digest": prepared.identity.dataset,
            "source": str(prepared.samples[0].root),
            "samples": len(prepared.samples),
        }
    )
    patience_with(folder.state.destination.uri).begin(config.tracking.wait_s)
    try:
        announce(folder)
    except UserError as error:
        if job.membership is None and not isinstance(error, StoreAwayError):
            folder.discard()
            raise
        say(f"warning: {error}; the run stays in {folder.path} and is sent at its end or by {sync_command(folder)}")
    except BaseException:
        folder.change(status="KILLED", delivered=folder.state.run_id is None)
        raise
    return folder


def _new_folder(prepared: Prepared) -> RunFolder:
    from fourstage.tracking.folder import RunFolder

    job, config = prepared.job, prepared.config
    return RunFolder.begin(
        job.folder, prepared.destination, prepared.name, flat.flatten(job.tree),
        run_tags(config, prepared.identity, job.membership), config.tracking.traces,
        parent=job.membership.folder if job.membership else None,
    )  # fmt: skip


def _folder_of(earlier: HalfDone, prepared: Prepared) -> RunFolder:
    """The folder of a half-done run, which is this process's now."""
    from fourstage.tracking.folder import Process

    folder = earlier.folder
    position = earlier.records[-1].position + 1 if earlier.records else f"replicate {earlier.replicates}"
    tags = run_tags(prepared.config, prepared.identity, prepared.job.membership)
    tags |= {"fourstage.process": str(Process.this()), "fourstage.continued_at": str(position)}
    folder.change(
        tags=folder.state.tags | tags,
        process=Process.this(),
        status="RUNNING",
        ended_ms=None,
        delivered=False,
        metrics={},
    )
    return folder


def withdraw_twin(folder: RunFolder, identity: Identity, membership: Membership) -> str | None:
    """Another job of the same -m with the same identity that began before: its run id, and this run is withdrawn.

    Jobs in other processes see each other only in the store: all have made their run there, the first one counts.
    """
    from fourstage.tracking.patience import StoreAwayError
    from fourstage.tracking.reader import children_of, move_to_trash

    own = folder.state.run_id
    if own is None:
        return None
    try:
        children = children_of(folder.state.destination, membership.parent, identity.settings)
    except StoreAwayError:  # reported where the run is delivered
        return None
    same = [
        run
        for run in children
        if run.tags.get("fourstage.session") == membership.session
        and run.tags.get("fourstage.identity") == identity.whole
        # an earlier try of this very job does not count
        and (run.run_id == own or run.tags.get("fourstage.job") != str(membership.job))
    ]
    first = min(same, key=lambda run: (run.started_unix_s, run.run_id), default=None)
    if first is None or first.run_id == own:
        return None
    move_to_trash(folder.state.destination, own)
    folder.discard()
    return first.run_id


def sync_command(folder: RunFolder) -> str:
    """The command that sends a run from its folder, and where it gets the password that no file holds."""
    needed = variables(folder.state.destination.uri)
    return "fourstage sync" + (f" (with {needed} set, or tracking.uri=... again)" if needed else "")
