"""The replicates of a run: each configuration is measured in several fresh processes, and what they leave is one run.

    replicates/000/, 001/, …  each with its own journal, records, checks and environment ──▶ the run's

A replicate that fails leaves its error, and the others are measured. Left out: what happens in the fresh process
(`replicate.py`), and in which order the replicates of several configurations take turns (`sweep.py`).

    replicates = Replicates(config, folder)
    replicates.measure()                  # the next one
    replicates.check()                    # merges what they left
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourstage.config.schema import Config
from fourstage.runs.identity import code_changed, code_stamp
from fourstage.runs.signals import Terminated
from fourstage.stages import SampleRecord, UserError
from fourstage.text import say

if TYPE_CHECKING:
    from fourstage.records.table import RecordFile
    from fourstage.tracking.folder import RunFolder
    from fourstage.trust.check import Check

PROGRAM = ("-m", "fourstage.runs.replicate")  # what the fresh process runs
STOP_LIMIT_S = 60  # that a replicate may take to save what it has
OF_THE_FOLDER = ("fourstage.token", "fourstage.folder", "fourstage.process", "fourstage.clock")
EACH = "replicates"  # the folder of artifacts that has each replicate's files


@dataclass(frozen=True)
class Request:
    """What a fresh process is asked to measure."""

    tree: Mapping[str, Any]  # the composed settings
    folder: str  # its own
    number: int  # from 0


@dataclass
class Replicates:
    """The measurement of a run in fresh processes, with the steps of a `Measurement` in this one."""

    config: Config
    tree: Mapping[str, Any]  # the composed settings
    folder: RunFolder  # the run's
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    tracebacks: dict[str, None] = field(default_factory=dict)
    file: RecordFile | None = None
    failed: dict[int, str] = field(default_factory=dict)  # why, by number
    _next: int = 0
    _stamp: tuple[tuple[str, int, int], ...] = field(default_factory=code_stamp)

    @property
    def succeeded(self) -> bool:
        """Whether every replicate was measured to its end, and any sample succeeded."""
        return not self.failed and self.file is not None and self.file.count > self.file.failed

    @property
    def fault(self) -> str:
        """Why the run is FAILED where it did not succeed."""
        if not self.failed:
            return "no sample succeeded"
        number, why = next(iter(self.failed.items()))
        more = f" (and {len(self.failed) - 1} more)" if len(self.failed) > 1 else ""
        return f"{self._name(number)} failed: {why}{more}"

    def open(self, earlier: Sequence[SampleRecord]) -> None:
        """The finished replicates of a half-done run stay as they are; there are no other records to take over."""

    def measure(self) -> None:
        """Measure the next replicate, unless an earlier session finished it. A signal is passed on, and raised."""
        number, self._next = self._next, self._next + 1
        if self.folder.finished_replicate(number) is not None:
            return
        path = self.folder.replicate(number)
        shutil.rmtree(path, ignore_errors=True)  # an earlier try
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (why := self._other_code()):
            code = run_fresh(Request(self.tree, str(path.absolute()), number))
            if self.folder.finished_replicate(number) is None:
                why = _why(path, code)
            elif why := self._other_code():
                shutil.rmtree(path, ignore_errors=True)  # nobody knows which code it ran
        if why:
            self.failed[number] = why
            say(f"error: {self._name(number)}: {why}")

    def check(self) -> None:
        """Merge what the replicates left: records, checks, figures, environments."""
        from fourstage.trust.check import read_checks
        from fourstage.trust.merging import merge_checks

        self._merge_records()
        done = self._finished()
        for number in range(self.config.replicates):
            if (files := self.folder.replicate(number) / "files").is_dir():
                shutil.copytree(files, self.folder.files / EACH / f"{number:03d}", dirs_exist_ok=True)
        each = {number: read_checks(found.files / "checks.json") for number, found in done.items()}
        self.checks = merge_checks(each, self.config.replicates, self.failed)
        states = [found.state for found in done.values()]
        figures = {name for state in states for name in state.metrics}
        self.figures = {
            name: statistics.fmean(state.metrics[name] for state in states if name in state.metrics) for name in figures
        }
        failed = "; ".join(f"{self._name(number)}: {why}" for number, why in self.failed.items())
        self.folder.add_tags({"fourstage.replicates": str(len(done)), "fourstage.replicates_failed": failed or "none"})
        if done:
            first: RunFolder = next(iter(done.values()))
            self.folder.add_tags({key: text for key, text in first.state.tags.items() if key not in OF_THE_FOLDER})
            for name in ("model.json", "engine.json", "gpu_before.json", "gpu_after.json"):
                if (first.files / name).exists():
                    self.folder.add_file(name, (first.files / name).read_text(encoding="utf-8"))

    def environment(self) -> Mapping[str, Any]:
        """The machine and the software of the first replicate; `replicates/` of the artifacts has those of each."""
        for found in self._finished().values():
            read: dict[str, Any] = json.loads((found.files / "environment.json").read_text(encoding="utf-8"))
            return read
        return {}

    def close(self) -> None:
        """Write the records of what was measured, also where the run does not come to its end."""
        if self.file is None:
            self._merge_records()

    def _merge_records(self) -> None:
        """The records of all replicates, one after the other, positions counted on; of a failed one what it has."""
        from fourstage.records.table import RecordFile, iterate_records, read_journal
        from fourstage.tracking.folder import JOURNAL

        self.file = RecordFile(self.folder.records)
        begin = 0
        for number in range(self.config.replicates):
            done, position = self.folder.finished_replicate(number), -1
            journal = self.folder.replicate(number) / JOURNAL
            for record in iterate_records(done.records) if done else read_journal(journal):
                position = record.position
                self.file.append(replace(record, position=begin + position))
            begin += position + 1
        self.file.close()

    def _other_code(self) -> str:
        """Why the next or last replicate is not one of this run: somebody edits, or updates, what measures."""
        return "the code that measures changed since the run began; run it again" if code_changed(self._stamp) else ""

    def _finished(self) -> dict[int, RunFolder]:
        """The replicates that were measured to their end, by number."""
        numbers = range(self.config.replicates)
        return {number: found for number in numbers if (found := self.folder.finished_replicate(number))}

    def _name(self, number: int) -> str:
        return name_of(number, self.config.replicates)


def name_of(number: int, replicates: int) -> str:
    """`replicate 2 of 3`: as people count; `the fresh process` where it is the only one."""
    return f"replicate {number + 1} of {replicates}" if replicates > 1 else "the fresh process"


def run_fresh(request: Request) -> int:
    """Measure in a fresh process; gives its exit code, or minus the signal that ended it."""
    process = subprocess.Popen([sys.executable, *PROGRAM], stdin=subprocess.PIPE, start_new_session=True, text=True)
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(asdict(request)) + "\n")
        process.stdin.flush()  # and stays open: its end is the end of this process
        return process.wait()
    except BrokenPipeError:  # it ended before it had read anything
        return process.wait()
    except (KeyboardInterrupt, Terminated):
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    finally:
        process.stdin.close()


def _why(path: Path, code: int) -> str:
    """Why a replicate did not come to its end."""
    from fourstage.tracking.folder import RunFolder

    try:
        error = RunFolder.open(path).state.tags.get("fourstage.error")
    except UserError:
        error = None
    return error or f"its process ended with {code}"
