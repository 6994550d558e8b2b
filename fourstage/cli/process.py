"""The command line that this process carries out: what its jobs share, the sweep that it began, how its jobs ended.

Hydra constructs the callback and calls the job function by itself, so neither can be given an argument: both ask
`current_command()`. A launcher's process has a command of its own, which shares models between the jobs that it runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fourstage.runs.outcome import Outcome
from fourstage.runs.prepare import Shared
from fourstage.runs.sweep import Sweep


@dataclass
class Command:
    """One command line of `run`."""

    shared: Shared = field(default_factory=Shared)
    sweep: Sweep | None = None  # None: a single run, or a job whose sweep began in another process
    outcomes: list[Outcome] = field(default_factory=list)  # of runs outside this process's sweep
    error: Exception | None = None  # what ended it inside Hydra, which would print lines of its own


_command = Command()


def current_command() -> Command:
    """The command of this process."""
    return _command


def new_command() -> Command:
    """Begin a command: nothing of an earlier one of this process is left."""
    global _command
    _command = Command()
    return _command
