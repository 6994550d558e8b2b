"""Sweeps that are killed (kill -9) at each moment of their life, as a program: `python -m tests.killed_sweep WORD...`

Everything heavy is imported once and each try is a fork, which kills itself at its moment. Each sweep is killed once,
some twice, and resumed until it ends; one is left in peace. Prints the names of the sweeps as JSON.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fourstage.cli.run import main
from fourstage.records.table import Journal
from fourstage.report import build
from fourstage.runs import resume
from fourstage.tracking import deliver
from fourstage.tracking.folder import RunFolder
from fourstage.tracking.writer import TrackedRun

COMPARED = "sweep.compare=true"
SEEDS = {1: ["seed=1"], 2: ["seed=1,2"]}


@dataclass(frozen=True)
class Moment:
    """When a function returns, or (`before`) is called, for the nth time."""

    name: str
    owner: Any
    function: str
    nth: int = 1
    before: bool = False
    jobs: int = 1  # of the sweep

    def strike(self) -> None:
        """In this process: die then."""
        real, calls = getattr(self.owner, self.function), list[None]()

        def struck(*words: Any, **more: Any) -> Any:
            calls.append(None)
            if self.before and len(calls) == self.nth:
                os.kill(os.getpid(), signal.SIGKILL)
            given = real(*words, **more)
            if len(calls) == self.nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return given

        setattr(self.owner, self.function, staticmethod(struck) if inspect.ismethod(real) else struck)


# jobs have two samples each; the first of everything is the parent's
KILLED_ONCE = (
    Moment("the parent's folder is there", RunFolder, "begin", 1),
    Moment("the store has the parent, whose id is not noted", TrackedRun, "start", 1),
    Moment("the parent is announced", deliver, "announce", 1),
    Moment("the first job's folder is there", RunFolder, "begin", 2),
    Moment("the store has the first job, whose id is not noted", TrackedRun, "start", 2),
    Moment("one sample of the first job is measured", Journal, "append", 1),
    Moment("the first job ended and is not delivered", RunFolder, "end", 1),
    Moment("the figures of the first job are delivered", TrackedRun, "log_metrics", 1),
    Moment("the first job ended in the store alone", TrackedRun, "end", 1),
    Moment("one sample of the second job is measured", Journal, "append", 3, jobs=2),
    Moment("the runs are compared", build, "compare_sweep", 1, before=True, jobs=2),
    Moment("the parent's files are delivered", TrackedRun, "log_folder", 2),
)
KILLED_TWICE = (  # after it was killed in its first job
    Moment("the next parent's folder is there", RunFolder, "begin", 1),
    Moment("the parent is RUNNING again", TrackedRun, "reopen", 1),
    Moment("half a run is given up", resume, "move_to_trash", 1, before=True),
)


def spare_hydras_second_look() -> None:
    """Composition is half of the time of such small sweeps: read each file once, and compose each job once."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    read = cache(FileConfigSource.load_config)
    FileConfigSource.load_config = lambda self, path: copy.deepcopy(read(self, path))
    BasicSweeper.validate_batch_is_legal = lambda self, batch: None


def begin(words: Sequence[str], moment: Moment | None = None) -> int:
    """Begin a sweep in a fork; gives the process."""
    process = os.fork()
    if process == 0:
        if moment:
            moment.strike()
        os._exit(main(list(words)))
    return process


def ended(process: int) -> int:
    """The exit code, or minus the signal that ended it."""
    until = time.monotonic() + 200
    while time.monotonic() < until:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    raise AssertionError("a sweep did not end")


def attempt(words: Sequence[str], moment: Moment | None = None) -> int:
    """The exit code of a sweep, or minus the signal that ended it."""
    return ended(begin(words, moment))


def disturb(words: Sequence[str]) -> dict[str, tuple[str, int]]:
    """The sweeps' names, when each was killed, and how many jobs it has."""
    spare_hydras_second_look()
    # in this process, so that each fork has imported everything; in another store: SQLite's connections do not fork
    assert main([*words, *SEEDS[2], COMPARED, "tracking.uri=sqlite:///warm/mlflow.db", "sweep.resume=true"]) == 0
    assert attempt([*words, *SEEDS[2], "sweep.name=whole"]) == 0
    together = [begin([*words, *SEEDS[1], "sweep.name=together", "sweep.resume=true"]) for _ in range(2)]
    assert sorted(map(ended, together)) == [0, 2], "of two at once, one is refused"
    killed: dict[str, tuple[str, int]] = {}
    in_first_job = KILLED_ONCE[5]
    for number, moment in enumerate((*KILLED_ONCE, *KILLED_TWICE)):
        name = f"killed{number}"
        killed[name] = moment.name, moment.jobs
        again = [*words, *SEEDS[moment.jobs], f"sweep.name={name}", "sweep.resume=true"]
        if moment.function == "compare_sweep":
            again.append(COMPARED)
        if moment in KILLED_TWICE:
            again.append(f"protocol.warmup={0 if moment.owner is resume else 1}")
            assert attempt(again, in_first_job) == -signal.SIGKILL, name
        assert attempt(again, moment) == -signal.SIGKILL, f"{name}: nobody came to where {moment.name}"
        if (code := attempt(again)) != 0:
            raise AssertionError(f"{name}, killed when {moment.name}, ended with {code}")
    return killed


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115, PTH123
    print(json.dumps(disturb(sys.argv[1:])), file=out)
