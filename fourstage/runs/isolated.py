"""A job in a process of its own, on this machine (`sweep.isolate=true`)."""

from __future__ import annotations

import os
import subprocess
import sys

from fourstage.config import schema
from fourstage.config.compose import JOB_VARIABLE
from fourstage.exit_codes import FAILED
from fourstage.runs.job import SWEEP_VARIABLE, Job
from fourstage.runs.launched import STOP_LIMIT_S
from fourstage.runs.outcome import Outcome, read_outcome
from fourstage.runs.signals import Terminated


def run_isolated(job: Job) -> Outcome:
    """Run a job in a new process; a signal to this one is passed on, and the job saves what it has."""
    from fourstage.tracking.folder import RunFolder
    from fourstage.tracking.patience import patience_with

    assert job.membership is not None
    environment = os.environ | {SWEEP_VARIABLE: job.membership.encoded(), JOB_VARIABLE: str(job.number)}
    command = [sys.executable, "-m", "fourstage.run", *job.overrides, f"hydra.run.dir={job.folder}"]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        code = process.wait()
    except (KeyboardInterrupt, Terminated):
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    if found := read_outcome(job.folder):
        if not found.delivered:  # the next job's process does not wait for the store again
            _, tracking = schema.sweep_settings(job.tree)
            patience_with(tracking.uri).give_up("it was away for the job before")
        return found
    why, folder = f"its process ended with {code}", str(job.folder)
    if (job.folder / "run.json").exists():  # the process died before it wrote an outcome
        state = RunFolder.open(job.folder).state
        return Outcome("KILLED", state.name, job.number, state.run_id, why, code=FAILED, folder=folder)
    return Outcome("FAILED", f"job {job.number}", job.number, None, why, code=FAILED)
