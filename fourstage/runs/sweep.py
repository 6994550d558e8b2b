"""The runs of one -m: their parent, their order, and their end.

    -m ──Hydra's sweeper and launcher──▶ jobs ──▶ runs nested under one parent ──▶ its tables, summary, exit code

The parent is made before the jobs, which find it by their `Membership`, also in other processes and on other hosts.
Where Hydra only composes the jobs, they run afterwards: in this process, those that share a model next to each other,
or their replicates in fresh ones, in turn. Left out: one job (`session.py`), jobs of a launcher (`launched.py`), what
the parent shows (`parent.py`), what a resumed sweep takes over (`takeover.py`).

    sweep = begin(multirun)
    sweep.run_jobs(Shared())
    code = sweep.finish()
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fourstage.config import flat, keys, schema, values
from fourstage.config.multirun import Multirun
from fourstage.config.schema import SweepSettings
from fourstage.exit_codes import FAILED, UNDELIVERED
from fourstage.runs.gathering import gather_outcomes, parent_run_id
from fourstage.runs.identity import code_hash
from fourstage.runs.job import Job, Membership
from fourstage.runs.launched import stop_processes
from fourstage.runs.opening import sync_command
from fourstage.runs.outcome import NOT_STARTED, OUTCOME, Outcome, describe_error
from fourstage.runs.parent import fill_parent
from fourstage.runs.prepare import Shared, digest_of_settings
from fourstage.runs.session import RunSession
from fourstage.runs.signals import signals_held
from fourstage.runs.takeover import deliver_earlier, exclusive, find_parent, supersede_parent
from fourstage.stages import UserError
from fourstage.text import say

if TYPE_CHECKING:
    from fourstage.tracking.folder import RunFolder
    from fourstage.tracking.reader import RunFacts


@dataclass
class Sweep:
    """One -m, in the process that was called."""

    membership: Membership  # that its jobs get
    settings: SweepSettings
    folder: RunFolder  # the parent's
    expected: tuple[tuple[str, ...], ...] | None  # overrides of each job; None: the sweeper chooses them as it goes
    in_this_process: bool  # Hydra composes the jobs here, and they run afterwards
    jobs: list[Job] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    earlier: RunFacts | None = None  # the parent as the last session left it, where the sweep is resumed
    broken: str = ""  # what ended the launcher or sweeper before its jobs

    def run_jobs(self, shared: Shared) -> None:
        """Run what Hydra composed, jobs that share a model next to each other; with replicates in balanced order:
        A B, B A, A B, …, so that a machine that becomes slower or faster favours none of them."""
        with ExitStack() as stack:
            runs = [stack.enter_context(RunSession(job, shared)) for job in by_model(self.jobs)]
            number = 0
            while left := [run for run in runs if run.job.number not in self.outcomes]:
                for run in left if number % 2 == 0 else reversed(left):
                    if number == 0:
                        say(run.job.title)
                        run.begin()
                    else:
                        say(f"replicate {number + 1}, {run.job.title}")
                    run.measure()
                    if number + 1 >= run.replicates:
                        run.finish()
                    if run.ended:
                        self.note(run.job, run.outcome)
                number += 1

    def note(self, job: Job, outcome: Outcome) -> None:
        """Note how a job of this process ended."""
        assert job.number is not None
        self.outcomes[job.number] = outcome
        report_duplicate(job, outcome)

    def note_broken(self, error: Exception) -> None:
        """Report what ended the launcher or the sweeper, since no job raises anything; the parent has the traceback."""
        first = next(iter(str(error).splitlines()), "")
        if "No trials are completed yet" in first:
            self.broken = "no trial gave the objective: nothing was found"
        else:
            self.broken = f"the launcher or sweeper ended with {type(error).__name__}: {first}"
        say(f"error: {self.broken} (traceback.txt of the sweep's parent has more)")
        self.folder.add_tags({"fourstage.error": self.broken})
        self.folder.add_file("traceback.txt", "".join(traceback.format_exception(error)))

    def finish(self, stopped: bool = False) -> int:
        """End the parent: jobs that died are ended, tables and summary written and said. Gives the exit code.

        `stopped`: by Ctrl-C or kill, before it came to its end.
        """
        from fourstage.tracking.deliver import deliver
        from fourstage.tracking.patience import patience_with

        if (stopped or self.broken) and not self.in_this_process:
            stop_processes()
        with signals_held():
            patience_with(self.folder.state.destination.uri).probe()
            self.outcomes, children = gather_outcomes(self.folder, self.membership, self.expected, self.outcomes)
            outcomes = self.outcomes.values()
            bad = any(outcome.status in ("FAILED", "KILLED", NOT_STARTED) for outcome in outcomes)
            status = "KILLED" if stopped else "FAILED" if bad or self.broken else "FINISHED"
            fill_parent(self.folder, self.outcomes, children, self.earlier)
            if self.settings.compare and not stopped:
                self._compare()
            self.folder.end(status)
            late = any(not outcome.delivered for outcome in outcomes)
            try:
                deliver(self.folder)
            except UserError as error:
                say(f"error: {error}; the sweep's summary is kept: {sync_command(self.folder)} sends it")
                late = True
            for line in summary(self.membership.sweep, self.outcomes):
                say(line)
        return FAILED if bad or self.broken else UNDELIVERED if late else 0

    def _compare(self) -> None:
        """Compare the runs, print it, and put report and summary on the parent; the runs do not depend on it."""
        from fourstage.report.build import beside, compare_sweep, slug

        destination, name = self.folder.state.destination, self.membership.sweep
        out = beside(destination) / slug(name)
        try:
            parent = parent_run_id(self.folder, self.membership)
            if parent is None:
                raise UserError("the store does not have the sweep yet")
            compared = compare_sweep(destination, parent, out)
        except Exception as error:  # the store is away, a disk is full, a fault of ours
            say(f"warning: not compared: {describe_error(error)}; try fourstage compare sweep={name}")
            return
        self.folder.add_tags({"mlflow.note.content": compared.markdown})
        if compared.files:
            shutil.copytree(out, self.folder.files / "comparison", dirs_exist_ok=True)


def begin(multirun: Multirun) -> Sweep:
    """Make the parent of an -m, or with sweep.resume take over the earlier one. Raises UserError."""
    with signals_held():
        from fourstage.tracking.deliver import SESSIONS, announce
        from fourstage.tracking.destination import Destination
        from fourstage.tracking.folder import RunFolder
        from fourstage.tracking.patience import StoreAwayError, patience_with
        from fourstage.tracking.reader import PENDING

    sweep, tracking = schema.sweep_settings(multirun.tree)
    label = sweep.name or multirun.study or "+".join(multirun.swept) or "sweep"
    overrides = sorted(keys.canonical(text) for text in multirun.overrides if not flat.is_label(_key(text)))
    varied = sorted(
        (name, keys.canonical(f"{name}={values}").partition("=")[2]) for name, values in multirun.swept.items()
    )
    key = hashlib.sha256(json.dumps([overrides, varied]).encode()).hexdigest()[:16]
    destination = Destination.of(tracking)
    patience_with(destination.uri).begin(tracking.wait_s)
    data = digest_of_settings(multirun.tree)
    session = uuid.uuid4().hex[:8]
    tags = {
        "fourstage.role": "parent",
        "fourstage.sweep_key": key,
        "fourstage.session": session,
        "fourstage.code_hash": code_hash(),
        "fourstage.dataset_hash": data or "differs by job",
    }
    params = {_key(text): text.partition("=")[2] for text in multirun.overrides} | dict(multirun.swept)
    root = multirun.folder
    with exclusive(destination) if sweep.resume else nullcontext():
        earlier = find_parent(destination, sweep, key, data) if sweep.resume else None
        # two sweeps may begin in one second
        name = earlier.tags["fourstage.sweep"] if earlier else f"{label}-{time.strftime('%Y%m%d-%H%M%S')}-{session[:6]}"
        tags["fourstage.sweep"] = name
        if earlier:
            tags[SESSIONS] = str(int(earlier.tags.get(SESSIONS, 1)) + 1)
            deliver_earlier(earlier)
        folder = RunFolder.begin(
            root, destination, earlier.name if earlier else label, params, tags, traces=0,
            run_id=earlier.run_id if earlier else None,
        )  # fmt: skip
        try:
            run = announce(folder)
            if earlier and run.tags().get("fourstage.session") != session:  # from another machine, at this moment
                raise UserError(f"sweep {name} ({run.run_id}) is taken up by another process: wait for it, or stop it")
            parent = run.run_id
        except StoreAwayError as error:
            parent = f"{PENDING}{folder.state.token}"
            say(f"warning: {error}; the sweep is kept in {root} and sent at its end or by {sync_command(folder)}")
        except BaseException:
            folder.discard()
            raise
    for left in root.glob(f"*/{OUTCOME}"):  # of an earlier sweep in a folder that was asked for by name
        left.unlink()
    if earlier:
        supersede_parent(earlier, folder)
        say(f"sweep {name} ({parent}) goes on")
    membership = Membership(name, parent, session, tuple(multirun.swept), folder=str(root.absolute()))
    return Sweep(membership, sweep, folder, multirun.jobs, multirun.in_this_process, earlier=earlier)


def by_model(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, those that share a loaded model next to each other, else in the order in which they came."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        shared = {key: job.tree.get(key) for key in ("weights", "precision", "engine", "device")}
        model = job.tree.get("model")
        shared["model"] = model.get("name") if isinstance(model, Mapping) else model
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(job)
    return [job for group in groups.values() for job in group]


def refuse_alone(job: Job) -> None:
    """Raise SettingError where a single run is given settings that only a sweep has."""
    asked = [text for text in job.overrides if text.lstrip("+").startswith("sweep.")]
    if asked:
        raise values.SettingError(f"{asked[0]} is about the runs of a sweep: add -m")


def report_duplicate(job: Job, outcome: Outcome) -> None:
    """Say that a job has the settings of another one and was not run."""
    if outcome.status == "DUPLICATE":
        say(f"job {job.number}: not run, {outcome.why}")


def summary(name: str, outcomes: Mapping[int, Outcome]) -> Iterator[str]:
    """How many jobs ended in which state, and each that failed with its reason."""
    counts: dict[str, int] = {}
    for outcome in outcomes.values():
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
    states = (f"{n} {state.lower().replace('_', ' ')}" for state, n in counts.items())
    yield f"sweep {name}: " + (", ".join(states) or "no job")
    for number, outcome in outcomes.items():
        if outcome.status in ("FAILED", "KILLED"):
            yield f"  job {number} {outcome.status} {outcome.name}" + (f": {outcome.why}" if outcome.why else "")


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
