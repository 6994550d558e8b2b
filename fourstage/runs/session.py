"""One run, from its composed configuration to its end in the store; alone, or as a job of a sweep.

    settings → samples → identity → folder → model → measure → checks → deliver

Everything is written into the run's folder first and sent to the store from there, so that a store that is away
disturbs nothing. Left out: where jobs come from (`run.py`) and in which order they go (`sweep.py`).

    outcome = run_job(Job(tree, Path("mlruns/hydra/…")), Kept())
"""

from __future__ import annotations

import errno
import signal
import sys
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fourstage
from fourstage.config import schema as settings
from fourstage.config.schema import Config, DatasetSettings
from fourstage.credentials import masked
from fourstage.runs.identity import identify
from fourstage.stages import Sample, SampleRecord, UserError
from fourstage.text import say as say
from fourstage.tracking.views import UNFOLDED

if TYPE_CHECKING:
    from fourstage.measure.protocol import Rounds
    from fourstage.models.base import StagedPipeline
    from fourstage.models.loaded import KeptModels
    from fourstage.records.columns import Columns
    from fourstage.records.table import RecordFile
    from fourstage.runs.environment import ProcessorTimes
    from fourstage.runs.identity import Identity
    from fourstage.runs.resume import Earlier
    from fourstage.tracking.folder import RunFolder
    from fourstage.tracking.store import Destination
    from fourstage.trust.checks import Check

FAILED, UNUSABLE, UNDELIVERED, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143
MOST_TRACEBACKS = 3  # of samples that failed, kept on the run


class Terminated(BaseException):
    """SIGTERM: like Ctrl-C, what was finished is kept."""


@dataclass(frozen=True)
class Place:
    """A job's place in its sweep, as it travels to whatever process runs the job."""

    sweep: str  # name of the sweep, and its runs' tag
    parent: str  # run id of the parent
    session: str  # of this -m: a resumed sweep has several
    varied: tuple[str, ...] = ()  # the settings that differ between jobs
    job: int = 0
    folder: str = ""  # of the sweep, where the parent is kept


@dataclass(frozen=True)
class Job:
    """One composed run and where it leaves things."""

    tree: Mapping[str, Any]
    folder: Path
    place: Place | None = None
    words: tuple[str, ...] = ()  # its overrides

    @property
    def varied(self) -> dict[str, str]:
        """What differs from the other jobs of its sweep."""
        chosen = dict(word.lstrip("+").split("=", 1) for word in self.words if "=" in word)
        return {key: chosen[key] for key in (self.place.varied if self.place else ()) if key in chosen}


@dataclass
class Outcome:
    """What became of a job."""

    status: str  # FINISHED, FAILED, KILLED; SKIPPED: measured before; DUPLICATE: of another job of the sweep
    name: str = ""
    job: int | None = None
    run_id: str | None = None
    why: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    delivered: bool = True
    code: int = 0


@dataclass
class Kept:
    """What the jobs of one process share: loaded models, datasets that were read, jobs that were made."""

    models: KeptModels | None = None  # made by the first job, since torch takes a second to import
    datasets: dict[Any, tuple[list[Sample], str]] = field(default_factory=dict)
    made: dict[str, Outcome] = field(default_factory=dict)  # by identity
    since: ProcessorTimes | None = None  # when the last job's measurement ended
    environments: dict[Path, dict[str, Any]] = field(default_factory=dict)  # by the dataset's folder
    alone: bool = False  # other jobs of the sweep run in processes of their own


def run_job(job: Job, kept: Kept) -> Outcome:
    """A job from its beginning to its end. Raises UserError before anything is tracked, and only outside a sweep."""
    turns = take_turns(job, kept)
    while True:
        try:
            next(turns)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome


def take_turns(job: Job, kept: Kept) -> Generator[None, None, Outcome]:
    """The job in as many turns as its sweep has rounds: stops between them, gives its outcome at the end."""
    number = job.place.job if job.place else None
    try:
        config = settings.check(job.tree)
        job = replace(job, tree=settings.typed(job.tree, config))
        prepared = _prepare(job, config, kept)
        outcome = yield from _tracked(prepared, kept)
    except Exception as error:  # of a sweep the other jobs go on
        if job.place is None:
            raise
        outcome = fail(job, error)
    outcome.job = number
    return outcome


@dataclass(frozen=True)
class _Prepared:
    """What is known before anything is tracked."""

    job: Job
    config: Config
    name: str
    samples: Sequence[Sample]
    identity: Identity
    destination: Destination


def _prepare(job: Job, config: Config, kept: Kept) -> _Prepared:
    """Read the dataset and refuse what cannot work. Raises UserError."""
    from fourstage.data.dataset import dataset_digest

    if config.dataset not in kept.datasets:
        samples = read_samples(config)
        kept.datasets[config.dataset] = samples, dataset_digest(samples, config.dataset.hash, say)
    samples, digest = kept.datasets[config.dataset]
    with signals_held():  # an exception inside a half-done import would leave it broken
        _import_quickly(
            config, "trust.evidence", "report.run_table", "runs.resume", "tracking.deliver", "models.loaded"
        )
        from fourstage.models.load import preflight
        from fourstage.models.loaded import KeptModels
        from fourstage.tracking.store import Destination
    preflight(config)
    kept.models = kept.models or KeptModels(config.sweep.memory_gb, several=config.sweep.rounds > 1)
    name = masked(config.run_name or settings.default_run_name(config, job.varied))
    destination = Destination.of(config.tracking)
    return _Prepared(job, config, name, samples, identify(config, job.tree, digest), destination)


def _import_quickly(config: Config, *modules: str) -> None:
    """Import what is heavy. Garbage is not looked for meanwhile, and what came in is never looked through again:
    it saves start-up a second, and samples the pauses that a full collection over it would put into a stage."""
    import gc

    imported = len(sys.modules)
    gc.disable()
    try:
        for module in modules:
            import_module(f"fourstage.{module}")
        from fourstage.models.load import import_libraries

        import_libraries(config)
        if len(sys.modules) > imported:
            gc.freeze()
    finally:
        gc.enable()


def _tracked(prepared: _Prepared, kept: Kept) -> Generator[None, None, Outcome]:
    """The run from its creation to its end in the store."""
    job, config, name = prepared.job, prepared.config, prepared.name
    outcome = Outcome("FAILED", name)
    earlier: Earlier | None = None
    if job.place is not None:
        if same := kept.made.get(prepared.identity.whole):
            return replace(same, status="DUPLICATE", why=f"the same settings as job {same.job}, run once")
        kept.made[prepared.identity.whole] = outcome
        outcome.job = job.place.job
        if config.sweep.resume or _was_tried(job):
            done, earlier = _look_back(prepared, job.place)
            if done is not None:
                kept.made[prepared.identity.whole] = done
                return done
    folder: RunFolder | None = None
    measuring = _Measuring()
    try:
        with signals_held():
            folder = _begin(prepared, earlier)
        if job.place is not None and kept.alone and (twin := _twin(folder, prepared.identity, job.place)):
            folder = None
            outcome.status, outcome.run_id, outcome.why = (
                "DUPLICATE",
                twin,
                "another job has the same settings, run once",
            )
            return outcome
        outcome.run_id = folder.state.run_id
        yield from _measure(prepared, kept, folder, earlier, measuring)
        outcome.status = "FINISHED" if measuring.succeeded else "FAILED"
        if outcome.status == "FAILED":
            outcome.why = "no sample succeeded"
    except (KeyboardInterrupt, Terminated, GeneratorExit, SystemExit):  # SystemExit: so Ray stops a job
        outcome.status, outcome.why = "KILLED", "stopped"
        raise
    except Exception as error:
        if folder is None:
            raise
        outcome.why = _tell(folder, error)
    finally:
        if folder is not None:
            with signals_held():  # what was finished is kept; a second signal ends it all the same
                _close(prepared, kept, folder, measuring, outcome)
    return outcome


def _was_tried(job: Job) -> bool:
    """Whether its launcher gives the job once more, since the process that had it died."""
    from fourstage.tracking.folder import RunFolder

    try:
        state = RunFolder.open(job.folder).state
    except UserError:
        return False
    return job.place is not None and state.tags.get("fourstage.session") == job.place.session


def _look_back(prepared: _Prepared, place: Place) -> tuple[Outcome | None, Earlier | None]:
    """The outcome of a job that was measured before; or what a half-done run left."""
    from fourstage.runs.resume import look

    found = look(
        place.parent,
        prepared.identity,
        prepared.config,
        prepared.samples,
        prepared.destination,
        _machine(prepared.config),
    )
    for line in found.told:
        say(f"job {place.job}: {line}")
    if found.skip is not None:
        run = found.skip
        say(f"job {place.job}: skipped, run {run.name} ({run.run_id}) has it, finished and valid")
        return Outcome("SKIPPED", run.name, place.job, run.run_id, "measured before", run.metrics), None
    if (earlier := found.go_on) is not None:
        say(f"job {place.job}: goes on with run {earlier.folder.state.name}, {len(earlier.records)} records are there")
    return None, found.go_on


def _begin(prepared: _Prepared, earlier: Earlier | None) -> RunFolder:
    """The run's folder, and the run in the store: sent later where that is away. Raises UserError for a single run
    whose store cannot be used."""
    from fourstage.tracking.deliver import announce
    from fourstage.tracking.folder import Process, RunFolder
    from fourstage.tracking.patience import StoreAwayError, patience_with

    job, config = prepared.job, prepared.config
    tags = _tags(prepared)
    if earlier is not None:
        folder, position = earlier.folder, earlier.records[-1].position + 1
        tags |= {"fourstage.process": str(Process.this()), "fourstage.continued_at": str(position)}
        folder.change(
            tags=folder.state.tags | tags,
            process=Process.this(),
            status="RUNNING",
            ended_ms=None,
            delivered=False,
            metrics={},
        )
    else:
        folder = RunFolder.begin(
            job.folder, prepared.destination, prepared.name, settings.flatten(job.tree), tags, config.tracking.traces,
            parent=job.place.folder if job.place else None,
        )  # fmt: skip
    if clock := folder.state.tags.get("fourstage.clock"):
        say(f"warning: this machine's clock is {clock}; the run is measured and sent all the same")
    root = str(prepared.samples[0].root)
    folder.change(
        dataset={
            "name": config.dataset.name,
            "digest": prepared.identity.dataset,
            "source": root,
            "samples": len(prepared.samples),
        }
    )
    patience_with(folder.state.destination.uri).begin(config.tracking.wait_s)
    try:
        announce(folder)
    except UserError as error:
        if job.place is None and not isinstance(error, StoreAwayError):
            folder.discard()
            raise
        say(f"warning: {error}; the run is kept in {folder.path} and sent at its end or by {sync_command(folder)}")
    except BaseException:
        folder.change(status="KILLED", delivered=folder.state.run_id is None)
        raise
    return folder


def _twin(folder: RunFolder, identity: Identity, place: Place) -> str | None:
    """Another job of the same -m with the same identity that began before; then this run is taken back.

    Jobs in other processes cannot see each other but in the store: all have made their run, the first one counts.
    """
    from fourstage.tracking.patience import StoreAwayError
    from fourstage.tracking.reader import children_of, move_to_trash

    own = folder.state.run_id
    if own is None:
        return None
    try:
        children = children_of(folder.state.destination, place.parent, identity.settings)
    except StoreAwayError:  # said where the run is delivered
        return None
    same = [
        run
        for run in children
        if run.tags.get("fourstage.session") == place.session
        and run.tags.get("fourstage.identity") == identity.whole
        and (run.run_id == own or run.tags.get("fourstage.job") != str(place.job))  # not an earlier try of this job
    ]
    first = min(same, key=lambda run: (run.started_unix_s, run.run_id), default=None)
    if first is None or first.run_id == own:
        return None
    move_to_trash(folder.state.destination, own)
    folder.discard()
    return first.run_id


@dataclass
class _Measuring:
    """What a run has so far."""

    checks: list[Check] = field(default_factory=list)
    reached: dict[str, float] = field(default_factory=dict)
    tracebacks: dict[str, None] = field(default_factory=dict)
    file: RecordFile | None = None

    @property
    def succeeded(self) -> bool:
        return self.file is not None and self.file.count > self.file.failed

    def note(self, error: Exception) -> None:
        """The first few tracebacks of samples that failed."""
        if len(self.tracebacks) < MOST_TRACEBACKS:
            self.tracebacks["".join(traceback.format_exception(error))] = None


def _measure(
    prepared: _Prepared, kept: Kept, folder: RunFolder, earlier: Earlier | None, measuring: _Measuring
) -> Generator[None, None, None]:
    """Measure into the folder, a turn for each of the sweep's rounds, then question what was measured."""
    from fourstage.measure.cache import Filled, behind, with_cache
    from fourstage.measure.protocol import Rounds, measure_rounds, timing_of
    from fourstage.records.table import Journal, RecordFile
    from fourstage.runs.environment import ProcessorTimes, processors_busy

    config, models = prepared.config, kept.models
    assert models is not None
    done = earlier.records if earlier else ()
    making = folder.journal.with_name("journal.making")
    making.unlink(missing_ok=True)
    journal, file = Journal(making), RecordFile(folder.records)
    measuring.file = file

    def keep(record: SampleRecord) -> None:
        file.append(record)
        journal.append(record)

    try:
        for record in done:
            keep(record)
        making.replace(folder.journal)  # whose last record may have been cut short: a kill until here loses none
        rounds, filled, busy = Rounds(), Filled(), processors_busy(kept.since)
        for turn in range(config.sweep.rounds):
            if turn:
                yield
            pipeline, load_s = models.get(config)
            if turn == 0:
                _note_model(folder, pipeline, load_s)
                _, filled = with_cache(config, pipeline, prepared.samples)
                folder.add_metrics(filled.metrics)
                folder.add_tags(filled.tags)
            pipeline = behind(filled, pipeline)
            timing = timing_of(config, pipeline, models.beside_bytes(config), measuring.note)
            rounds = measure_rounds(config, pipeline, prepared.samples, keep, rounds, turn, done, timing)
            del pipeline, timing  # nobody else may hold it while another job has its turn
        file.close()
    finally:
        journal.close()
    pipeline = behind(filled, models.get(config)[0])
    measuring.checks, measuring.reached = _question(config, pipeline, rounds, file, busy)
    _note_gpu(folder, "after", pipeline.facts.device)
    kept.since = ProcessorTimes.now()


def _note_model(folder: RunFolder, pipeline: StagedPipeline, load_s: float) -> None:
    """The model's facts on the run; `load_model_s` is 0 where an earlier job had loaded it."""
    facts = asdict(pipeline.facts)
    folder.add_metrics({"load_model_s": load_s})
    folder.add_tags(
        {f"fourstage.{key}": str(value) for key, value in facts.items()}
        | {"fourstage.reused_model": str(load_s == 0).lower()}
    )
    folder.add_file("model.json", facts)
    _note_gpu(folder, "before", pipeline.facts.device)


def _note_gpu(folder: RunFolder, when: str, device: str) -> None:
    """Clocks, power, temperature and what holds the GPU down, `before` and `after` the measurement."""
    from fourstage.runs.environment import gpu_state, nvml_reason

    if device.startswith("cuda"):
        state = gpu_state(device)
        folder.add_file(f"gpu_{when}.json", asdict(state) if state else {"reason": nvml_reason(device)})


def _question(
    config: Config, pipeline: StagedPipeline, rounds: Rounds, file: RecordFile, busy: float | None
) -> tuple[list[Check], dict[str, float]]:
    """The checks of what was measured, and the figures that their evidence gives."""
    from fourstage.trust.checks import check_run
    from fourstage.trust.evidence import figures, gather

    evidence = replace(gather(config, pipeline, rounds.planned, file.path), busy=busy, warm_up=rounds.warm_up)
    return check_run(evidence), figures(evidence)


def _tell(folder: RunFolder, error: Exception) -> str:
    """What ended a run, on the screen and on the run, with its traceback; `_close` says what became of its disk."""
    what = word_of(error)
    if folder.gone or no_space(error):
        return what
    whole = "" if isinstance(error, UserError) else " (traceback.txt of the run has the whole)"
    say(f"error: {what}{whole}")
    folder.add_tags({"fourstage.error": what})
    folder.add_file("traceback.txt", "".join(traceback.format_exception(error)))
    return what


def fail(job: Job, error: Exception) -> Outcome:
    """The outcome of a sweep's job that could not begin. It leaves a FAILED run where one can be made; what prevents
    that is said, and stops no other job."""
    assert job.place is not None
    name = settings.name_of_varied(job.varied) or f"job {job.place.job}"
    outcome = Outcome("FAILED", name, job.place.job, why=word_of(error), code=FAILED)
    try:
        with signals_held():
            _leave_failed(job, error, outcome)
    except Exception as second:  # no folder can be made, the disk is full
        say(f"error: {outcome.why}; job {job.place.job} leaves no run: {word_of(second)}")
    return outcome


def _leave_failed(job: Job, error: Exception, outcome: Outcome) -> None:
    """The FAILED run of a job that could not begin: what was asked for, and why it could not be."""
    from fourstage.tracking.deliver import deliver
    from fourstage.tracking.folder import RunFolder
    from fourstage.tracking.store import Destination

    assert job.place is not None
    sweep, tracking = settings.sweep_settings(job.tree)
    same = settings.identity(job.tree)
    tags = _sweep_tags(job.place) | {"fourstage.settings_hash": same}
    destination = Destination.of(tracking)
    if sweep.resume:
        _give_up_failed(destination, job.place.parent, same)
    begin = partial(
        RunFolder.begin, destination=destination, name=outcome.name, params=settings.flatten(job.tree), tags=tags,
        traces=0, parent=job.place.folder,
    )  # fmt: skip
    try:
        folder = begin(job.folder)
    except OSError:  # this may be why it could not begin
        folder = begin(job.folder.parent / f"job-{job.place.job}")
    _tell(folder, error)
    folder.end("FAILED")
    try:
        deliver(folder)
    except UserError as undelivered:
        _keep(folder, outcome, undelivered)
    outcome.run_id = folder.state.run_id


def _give_up_failed(destination: Destination, parent: str, settings_hash: str) -> None:
    """A sweep that goes on holds a job once, also one that could not begin before either."""
    from fourstage.tracking.reader import children_of, move_to_trash

    with suppress(UserError):  # the store is away, which is told where the run is delivered
        for run in children_of(destination, parent, settings_hash):
            if run.status == "FAILED":
                move_to_trash(destination, run.run_id)


def _close(
    prepared: _Prepared,
    kept: Kept,
    folder: RunFolder,
    measuring: _Measuring,
    outcome: Outcome,
) -> None:
    """Say and record everything and end the run. Whatever fails here is told; the run does not stay RUNNING."""
    from fourstage.tracking.deliver import deliver
    from fourstage.tracking.patience import patience_with

    if folder.gone:
        _end_lost(folder, outcome)
        return
    full = False
    try:
        _record(prepared, kept, folder, measuring, outcome)
    except Exception as error:  # a full disk, a fault of ours
        full = no_space(error)
        outcome.status, outcome.why = "FAILED", word_of(error) if full else _tell_unrecorded(error)
        if measuring.file is not None and not measuring.file.closed:
            folder.records.unlink(missing_ok=True)  # without its end nobody can read it; the journal has the records
    outcome.code = 0 if outcome.status == "FINISHED" else FAILED
    try:
        folder.end(outcome.status)
        outcome.metrics = dict(folder.state.metrics)
        patience_with(folder.state.destination.uri).probe()
        if warning := deliver(folder):
            say(f"warning: {warning}")
    except Exception as error:  # the store is away or full: the folder has everything
        _keep(folder, outcome, error)
    else:
        if full:
            say(f"error: {outcome.why}; not all of the run was recorded")
    outcome.run_id = folder.state.run_id


def _end_lost(folder: RunFolder, outcome: Outcome) -> None:
    """The run's folder was deleted while it was measured: it is FAILED, also in the store if that is still there."""
    from fourstage.tracking.store import database_path
    from fourstage.tracking.writer import TrackedRun

    outcome.status, outcome.code = "FAILED", FAILED
    outcome.why = f"{folder.path} was deleted during the run, and its records with it; run it again"
    outcome.run_id, destination = folder.state.run_id, folder.state.destination
    database = database_path(destination.uri)
    try:
        if outcome.run_id and (database is None or database.exists()):
            run = TrackedRun.reopen(destination, outcome.run_id)
            if run is not None:
                run.log_tags({"fourstage.error": outcome.why})
                run.end("FAILED")
    except UserError as error:
        outcome.why += f" ({error})"
    say(f"error: {outcome.why}")


def _tell_unrecorded(error: Exception) -> str:
    what = word_of(error)
    say(f"error: {what}; not all of the run was recorded")
    return what


def _keep(folder: RunFolder, outcome: Outcome, error: Exception) -> None:
    """The store did not take the run: it stays in its folder."""
    what = word_of(error)
    say(f"error: {what}; the run is kept in {folder.path}: {sync_command(folder)} sends it")
    outcome.delivered = False
    outcome.code = max(outcome.code, UNDELIVERED)


def sync_command(folder: RunFolder) -> str:
    """What sends a run that was kept, and where it gets the password that no file holds."""
    from fourstage.credentials import variables

    needed = variables(folder.state.destination.uri)
    return "python -m fourstage.sync" + (f" (with {needed} set, or tracking.uri=... again)" if needed else "")


def _record(prepared: _Prepared, kept: Kept, folder: RunFolder, measuring: _Measuring, outcome: Outcome) -> None:
    """Everything that a run leaves, after the measurement, into its folder and on the screen."""
    from omegaconf import OmegaConf

    from fourstage.records.columns import Columns
    from fourstage.records.table import RecordFile
    from fourstage.report.run_table import print_run
    from fourstage.runs.environment import environment, git_diff
    from fourstage.trust.checks import as_dict, as_tags, not_finished

    config = prepared.config
    file = measuring.file or RecordFile(folder.records)
    file.close()
    checks = measuring.checks or [not_finished(outcome.status, file.count)]
    root = prepared.samples[0].root
    folder.add_file("config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(prepared.job.tree))))
    if root not in kept.environments:
        kept.environments[root] = environment(root)
    folder.add_file("environment.json", kept.environments[root])
    folder.add_file("checks.json", as_dict(checks))
    if diff := git_diff():
        folder.add_file("git_diff.patch", diff)
    if measuring.tracebacks:
        folder.add_file("tracebacks.txt", "\n".join(measuring.tracebacks))
    columns = Columns.read(file.path).measured
    folder.add_tags(as_tags(checks) | {"fourstage.source_read": ",".join(columns.sources) or "none"})
    folder.add_metrics(_figures(columns, file) | measuring.reached)
    print_run(
        prepared.name, folder.state.run_id or "not in the store yet", outcome.status, file, columns, checks,
        measuring.reached, config.tracking.uri,
    )  # fmt: skip


def _figures(columns: Columns, file: RecordFile) -> dict[str, float]:
    """The run's figures; of very many samples the first are scored."""
    from itertools import islice

    from fourstage.records.quality import quality
    from fourstage.records.summary import summarise_run
    from fourstage.tracking.deliver import SHOWN

    shown = list(islice((record for record in file if record.role == "sample"), SHOWN))
    return summarise_run(columns) | quality(shown)


def read_samples(config: Config) -> list[Sample]:
    """The samples that the run goes over; the demo dataset is made on first use. Raises UserError."""
    return read_dataset_of(config.dataset)


def read_dataset_of(dataset: DatasetSettings) -> list[Sample]:
    """The samples of a dataset, with the same errors."""
    from fourstage.data import samples

    return samples.read_samples(dataset)


def _tags(prepared: _Prepared) -> dict[str, str]:
    """What tells this run apart, and where it came from."""
    import platform

    from fourstage.runs.environment import git_state

    git = git_state()
    tags = {
        "fourstage.version": fourstage.__version__,
        "fourstage.host": platform.node(),
        **_machine(prepared.config),
        **prepared.identity.tags(),
    }
    if git["commit"]:
        tags["mlflow.source.git.commit"] = git["commit"]
        tags["fourstage.git_dirty"] = str(git["dirty"]).lower()
    return tags | (_sweep_tags(prepared.job.place) if prepared.job.place else {})


def _sweep_tags(place: Place) -> dict[str, str]:
    return UNFOLDED | {
        "mlflow.parentRunId": place.parent,
        "fourstage.sweep": place.sweep,
        "fourstage.session": place.session,
        "fourstage.job": str(place.job),
    }


def _machine(config: Config) -> dict[str, str]:
    """Host and device: half a run of one and half of another would be no run."""
    import platform

    import torch

    from fourstage.models.device import choose_device

    device = choose_device(config.device)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {"fourstage.machine": f"{platform.node()} {name}"}


@contextmanager
def signals_held() -> Iterator[None]:
    """Keep Ctrl-C and kill waiting until the block is done; a second one ends the process at once."""
    import threading

    if threading.current_thread() is not threading.main_thread():  # a launcher's thread gets no signals
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def hold(number: int, _: object) -> None:
        came.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in handlers:
        signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        raise Terminated if came[0] == signal.SIGTERM else KeyboardInterrupt


def word_of(error: Exception) -> str:
    """An error in one line: the user's as it says itself, another with its kind."""
    return masked(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")


def no_space(error: Exception) -> bool:
    """Whether a full disk is the cause."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
