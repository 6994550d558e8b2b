"""The command line: Hydra composes, a job runs, or a sweep of them.

    python -m fourstage.run model=videollava temperature=0.2
    python -m fourstage.run -m model=eventgpt,videollava generation=greedy precision=fp32,bf16

Everything about a setting is checked in `schema.py` before anything heavy is imported. Exit codes: 0 all runs
finished; 1 a run failed; 2 the command line or the data could not be used; 3 measured, but the store did not take it;
130 and 143 after Ctrl-C and kill. Left out: one run (`session.py`) and what ties several together (`sweep.py`).
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourstage.config.compose import (
    NUMBER,
    as_tree,
    as_written,
    check_command_line,
    check_working_folder,
    conf_folder,
    from_hydra,
    hydras_word,
    overrides_of,
    share_plugins_settings,
    with_own_studies,
)
from fourstage.credentials import masked, take_out
from fourstage.paths import shortened
from fourstage.runs.session import FAILED, INTERRUPTED, TERMINATED, UNUSABLE, Job, Kept, Terminated, run_job, say
from fourstage.stages import UserError
from fourstage.text import prepare_output, printable, say_traceback
from fourstage.tracking.patience import forget

if TYPE_CHECKING:
    from omegaconf import DictConfig

_kept = Kept()  # what the jobs of this process share; a launcher's process has its own
_codes: list[int] = []  # of single runs: Hydra gives nothing back


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""
    import hydra

    from fourstage.runs import sweep

    global _kept
    if argv is not None:
        sys.argv = ["fourstage", *argv]
    prepare_output()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us whole; we say them in one line
    handlers = _catch_signals()
    _kept = Kept()
    sweep.forget()
    if NUMBER not in os.environ:  # a sweep's job knows from the sweep which store is away
        forget()
    _codes.clear()
    stopped = ""
    try:
        share_plugins_settings()
        sys.argv[1:] = take_out(sys.argv[1:])  # before anything of it is shown or written
        check_command_line(sys.argv[1:])
        sys.argv[1:] = with_own_studies(sys.argv[1:])
        overrides = overrides_of(sys.argv[1:])  # Hydra wants them together, people write -m anywhere
        flags = [word for word in sys.argv[1:] if word not in overrides]
        sys.argv[1:] = [*flags, *map(as_written, overrides)]
        with _safe_to_show(flags):
            hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(hydra_job)()
        begun = sweep.of_this_process()
        if begun is not None and begun.collects:
            sweep.run_collected(begun, _kept)
        code = max(_codes, default=0)
    except KeyboardInterrupt:
        stopped, code = "interrupted", INTERRUPTED
    except Terminated:
        stopped, code = "terminated", TERMINATED
    except SystemExit as error:  # said where it was raised
        code = error.code if isinstance(error.code, int) else FAILED
    except Exception as error:
        begun = sweep.of_this_process()
        code = _complain(error) if begun is None or begun.collects else sweep.tell_broken(begun, error)
    try:
        if (begun := sweep.of_this_process()) is not None:
            code = max(code, sweep.finish(begun, stopped))
    except (KeyboardInterrupt, Terminated):
        stopped, code = "interrupted again", INTERRUPTED
    finally:
        _kept = Kept()
        _restore(handlers)
    if stopped:
        say(f"error: {stopped}")
    return code


@contextmanager
def _safe_to_show(flags: Sequence[str]) -> Iterator[None]:
    """What Hydra itself prints where it is asked to show settings, without what steers a terminal."""
    asked = ("-c", "--cfg", "-h", "--help", "--hydra-help", "-i", "--info")
    if not any(flag in asked or flag.startswith(("--cfg=", "--info=")) for flag in flags):
        yield
        return
    shown = StringIO()
    try:
        with redirect_stdout(shown):
            yield
    finally:
        print(printable(masked(shown.getvalue())), end="", flush=True)


def hydra_job(cfg: DictConfig) -> float | None:
    """What Hydra runs of each composition, in whatever process; gives a sweeper that optimises its objective."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from fourstage.runs import sweep

    hydra = HydraConfig.get()
    multirun = hydra.mode == RunMode.MULTIRUN
    number = hydra.job.num if multirun else int(os.environ.get(NUMBER, 0))
    folder, tree = Path(hydra.runtime.output_dir), as_tree(cfg)
    if multirun and Path(hydra.runtime.cwd) != Path.cwd():  # a cluster's process begins elsewhere
        if Path(hydra.runtime.cwd).is_dir():
            os.chdir(hydra.runtime.cwd)
            folder = Path(hydra.sweep.dir, hydra.sweep.subdir).absolute()
        elif not sweep.reaches_from_afar(tree):
            return None
    job = Job(tree, folder, sweep.place_of_job(number), tuple(hydra.overrides.task))
    begun = sweep.of_this_process()
    if begun is not None and begun.collects:
        begun.jobs.append(job)
        return None
    if job.place is None:
        if multirun:  # what began the sweep was taken out of hydra.callbacks, or failed there
            raise UserError("this sweep has no parent run: fourstage.runs.sweep.Callback is not among hydra.callbacks")
        try:
            check_working_folder(hydra)
            sweep.refuse_alone(job)
            _codes.append(run_job(job, _kept).code)
        except Exception as error:  # here, since Hydra would print lines of its own
            _codes.append(_complain(error))
        return None
    _kept.alone = begun is None
    if not multirun:  # a sweep's job in a process of its own
        _codes.append(sweep.run_here(job, _kept).code)
        return None
    say(sweep.title(job))
    if begun is not None:
        sweep.note(begun, job, outcome := sweep.run_here(job, _kept))
        return sweep.objective(job, outcome)
    return _elsewhere(job)


def _elsewhere(job: Job) -> float | None:
    """A job in a launcher's process: nothing that it raises may leave it, since not every launcher goes on then."""
    from fourstage.runs import sweep

    assert job.place is not None
    if sweep.has_ended(job.place, job):
        say(f"job {job.place.job}: not run, its sweep was stopped")
        return None
    handlers = _catch_signals()
    try:
        sweep.tell_duplicate(job, outcome := sweep.run_here(job, _kept))
        return sweep.objective(job, outcome)
    except (KeyboardInterrupt, Terminated):
        return None  # the run is KILLED, and said so
    except SystemExit:
        if "SUBMITIT_EXECUTOR" in os.environ:  # its way to give a job that is preempted to a later process
            raise
        return None  # Ray's way to stop a job
    except Exception:
        say_traceback()
        return None
    finally:
        _restore(handlers)


def _complain(error: Exception) -> int:
    """Say what ended the command; a fault of ours is told whole."""
    if isinstance(error, UserError):
        say(f"error: {error}")
    elif isinstance(error, OSError):
        where = f": {shortened(str(error.filename))}" if error.filename else ""
        denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        say(f"error: {error.strerror or error}{where}{'; run from a folder that can be written' if denied else ''}")
    elif from_hydra(error):
        say(f"error: {hydras_word(error)}")
    else:
        say_traceback()
        return FAILED
    return UNUSABLE


def _catch_signals() -> dict[int, Any]:
    """Turn kill and Ctrl-C into exceptions; gives what was there before."""
    return {
        signal.SIGTERM: signal.signal(signal.SIGTERM, terminate),
        signal.SIGINT: signal.signal(signal.SIGINT, _stop),
    }


def _restore(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def terminate(signum: int, frame: object) -> None:
    raise Terminated


def _stop(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    from fourstage.cli.run import main as run  # so that a launcher's processes find the job by its module

    sys.exit(run())
