"""What Hydra calls: `SweepCallback` before and during the jobs of an -m, `run_composed` with each composition."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from fourstage.cli.process import current_command
from fourstage.config.compose import as_tree, check_working_folder, from_hydra
from fourstage.config.launchers import continue_without_folders, prepare
from fourstage.config.multirun import mask_written_settings, read_multirun, set_in_jobs
from fourstage.exit_codes import FAILED, UNUSABLE
from fourstage.runs import sweep
from fourstage.runs.ending import fail_job
from fourstage.runs.job import SWEEP_VARIABLE, Job, Membership
from fourstage.runs.launched import objective, reaches_from_afar, run_and_report, run_in_launcher
from fourstage.runs.outcome import describe_error, write_outcome
from fourstage.runs.session import run_job
from fourstage.stages import UserError
from fourstage.text import say, say_traceback

if TYPE_CHECKING:
    from omegaconf import DictConfig


class CannotBeginError(UserError):
    """A sweep that could not begin; `code` is the exit code."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


class SweepCallback(Callback):
    """Makes the parent before any job. Hydra turns what a callback raises into a warning, but not SystemExit."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _callback_in_launcher, ()  # a launcher's process unpickles this before its first job

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Begin the sweep's parent run and name it to the jobs. Raises SystemExit where the sweep cannot begin."""
        command = current_command()
        try:
            prepare(config, fail_without_folder)
            begun = command.sweep = sweep.begin(read_multirun(config))
            set_in_jobs(config, SWEEP_VARIABLE, begun.membership.encoded())
        except UserError as error:
            command.error = error
            raise SystemExit(UNUSABLE) from error
        except Exception as error:
            expected = isinstance(error, OSError) or from_hydra(error)
            if not expected and not type(error).__module__.startswith("mlflow"):
                say_traceback()  # a fault of ours is shown in full
            first = next(iter(describe_error(error).splitlines()))
            code = UNUSABLE if expected else FAILED
            command.error = CannotBeginError(f"the sweep cannot begin: {first}", code)
            raise SystemExit(code) from error

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Mask credentials in the settings that Hydra wrote into the job's folder."""
        mask_written_settings(config)


def _callback_in_launcher() -> SweepCallback:
    continue_without_folders(fail_without_folder)
    return SweepCallback()


def fail_without_folder(config: DictConfig, error: OSError) -> None:
    """A job whose folder Hydra cannot make is a FAILED run beside it; `config` is its composition with Hydra's part."""
    number = int(config.hydra.job.num)
    membership = Membership.decode(config.hydra.job.env_set[SWEEP_VARIABLE], number)
    folder = Path(config.hydra.sweep.dir) / f"job-{number}"
    overrides = tuple(str(text) for text in config.hydra.overrides.task)
    job = Job(as_tree(config, without=("hydra",)), folder, membership, overrides)
    say(job.title)
    outcome = fail_job(job, error)
    if (begun := current_command().sweep) is not None:
        begun.note(job, outcome)
    else:
        write_outcome(job.folder, outcome)


def run_composed(config: DictConfig) -> float | None:
    """Run a composition, in whatever process; gives a sweeper that optimises its objective.

    A sweep of this process only collects its jobs here, and runs them when Hydra has composed all of them.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra, command = HydraConfig.get(), current_command()
    multirun = hydra.mode == RunMode.MULTIRUN
    folder, tree = Path(hydra.runtime.output_dir), as_tree(config)
    if multirun and Path(hydra.runtime.cwd) != Path.cwd():  # a cluster's process begins elsewhere
        if Path(hydra.runtime.cwd).is_dir():
            os.chdir(hydra.runtime.cwd)
            folder = Path(hydra.sweep.dir, hydra.sweep.subdir).absolute()
        elif not reaches_from_afar(tree):
            return None
    job = Job(
        tree, folder, Membership.from_environment(hydra.job.num) if multirun else None, tuple(hydra.overrides.task)
    )
    begun = command.sweep
    if begun is not None and begun.in_this_process:
        begun.jobs.append(job)
        return None
    if job.membership is None:
        if multirun:  # the callback was taken out of hydra.callbacks, or failed there
            name = f"{SweepCallback.__module__}.{SweepCallback.__qualname__}"
            raise UserError(f"this sweep has no parent run: {name} is not among hydra.callbacks")
        try:
            check_working_folder(hydra)
            sweep.refuse_alone(job)
            command.outcomes.append(run_job(job, command.shared))
        except Exception as error:
            command.error = error
        return None
    command.shared.in_launcher = begun is None
    say(job.title)
    if begun is None:
        outcome = run_in_launcher(job, command.shared)
        if outcome is not None:
            sweep.report_duplicate(job, outcome)
    else:  # a sweeper that chooses its jobs as it goes, with Hydra's own launcher
        begun.note(job, outcome := run_and_report(job, command.shared))
    return objective(job, outcome)
