"""The life of one run, alone or as a job of a sweep.

    settings → samples → identity → folder → model → measure → checks → deliver

Everything is written into the run's folder first and sent to the store from there, so that a store that is away
disturbs no measurement. Left out: where jobs come from (`cli/run.py`) and in which order they go (`sweep.py`).

    outcome = run_job(Job(tree, Path("mlruns/hydra/…")), Shared())
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from fourstage.config import schema
from fourstage.runs.ending import end_run, fail_job, record_error
from fourstage.runs.job import Job
from fourstage.runs.measurement import Measurement
from fourstage.runs.opening import is_retried, look_back, open_run, withdraw_twin
from fourstage.runs.outcome import Outcome
from fourstage.runs.prepare import Prepared, Shared, prepare
from fourstage.runs.replicates import Replicates
from fourstage.runs.signals import Terminated, signals_held

if TYPE_CHECKING:
    from fourstage.runs.resume import HalfDone
    from fourstage.tracking.folder import RunFolder


def run_job(job: Job, shared: Shared) -> Outcome:
    """A job from its beginning to its end. Raises UserError before anything is tracked, and only outside a sweep."""
    with RunSession(job, shared) as run:
        run.begin()
        for _ in range(run.replicates):
            run.measure()
        run.finish()
    return run.outcome


class RunSession:
    """One run. `begin`, `measure` for each replicate, `finish`: after `ended` they do nothing.

    An error ends the run as FAILED and is recorded on it, so that the other jobs of a sweep continue. Leaving the
    `with` block before the end, as on Ctrl-C or kill, ends it as KILLED with the samples that it finished.
    """

    def __init__(self, job: Job, shared: Shared):
        self.job, self.shared = job, shared
        self.outcome = Outcome("FAILED", job=job.number)
        self.ended = False
        self.replicates = 1  # known once the settings are
        self._prepared: Prepared | None = None
        self._folder: RunFolder | None = None
        self._measurement: Measurement | Replicates | None = None

    def begin(self) -> None:
        """Check the settings, read the dataset, and make the run, unless another run has its result."""
        with self._errors_recorded():
            config = schema.check(self.job.tree)
            self.job, self.replicates = replace(self.job, tree=schema.typed(self.job.tree, config)), config.replicates
            prepared = self._prepared = prepare(self.job, config, self.shared)
            self.outcome.name = prepared.name
            earlier = self._find_result(prepared)
            if self.ended:
                return
            with signals_held():
                self._folder = open_run(prepared, earlier)
            if self._is_twin(prepared, self._folder):
                return
            self.outcome.run_id, self.outcome.folder = self._folder.state.run_id, str(self._folder.path)
            if config.fresh:
                self._measurement = Replicates(config, self.job.tree, self._folder)
            else:
                self._measurement = Measurement(config, prepared.samples, self.shared, self._folder)
            self._measurement.open(earlier.records if earlier else ())

    def measure(self) -> None:
        """Measure every sample, as the protocol says: the next replicate, where there are several."""
        with self._errors_recorded():
            if self._measurement is not None and not self.ended:
                self._measurement.measure()

    def finish(self) -> None:
        """Check what was measured, and end the run."""
        with self._errors_recorded():
            if self._measurement is None or self.ended:
                return
            self._measurement.check()
            if self._measurement.succeeded:
                self._end("FINISHED")
            else:
                self._end("FAILED", self._measurement.fault)

    def __enter__(self) -> RunSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self.ended:
            # SystemExit is how Ray stops a job; None: another job of the sweep was stopped
            stopped = kind is None or issubclass(kind, KeyboardInterrupt | Terminated | SystemExit)
            self._end("KILLED" if stopped else "FAILED", "stopped" if stopped else "")

    @contextmanager
    def _errors_recorded(self) -> Iterator[None]:
        """An exception is recorded on the run, and ends it; before a single run has a folder it is raised."""
        try:
            yield
        except Exception as error:
            if self.ended:
                raise
            if self._folder is not None:
                self._end("FAILED", record_error(self._folder, error))
            elif self.job.membership is not None:
                self._settle(fail_job(self.job, error))
            else:
                self.ended = True
                raise

    def _find_result(self, prepared: Prepared) -> HalfDone | None:
        """End here where another job, or an earlier session, has the result; else the half-done run to continue."""
        membership = self.job.membership
        if membership is None:
            return None
        known, identity = self.shared.outcomes, prepared.identity.whole
        if same := known.get(identity):
            self._settle(replace(same, status="DUPLICATE", why=f"the same settings as job {same.job}, run once"))
            return None
        known[identity] = self.outcome
        if not (prepared.config.sweep.resume or is_retried(self.job)):
            return None
        done, earlier = look_back(prepared, membership)
        if done is not None:
            known[identity] = done
            self._settle(done)
        return earlier

    def _is_twin(self, prepared: Prepared, folder: RunFolder) -> bool:
        """Whether a job in another process has the same settings and began before: then this run is withdrawn."""
        if self.job.membership is None or not self.shared.in_launcher:
            return False
        twin = withdraw_twin(folder, prepared.identity, self.job.membership)
        if twin is None:
            return False
        self.outcome.status, self.outcome.run_id = "DUPLICATE", twin
        self.outcome.why = "another job has the same settings, run once"
        self._folder, self.ended = None, True
        return True

    def _settle(self, outcome: Outcome) -> None:
        """End with an outcome that needs no measurement."""
        self.outcome, self.ended = outcome, True
        outcome.job = self.job.number

    def _end(self, status: str, why: str = "") -> None:
        """End the run in its folder and in the store."""
        self.ended = True
        self.outcome.status, self.outcome.why = status, why
        if self._measurement is not None:
            self._measurement.close()
        if self._prepared is not None and self._folder is not None:
            with signals_held():  # everything finished is saved; a second signal ends the process at once
                end_run(self._prepared, self._folder, self._measurement, self.outcome)
        self._prepared = self._measurement = self._folder = None  # a sweep of a thousand jobs keeps its sessions
