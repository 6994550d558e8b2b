"""A job in the process that a launcher gave it: joblib's, submitit's or Ray's.

Its outcome is written into its folder, where the process that started the sweep finds it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fourstage.config import schema
from fourstage.runs.job import Job
from fourstage.runs.outcome import OUTCOME, Outcome, describe_error, write_outcome
from fourstage.runs.prepare import Shared
from fourstage.runs.session import run_job
from fourstage.runs.signals import Terminated, signals_raised
from fourstage.stages import UserError
from fourstage.text import say, say_traceback

STOP_LIMIT_S = 15  # that such a process may take to save what it has


def run_and_report(job: Job, shared: Shared) -> Outcome:
    """Run a job and write its outcome into its folder."""
    with suppress(OSError):  # whatever is wrong with the folder, the job reports
        (job.folder / OUTCOME).unlink(missing_ok=True)  # of an earlier try
    outcome = run_job(job, shared)
    try:
        write_outcome(job.folder, outcome)
    except OSError as error:  # the sweep finds the run in the store
        say(f"warning: {describe_error(error)}: what became of {job.title} is not in its folder")
    return outcome


def run_in_launcher(job: Job, shared: Shared) -> Outcome | None:
    """A job in a launcher's process; None where it was stopped. Catches everything: some launchers abort the sweep
    on an exception."""
    if _sweep_has_ended(job):
        say(f"job {job.number}: not run, its sweep was stopped")
        return None
    with signals_raised():
        try:
            return run_and_report(job, shared)
        except (KeyboardInterrupt, Terminated):
            return None  # the run is KILLED, and said so
        except SystemExit:
            if "SUBMITIT_EXECUTOR" in os.environ:  # its way to give a job that is preempted to a later process
                raise
            return None  # Ray's way to stop a job
        except Exception:
            say_traceback()
            return None


def objective(job: Job, outcome: Outcome | None) -> float | None:
    """The figure that a sweeper optimises; None where the job has none, which Optuna counts as a failed trial."""
    if outcome is None:
        return None
    name = str(job.tree.get("objective"))
    if name in outcome.metrics:
        return outcome.metrics[name]
    if outcome.metrics:
        known = ", ".join(sorted(outcome.metrics))
        say(f"warning: objective={name} is no figure of this run; there are {known}")
    return None


def stop_processes() -> None:
    """End what a launcher started and an interrupted sweep would leave running."""
    import psutil

    left = [
        process
        for process in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(process.cmdline())  # Python's own, which end after this one
    ]
    for process in left:
        process.terminate()
    _, alive = psutil.wait_procs(left, timeout=STOP_LIMIT_S)
    for process in alive:
        process.kill()


def reaches_from_afar(tree: Mapping[str, Any]) -> bool:
    """Whether a machine without the sweep's folder can reach the store; reports where it cannot."""
    _, tracking = schema.sweep_settings(tree)
    if tracking.uri.startswith(("http://", "https://", "postgresql", "mysql", "mssql", "databricks")):
        return True
    say(
        f"error: tracking.uri={tracking.uri} is on the disk of the machine where the sweep began, and this one does "
        "not see it: share the disk, or use tracking=server"
    )
    return False


def _sweep_has_ended(job: Job) -> bool:
    """Whether the sweep of a job that begins only now was stopped: then its result is not wanted."""
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.reader import PENDING, find_runs

    membership = job.membership
    assert membership is not None
    _, tracking = schema.sweep_settings(job.tree)
    which = f"attributes.run_id = '{membership.parent}'"
    if membership.parent.startswith(PENDING):
        which = f"tags.`fourstage.token` = '{membership.parent.removeprefix(PENDING)}'"
    try:
        found = find_runs(
            Destination.of(tracking),
            f"{which} and tags.`fourstage.session` = '{membership.session}'",
        )
    except UserError:  # the store is away: the job runs, and is sent later
        return False
    return bool(found) and found[0].status != "RUNNING"
