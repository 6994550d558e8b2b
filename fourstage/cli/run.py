"""The command line of a run or a sweep: Hydra composes, then the jobs run.

    fourstage run model=videollava temperature=0.2
    fourstage run -m model=eventgpt,videollava generation=greedy precision=fp32,bf16

Everything about a setting is checked in `config/` before anything heavy is imported. Exit codes: 0 all runs
finished; 1 a run failed; 2 the command line or the data could not be used; 3 measured, but the store did not take it;
130 and 143 after Ctrl-C and kill. Left out: one run (`runs/session.py`) and several together (`runs/sweep.py`).

    execution = execute(["model=videollava", "temperature=0.2"])     # the same from Python
    execution.outcomes[0].run_id
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from fourstage.cli.process import Command, new_command
from fourstage.config.compose import (
    check_command_line,
    explain_hydra_error,
    from_hydra,
    overrides_in,
    quote_where_needed,
    share_plugins_settings,
    with_own_studies,
)
from fourstage.credentials import masked, take_out
from fourstage.exit_codes import FAILED, INTERRUPTED, TERMINATED, UNUSABLE
from fourstage.paths import shortened
from fourstage.plugins import conf_folder
from fourstage.runs.outcome import Outcome
from fourstage.runs.signals import Terminated, signals_raised
from fourstage.stages import UserError
from fourstage.text import prepare_output, printable, say, say_traceback
from fourstage.tracking.patience import forget


@dataclass(frozen=True)
class Execution:
    """What a command line of `run` did."""

    outcomes: tuple[Outcome, ...]  # of its jobs in order: status, run id, folder, why it failed
    code: int  # the exit code
    sweep: str | None = None  # name of the sweep; None for a single run
    parent: str | None = None  # run id of its parent; None also where the store does not have it yet
    folder: Path | None = None  # of the parent's or the single run's files; None where nothing was begun


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""
    return exit_code_of(lambda: execute(sys.argv[1:] if argv is None else argv).code)


def exit_code_of(call: Callable[[], int]) -> int:
    """The exit code of a call that may run jobs; what it raises is said."""
    prepare_output()
    try:
        return call()
    except KeyboardInterrupt as stop:
        say(f"error: {str(stop) or 'interrupted'}")
        return INTERRUPTED
    except Terminated:
        say("error: terminated")
        return TERMINATED
    except SystemExit as stop:  # of Hydra, which has said why
        return stop.code if isinstance(stop.code, int) else FAILED
    except UserError as error:
        say(f"error: {error}")
        return int(getattr(error, "code", UNUSABLE))
    except Exception:  # a fault of ours is shown in full
        say_traceback()
        return FAILED


def execute(argv: Sequence[str]) -> Execution:
    """Run what a command line asks for: settings as `key=value`, with -m as a sweep.

    Raises UserError for what the user can mend before anything is measured. A run that fails is an outcome; a sweep
    ends its parent also where it raises. Ctrl-C and kill raise KeyboardInterrupt and `Terminated` afterwards.
    """
    before, os.environ["HYDRA_FULL_ERROR"] = sys.argv, "1"  # Hydra raises its errors instead of printing them
    sys.argv = ["fourstage", *argv]
    command = new_command()
    forget()
    try:
        with signals_raised():
            try:
                _compose_and_run(command)
            except (KeyboardInterrupt, Terminated):
                _finish(command, stopped=True)
                raise
            except BaseException:
                _finish(command)
                raise
            return _finish(command)
    except Exception as error:
        if (expected := _as_user_error(error)) is None or expected is error:
            raise
        raise expected from error
    finally:
        new_command()  # loaded models are freed
        sys.argv = before


def _compose_and_run(command: Command) -> None:
    """Let Hydra compose what `sys.argv` asks for, and run it."""
    import hydra

    from fourstage.cli.hydra_job import run_composed

    share_plugins_settings()
    sys.argv[1:] = take_out(sys.argv[1:])  # before anything of it is shown or written
    check_command_line(sys.argv[1:])
    sys.argv[1:] = with_own_studies(sys.argv[1:])
    overrides = overrides_in(sys.argv[1:])  # Hydra wants them together, people write -m anywhere
    flags = [text for text in sys.argv[1:] if text not in overrides]
    sys.argv[1:] = [*flags, *map(quote_where_needed, overrides)]
    try:
        with _safe_to_show(flags):
            hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(run_composed)()
    except SystemExit:
        if command.error is None:
            raise
    except Exception as error:
        if command.sweep is None or command.sweep.in_this_process:
            raise
        command.sweep.note_broken(error)
    if command.error is not None:
        raise command.error
    if command.sweep is not None and command.sweep.in_this_process:
        command.sweep.run_jobs(command.shared)


def _finish(command: Command, stopped: bool = False) -> Execution:
    """End the sweep where there is one, and gather how the jobs ended."""
    code, sweep = max((outcome.code for outcome in command.outcomes), default=0), command.sweep
    if sweep is None:
        begun = next((Path(outcome.folder) for outcome in command.outcomes if outcome.folder), None)
        return Execution(tuple(command.outcomes), code, folder=begun)
    try:
        code = max(code, sweep.finish(stopped))
    except (KeyboardInterrupt, Terminated) as stop:
        raise KeyboardInterrupt("interrupted again") from stop
    outcomes = (*command.outcomes, *sweep.outcomes.values())
    return Execution(outcomes, code, sweep.membership.sweep, sweep.folder.state.run_id, sweep.folder.path)


@contextmanager
def _safe_to_show(flags: Sequence[str]) -> Iterator[None]:
    """What Hydra itself prints where it is asked to show settings, without a terminal's control sequences."""
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


def _as_user_error(error: Exception) -> UserError | None:
    """An error that the user can mend, in one line; None for a fault of ours."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError):
        where = f": {shortened(str(error.filename))}" if error.filename else ""
        denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        advice = "; run from a folder that can be written" if denied else ""
        return UserError(f"{error.strerror or error}{where}{advice}")
    return UserError(explain_hydra_error(error)) if from_hydra(error) else None
