"""What an earlier session of a sweep left of a job: nothing, a finished run, or a half-done one that can continue.

Only runs of the same sweep are looked at, and only those with the same settings. A run with the same settings over
other data, or by other code, is reported and moved to the trash, so that a sweep holds each of its jobs once. Left
out: the measuring (`session.py`).

    found = find_earlier(parent, identity, config, samples, destination, machine)
    found.finished or found.half_done
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fourstage.config.schema import Config
from fourstage.measure.plan import whole_batches
from fourstage.measure.protocol import plan_all
from fourstage.records.table import read_journal
from fourstage.runs.identity import Identity
from fourstage.stages import Sample, SampleRecord, UserError
from fourstage.tracking.destination import Destination
from fourstage.tracking.folder import Process, RunFolder
from fourstage.tracking.reader import RunFacts, children_of, move_to_trash


@dataclass(frozen=True)
class HalfDone:
    """A half-done run: its folder, and the records of its whole batches; or how many of its replicates are finished."""

    folder: RunFolder
    records: tuple[SampleRecord, ...] = ()
    replicates: int = 0

    @property
    def amount(self) -> str:
        """What is there of it, in words."""
        return f"{self.replicates} replicates" if self.replicates else f"{len(self.records)} records"


@dataclass(frozen=True)
class Found:
    """The run that has the job's result, or one that can be continued; and what to say about the others."""

    finished: RunFacts | None = None
    half_done: HalfDone | None = None
    messages: tuple[str, ...] = ()


def find_earlier(
    parent: str,
    identity: Identity,
    config: Config,
    samples: Sequence[Sample],
    destination: Destination,
    machine: Mapping[str, str],
) -> Found:
    """Look for the job's earlier runs, newest first; those that can be neither used nor continued go to the trash.

    `machine`: the tags of the host and device that measured it. Raises UserError where the store fails.
    """
    messages: list[str] = []
    found = Found()
    for run in children_of(destination, parent, identity.settings):
        if found.finished or found.half_done:
            messages.append(f"run {run.run_id} is an older try of the same job")
        elif other := identity.differs(run.tags):
            messages.append(f"run {run.run_id} had the same settings with another {' and '.join(other)}: not mixed")
        elif (has := run.params.get("replicates", "1")) != str(config.replicates):
            messages.append(f"run {run.run_id} has {has} replicates, {config.replicates} are asked for: measured anew")
        elif run.status == "FINISHED" and run.tags.get("fourstage.valid") == "true":
            found = Found(finished=run)
            continue
        elif run.status == "FINISHED":
            messages.append(f"run {run.run_id} is invalid ({run.tags.get('fourstage.checks_failed')}): measured again")
        elif run.status == "RUNNING" and still_runs(run):
            raise UserError(
                f"run {run.run_id} of this sweep is being measured now by {process_of(run)}: wait, or stop it"
            )
        else:
            earlier = _half_done(run, config, samples, machine)
            if isinstance(earlier, HalfDone):
                found = Found(half_done=earlier)
                continue
            messages.append(f"run {run.run_id} ({run.status}) is measured anew: {earlier}")
        _trash(destination, run)
    return Found(found.finished, found.half_done, tuple(messages))


def still_runs(run: RunFacts) -> bool:
    """Whether the process that measures it is known to run; of another host nothing is known."""
    process = process_of(run)
    return process is not None and process.alive() is True


def process_of(run: RunFacts) -> Process | None:
    """The process that measures the run; None where the run does not name one."""
    return Process.parse(run.tags.get("fourstage.process", ""))


def _half_done(run: RunFacts, config: Config, samples: Sequence[Sample], machine: Mapping[str, str]) -> HalfDone | str:
    """The run as it was left, or why continuing it would not be sound."""
    if config.protocol.warmup == 0 and not config.fresh:
        return "without warm-up a second cold start would lie among its samples"
    for tag, here in machine.items():
        if run.tags.get(tag) != here:
            return f"it began on another {tag.removeprefix('fourstage.')}: {run.tags.get(tag)}, here it is {here}"
    try:
        folder = RunFolder.open(Path(run.tags.get("fourstage.folder", "")))
        if folder.state.token != run.tags.get("fourstage.token"):
            return f"its folder {folder.path} holds another run by now"
        if config.fresh:
            finished = sum(folder.finished_replicate(number) is not None for number in range(config.replicates))
            return HalfDone(folder, replicates=finished) if finished else "none of its replicates was finished"
        records = read_journal(folder.journal)
    except (UserError, OSError, ValueError) as error:
        return f"its records cannot be read ({error})"
    count = whole_batches(plan_all(config, samples), len(records), config.batch_size)
    return HalfDone(folder, tuple(records[:count])) if count else "it had no sample yet"


def _trash(destination: Destination, run: RunFacts) -> None:
    """Move a run to MLflow's trash, from where `mlflow runs restore` brings it back; it is not delivered any more."""
    with suppress(UserError, OSError):  # its folder is on another machine, or gone
        folder = RunFolder.open(Path(run.tags.get("fourstage.folder", "")))
        if folder.state.token == run.tags.get("fourstage.token"):
            folder.supersede()  # before the trash: a process that is killed in between leaves nothing for sync
    move_to_trash(destination, run.run_id)
