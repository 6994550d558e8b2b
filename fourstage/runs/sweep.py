"""The runs of one -m: their parent, their order, and what became of each.

    -m ──Hydra's sweeper and launcher──▶ jobs ──▶ runs nested under one parent ──▶ its tables, summary, exit code

The parent is made before the jobs (`Callback`) and travels to them in an environment variable, so that jobs in other
processes and on other hosts find it. In this process Hydra only composes the jobs: they run afterwards, those that
share a model next to each other, or in alternating rounds. Left out: one job (`session.py`).

    python -m fourstage.run -m model=eventgpt,videollava sweep.rounds=4
    python -m fourstage.run -m model=eventgpt,videollava sweep.rounds=4 sweep.resume=true
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback as HydraCallback

from fourstage.config import schema as settings
from fourstage.config.compose import (
    NUMBER,
    as_tree,
    check_job_folders,
    check_working_folder,
    from_hydra,
    jobs_of,
    study_of,
    swept_words,
    write_studys_texts,
)
from fourstage.config.schema import SweepSettings
from fourstage.credentials import keep, masked
from fourstage.runs.identity import code_hash
from fourstage.runs.session import (
    FAILED,
    UNDELIVERED,
    UNUSABLE,
    Job,
    Kept,
    Outcome,
    Place,
    Terminated,
    fail,
    run_job,
    say,
    signals_held,
    sync_command,
    take_turns,
    word_of,
)
from fourstage.stages import UserError
from fourstage.text import say_traceback

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from fourstage.tracking.folder import RunFolder
    from fourstage.tracking.reader import RunFacts
    from fourstage.tracking.store import Destination

PLACE = "FOURSTAGE_SWEEP"  # in the environment of its jobs
SIDE_BY_SIDE = 24  # runs whose texts the parent's table holds, a column each
STOP_LIMIT_S = 60  # that a job in a process of its own may take to keep what it has

_current: list[Sweep] = []  # the one of this process's command line, if it is a sweep's


@dataclass
class Sweep:
    """One -m, in the process that was called."""

    place: Place
    settings: SweepSettings
    folder: RunFolder  # the parent's
    expected: tuple[tuple[str, ...], ...] | None  # words of each job; None: the sweeper finds them as it goes
    collects: bool  # Hydra composes the jobs here, and they run afterwards
    jobs: list[Job] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    earlier: RunFacts | None = None  # the parent as the last session left it, where the sweep goes on
    broken: str = ""  # what ended the launcher or sweeper before its jobs


class Callback(HydraCallback):
    """Makes the parent before any job. Hydra turns what a callback raises into a warning, but not SystemExit."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _in_a_jobs_process, ()  # a launcher's process unpickles this before its first job

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        try:
            _current[:] = [begin(config)]
        except UserError as error:
            say(f"error: {error}")
            raise SystemExit(UNUSABLE) from error
        except Exception as error:
            told = isinstance(error, OSError) or from_hydra(error)
            if not told and not type(error).__module__.startswith("mlflow"):
                say_traceback()  # a fault of ours is told whole
            say(f"error: the sweep cannot begin: {next(iter(word_of(error).splitlines()))}")
            raise SystemExit(UNUSABLE if told else FAILED) from error

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Hydra has just written what was composed; a password that a file of settings held is in it."""
        folder = Path(config.hydra.runtime.output_dir, str(config.hydra.output_subdir or ""))
        for path in folder.glob("*.yaml"):
            text = path.read_text(encoding="utf-8")
            if (clean := masked(text)) != text:
                path.write_text(clean, encoding="utf-8")


def _in_a_jobs_process() -> Callback:
    from fourstage.config.launchers import go_on_without_folders

    go_on_without_folders()
    return Callback()


def hide_credentials(config: DictConfig) -> None:
    """Take the password out of an address that a file of settings gives: Hydra and launchers write this down."""
    from omegaconf import OmegaConf

    uri = OmegaConf.select(config, "tracking.uri", throw_on_missing=False)
    if isinstance(uri, str) and (bare := keep(uri)) != uri:
        OmegaConf.update(config, "tracking.uri", bare)


def begin(config: DictConfig) -> Sweep:
    """Make the parent, or with sweep.resume find it again, and put the jobs' place into what Hydra gives them."""
    from omegaconf import open_dict

    from fourstage.config.launchers import prepare

    prepare(config)
    check_working_folder(config.hydra)
    write_studys_texts(config)
    check_job_folders(config, jobs_of(config) or ())
    with signals_held():
        from fourstage.tracking.deliver import SESSIONS, announce
        from fourstage.tracking.folder import RunFolder
        from fourstage.tracking.patience import StoreAwayError, patience_with
        from fourstage.tracking.reader import PENDING
        from fourstage.tracking.store import Destination

    hide_credentials(config)
    tree = as_tree(config, without=("hydra",))
    sweep, tracking = settings.sweep_settings(tree)
    swept = swept_words(config)
    label = sweep.name or study_of(config) or "+".join(swept) or "sweep"
    words = sorted(
        settings.canonical(str(word)) for word in config.hydra.overrides.task if not settings.is_label(_key(word))
    )
    varied = sorted((name, settings.canonical(f"{name}={values}").partition("=")[2]) for name, values in swept.items())
    key = hashlib.sha256(json.dumps([words, varied]).encode()).hexdigest()[:16]
    destination = Destination.of(tracking)
    patience_with(destination.uri).begin(tracking.wait_s)
    data = _dataset_hash(tree)
    session = uuid.uuid4().hex[:8]
    tags = {
        "fourstage.role": "parent",
        "fourstage.sweep_key": key,
        "fourstage.session": session,
        "fourstage.code_hash": code_hash(),
        "fourstage.dataset_hash": data or "differs by job",
    }
    params = {_key(word): str(word).partition("=")[2] for word in config.hydra.overrides.task} | swept
    root = Path(config.hydra.sweep.dir)
    with _alone(destination) if sweep.resume else nullcontext():
        before = _find_parent(destination, sweep, key, data) if sweep.resume else None
        # two sweeps may begin in one second
        name = before.tags["fourstage.sweep"] if before else f"{label}-{time.strftime('%Y%m%d-%H%M%S')}-{session[:6]}"
        tags["fourstage.sweep"] = name
        if before:
            tags[SESSIONS] = str(int(before.tags.get(SESSIONS, 1)) + 1)
            _deliver_earlier(before)
        folder = RunFolder.begin(
            root, destination, before.name if before else label, params, tags, traces=0,
            run_id=before.run_id if before else None,
        )  # fmt: skip
        try:
            run = announce(folder)
            if before and run.tags().get("fourstage.session") != session:  # from another machine, at this moment
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
    if before:
        _supersede_parent(before, folder)
        say(f"sweep {name} ({parent}) goes on")
    place = Place(name, parent, session, tuple(swept), folder=str(root.absolute()))
    with open_dict(config):
        config.hydra.overrides.hydra.append(f"+hydra.job.env_set.{PLACE}={_encoded(place)}")
    collects = all("basic" in str(config.hydra[part]._target_).lower() for part in ("launcher", "sweeper"))
    return Sweep(place, sweep, folder, jobs_of(config), collects, earlier=before)


def _find_parent(destination: Destination, sweep: SweepSettings, key: str, data: str | None) -> RunFacts | None:
    """The newest parent of the same sweep, by its name where it has one; says why there is none that goes on."""
    from fourstage.runs.resume import process_of, still_runs
    from fourstage.tracking.reader import find_equal
    from fourstage.tracking.store import open_store

    open_store(destination)  # makes it where it is missing
    which = ("attributes.run_name", sweep.name) if sweep.name else ("tags.`fourstage.sweep_key`", key)
    parent = "tags.`fourstage.role` = 'parent'"
    for run in find_equal(destination, *which, also=parent, newest=1):
        if run.status == "RUNNING" and still_runs(run):
            raise UserError(f"sweep {run.name} ({run.run_id}) still runs in {process_of(run)}: wait for it, or stop it")
        changed = [("code", code_hash())] + ([("dataset", data)] if data else [])
        other = [what for what, now in changed if run.tags.get(f"fourstage.{what}_hash") != now]
        if other:
            say(f"the {' and '.join(other)} changed since sweep {run.tags['fourstage.sweep']}: a new sweep begins")
            return None
        return run
    for run in find_equal(destination, *which, also=parent, newest=1, deleted=True):
        say(f"sweep {run.name} was deleted, a new one begins; mlflow runs restore --run-id {run.run_id} brings it back")
        return None
    say("nothing to resume: no earlier sweep with these settings; it begins")
    return None


@contextmanager
def _alone(destination: Destination) -> Iterator[None]:
    """Let one sweep at a time look for its parent and take it up: the next one finds it RUNNING.

    A lock on a file beside the database, or for a server in this user's cache folder; it ends with its process.
    Raises UserError where another process holds it for too long.
    """
    from filelock import FileLock

    from fourstage.data.contents import cache_folder
    from fourstage.tracking.store import LOCK_LIMIT_S, database_path

    database = database_path(destination.uri)
    store = hashlib.sha256(f"{destination.uri} {destination.experiment}".encode()).hexdigest()[:16]
    path = Path(f"{database}.sweeps.lock") if database else cache_folder() / f"sweeps-{store}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=LOCK_LIMIT_S)
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"cannot lock {path}: {error}; sweep.resume=true needs it, so that no sweep runs twice"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _deliver_earlier(before: RunFacts) -> None:
    """Deliver the jobs of the last session that the store does not have, so that they are found and not run again.

    One that began in the store is left to its job, which may go on with it.
    """
    from fourstage.runs.sync import send
    from fourstage.tracking.folder import undelivered

    root = Path(before.tags.get("fourstage.folder", ""))
    if not before.tags.get("fourstage.folder") or not root.is_dir():  # on another machine, or gone
        return
    for folder in undelivered(root, lambda error: say(f"warning: {error}")):
        state = folder.state
        running = state.status == "RUNNING"
        if folder.path == root or (running and (state.run_id or state.process.alive() is not False)):
            continue
        try:
            send(folder)
        except Exception as error:  # its records are kept
            say(f"warning: {state.name} of the last session stays in {folder.path}: {word_of(error)}")


def _supersede_parent(before: RunFacts, folder: RunFolder) -> None:
    """The parent's run is this session's now: the folder of the last one has nothing to deliver."""
    from fourstage.tracking.folder import RunFolder

    with suppress(UserError, OSError):  # it is on another machine, or gone
        last = RunFolder.open(Path(before.tags.get("fourstage.folder", "")))
        if last.state.run_id in (before.run_id, None) and last.state.token != folder.state.token:
            last.supersede()


def _dataset_hash(tree: Mapping[str, Any]) -> str | None:
    """Of the data that every job reads, made where it is the demo's; None where jobs differ in it."""
    from fourstage.data.dataset import dataset_digest
    from fourstage.runs.session import read_dataset_of

    try:
        dataset = settings.dataset_settings(tree)
    except UserError:  # a job completes it, or says what is wrong
        return None
    return dataset_digest(read_dataset_of(dataset), dataset.hash, say)


def of_this_process() -> Sweep | None:
    """The sweep that this process's command line began."""
    return _current[0] if _current else None


def forget() -> None:
    """A new command line begins."""
    _current.clear()


def place_of_job(number: int) -> Place | None:
    """This process's place in a sweep, for the job with this number; None outside one."""
    return _decoded(os.environ[PLACE], number) if PLACE in os.environ else None


def _decoded(place: str, number: int) -> Place:
    found = json.loads(base64.urlsafe_b64decode(place.removeprefix("b64-") + "=="))
    return Place(**{**found, "varied": tuple(found["varied"]), "job": number})


def _encoded(place: Place) -> str:
    """In letters, digits, - and _, which Hydra's grammar leaves alone."""
    return "b64-" + base64.urlsafe_b64encode(json.dumps(asdict(place)).encode()).decode().rstrip("=")


def run_collected(sweep: Sweep, kept: Kept) -> None:
    """Run what Hydra composed, in the order that suits the models, or in alternating rounds."""
    if sweep.settings.isolate:
        for job in sweep.jobs:
            _announce(job)
            try:
                outcome = _run_apart(job)
            except OSError as error:  # no process, no memory for one
                outcome = fail(job, error)
            note(sweep, job, outcome)
        return
    order = list(by_model(sweep.jobs))
    turns = {_number(job): take_turns(job, kept) for job in order}
    try:
        for turn in range(sweep.settings.rounds):
            for job in order if turn % 2 == 0 else reversed(order):
                if (number := _number(job)) not in turns:
                    continue
                _announce(job, turn if sweep.settings.rounds > 1 else None)
                try:
                    next(turns[number])
                except StopIteration as stop:
                    del turns[number]
                    note(sweep, job, stop.value)
    finally:
        for left in turns.values():
            left.close()


def by_model(jobs: Sequence[Job]) -> Iterator[Job]:
    """The jobs, those that share a loaded model next to each other, else in the order in which they came."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        shared = {key: job.tree.get(key) for key in ("weights", "precision", "engine", "device")}
        model = job.tree.get("model")
        shared["model"] = model.get("name") if isinstance(model, Mapping) else model
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(job)
    for group in groups.values():
        yield from group


def _announce(job: Job, turn: int | None = None) -> None:
    say(title(job) if turn is None else f"round {turn + 1}, {title(job)}")


def title(job: Job) -> str:
    """`job 3: model=videollava precision=bf16`: its number and what differs in it."""
    varied = " ".join(f"{key}={value}" for key, value in job.varied.items())
    return f"job {_number(job)}: {varied or 'as configured'}"


def note(sweep: Sweep, job: Job, outcome: Outcome) -> None:
    """What became of a job of this process."""
    sweep.outcomes[_number(job)] = outcome
    tell_duplicate(job, outcome)


def cannot_begin(config: DictConfig, error: Exception) -> None:
    """A job whose folder Hydra cannot make is a FAILED run beside it; `config` is its composition with Hydra's part."""
    number = int(config.hydra.job.num)
    words = tuple(str(word) for word in config.hydra.overrides.task)
    place = _decoded(config.hydra.job.env_set[PLACE], number)
    job = Job(as_tree(config, without=("hydra",)), Path(config.hydra.sweep.dir) / f"job-{number}", place, words)
    say(title(job))
    outcome = fail(job, error)
    if (begun := of_this_process()) is not None:
        note(begun, job, outcome)
    else:
        write_outcome(job.folder, outcome)


def tell_duplicate(job: Job, outcome: Outcome) -> None:
    """Say that a job is another one's and was not run."""
    if outcome.status == "DUPLICATE":
        say(f"job {_number(job)}: not run, {outcome.why}")


def _number(job: Job) -> int:
    assert job.place is not None
    return job.place.job


def _run_apart(job: Job) -> Outcome:
    """A job in a process of its own; a signal to this one is handed on, and the job keeps what it has."""
    from fourstage.tracking.folder import RunFolder
    from fourstage.tracking.patience import patience_with

    assert job.place is not None
    environment = os.environ | {PLACE: _encoded(job.place), NUMBER: str(job.place.job)}
    command = [sys.executable, "-m", "fourstage.run", *job.words, f"hydra.run.dir={job.folder}"]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        code = process.wait()
    except (KeyboardInterrupt, Terminated):
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    if found := read_outcome(job.folder):
        if not found.delivered:  # the next job's process does not wait for the store again
            _, tracking = settings.sweep_settings(job.tree)
            patience_with(tracking.uri).give_up("it was away for the job before")
        return found
    if (job.folder / "run.json").exists():  # it died without a word
        folder = RunFolder.open(job.folder)
        state = folder.state
        return Outcome("KILLED", state.name, job.place.job, state.run_id, f"its process ended with {code}", code=FAILED)
    return Outcome("FAILED", f"job {job.place.job}", job.place.job, None, f"its process ended with {code}", code=FAILED)


OUTCOME = "outcome.json"
NOT_STARTED = "NOT_STARTED"  # a job's status where the sweep ended before it


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """What became of a job, where the process that started the sweep finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    making = folder / f"{OUTCOME}.making"
    making.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    making.replace(folder / OUTCOME)


def read_outcome(folder: Path) -> Outcome | None:
    """The outcome that a job's process left in its folder, if it is there."""
    path = folder / OUTCOME
    return Outcome(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def run_here(job: Job, kept: Kept) -> Outcome:
    """A job as soon as its launcher gives it, and its outcome beside it."""
    with suppress(OSError):  # whatever is wrong with the folder, the job says
        (job.folder / OUTCOME).unlink(missing_ok=True)  # of an earlier try
    outcome = run_job(job, kept)
    try:
        write_outcome(job.folder, outcome)
    except OSError as error:  # the sweep finds the run in the store
        say(f"warning: {word_of(error)}: what became of {title(job)} is not in its folder")
    return outcome


def objective(job: Job, outcome: Outcome) -> float | None:
    """The figure that a sweeper optimises; None where the job has none, which Optuna counts as a failed trial."""
    name = str(job.tree.get("objective"))
    if name in outcome.metrics:
        return outcome.metrics[name]
    if outcome.metrics:
        known = ", ".join(sorted(outcome.metrics))
        say(f"warning: objective={name} is no figure of this run; there are {known}")
    return None


def stop_processes() -> None:
    """End what a launcher started and an interrupted sweep would leave running."""
    import psutil

    left = [
        process
        for process in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(process.cmdline())  # Python's own, which end after this one
    ]
    for process in left:
        process.terminate()
    _, alive = psutil.wait_procs(left, timeout=STOP_LIMIT_S / 4)
    for process in alive:
        process.kill()


def has_ended(place: Place, job: Job) -> bool:
    """Whether the sweep of a job that only now begins was stopped meanwhile: then nobody waits for it."""
    from fourstage.tracking.reader import PENDING, find_runs
    from fourstage.tracking.store import Destination

    _, tracking = settings.sweep_settings(job.tree)
    which = f"attributes.run_id = '{place.parent}'"
    if place.parent.startswith(PENDING):
        which = f"tags.`fourstage.token` = '{place.parent.removeprefix(PENDING)}'"
    try:
        found = find_runs(
            Destination.of(tracking),
            f"{which} and tags.`fourstage.session` = '{place.session}'",
        )
    except UserError:  # the store is away: the job goes on, and is sent later
        return False
    return bool(found) and found[0].status != "RUNNING"


def reaches_from_afar(tree: Mapping[str, Any]) -> bool:
    """Whether a machine without the sweep's folder reaches the store; says so where it does not."""
    _, tracking = settings.sweep_settings(tree)
    if tracking.uri.startswith(("http://", "https://", "postgresql", "mysql", "mssql", "databricks")):
        return True
    say(
        f"error: tracking.uri={tracking.uri} is on the disk of the machine where the sweep began, and this one does "
        "not see it: share the disk, or use tracking=server"
    )
    return False


def tell_broken(sweep: Sweep, error: Exception) -> int:
    """Say what ended the launcher or the sweeper, since no job raises anything; the parent keeps the traceback."""
    first = next(iter(str(error).splitlines()), "")
    if "No trials are completed yet" in first:
        sweep.broken = "no trial gave the objective: nothing was found"
    else:
        sweep.broken = f"the launcher or sweeper ended with {type(error).__name__}: {first}"
    say(f"error: {sweep.broken} (traceback.txt of the sweep's parent has the whole)")
    sweep.folder.add_tags({"fourstage.error": sweep.broken})
    sweep.folder.add_file("traceback.txt", "".join(traceback.format_exception(error)))
    return FAILED


def refuse_alone(job: Job) -> None:
    """Raise SettingError where a single run is asked for what only a sweep does."""
    asked = [word for word in job.words if word.lstrip("+").startswith("sweep.")]
    if asked:
        raise settings.SettingError(f"{asked[0]} is about the runs of a sweep: add -m")


def finish(sweep: Sweep, stopped: str = "") -> int:
    """End the parent: jobs that died are ended, tables and summary written and said. Gives the exit code.

    `stopped`: "interrupted" or "terminated" where the sweep did not come to its end.
    """
    from fourstage.tracking.deliver import deliver
    from fourstage.tracking.patience import patience_with

    if (stopped or sweep.broken) and not sweep.collects:
        stop_processes()
    with signals_held():
        patience_with(sweep.folder.state.destination.uri).probe()
        outcomes, children = gather_outcomes(sweep)
        bad = [outcome for outcome in outcomes.values() if outcome.status in ("FAILED", "KILLED", NOT_STARTED)]
        status = "KILLED" if stopped else "FAILED" if bad or sweep.broken else "FINISHED"
        fill_parent(sweep.folder, outcomes, children, sweep.earlier)
        if sweep.settings.compare and not stopped:
            compare_jobs(sweep)
        sweep.folder.end(status)
        late = [outcome for outcome in outcomes.values() if not outcome.delivered]
        try:
            deliver(sweep.folder)
        except UserError as error:
            say(f"error: {error}; the sweep's summary is kept: {sync_command(sweep.folder)} sends it")
            late.append(Outcome(status))
        for line in summary(sweep.place.sweep, outcomes):
            say(line)
    return FAILED if bad else UNDELIVERED if late else 0


def compare_jobs(sweep: Sweep) -> None:
    """Compare the sweep's runs, print it, and put report and summary on the parent; the runs stand without it."""
    from fourstage.report.build import beside, compare_sweep, slug

    destination = sweep.folder.state.destination
    out = beside(destination) / slug(sweep.place.sweep)
    try:
        parent = _parent_now(sweep)
        if parent is None:
            raise UserError("the store does not have the sweep yet")
        compared = compare_sweep(destination, parent, out)
    except Exception as error:  # the store is away, a disk is full, a fault of ours
        say(f"warning: not compared: {word_of(error)}; try python -m fourstage.compare sweep={sweep.place.sweep}")
        return
    sweep.folder.add_tags({"mlflow.note.content": compared.markdown})
    if compared.files:
        shutil.copytree(out, sweep.folder.files / "comparison", dirs_exist_ok=True)


def _parent_now(sweep: Sweep) -> str | None:
    """The parent's run id in the store, which may have got it late, or lost it and got it again."""
    from fourstage.tracking.reader import find_by_token, parent_in_store

    state = sweep.folder.state
    return parent_in_store(state.destination, sweep.place.parent) or find_by_token(state.destination, state.token)


def gather_outcomes(sweep: Sweep) -> tuple[dict[int, Outcome], list[RunFacts]]:
    """The outcome of every job, by its number, also of those that died or never began; and the runs in the store."""
    from fourstage.runs.resume import process_of
    from fourstage.tracking.reader import children_of

    outcomes = dict(sweep.outcomes)
    for path in sweep.folder.path.glob(f"*/{OUTCOME}"):
        if (found := read_outcome(path.parent)) and found.job is not None:
            outcomes.setdefault(found.job, found)
    try:
        children = children_of(sweep.folder.state.destination, _parent_now(sweep) or sweep.place.parent)
    except UserError:  # it is away; the folders say what became of the jobs
        children = []
    for run in children:
        number = int(run.tags.get("fourstage.job", -1))
        if run.tags.get("fourstage.session") == sweep.place.session:
            outcomes.setdefault(number, _ended(sweep, run, number))  # also where a later try has told of the job
        elif run.status == "RUNNING" and (process := process_of(run)) and process.alive() is False:
            _end_lost(sweep, run)  # of an earlier session, and no job of this one
    for number, words in enumerate(sweep.expected or ()):
        if number not in outcomes:
            outcomes[number] = Outcome(NOT_STARTED, " ".join(words), number, why="it never began", code=FAILED)
    return dict(sorted(outcomes.items())), children


def _ended(sweep: Sweep, run: RunFacts, number: int) -> Outcome:
    """The outcome of a job that left no word: its run in the store, ended where its process died."""
    if run.status == "FINISHED":
        return Outcome("FINISHED", run.name, number, run.run_id, metrics=run.metrics)
    status, why = run.status, run.tags.get("fourstage.error", "")
    if status == "RUNNING":
        status, why = _end_lost(sweep, run), "its process died"
    return Outcome(status, run.name, number, run.run_id, why, code=0 if status == "FINISHED" else FAILED)


def _end_lost(sweep: Sweep, run: RunFacts) -> str:
    """End a run that is RUNNING in the store and whose process died; gives how it ended."""
    from fourstage.runs.sync import end_dead
    from fourstage.tracking.deliver import deliver
    from fourstage.tracking.writer import TrackedRun

    if (folder := _folder_of(run)) is not None:
        if folder.state.status == "RUNNING":
            end_dead(folder)
        deliver(folder)
        return folder.state.status
    lost = TrackedRun.reopen(sweep.folder.state.destination, run.run_id)  # its folder is on another machine's disk
    if lost is not None:
        lost.log_tags({"fourstage.error": "its process died"})
        lost.end("KILLED")
    return "KILLED"


def _folder_of(run: RunFacts) -> RunFolder | None:
    """The folder of a run, if this machine has it."""
    from fourstage.tracking.folder import RunFolder

    try:
        folder = RunFolder.open(Path(run.tags.get("fourstage.folder", "")))
    except UserError:
        return None
    return folder if folder.state.run_id == run.run_id else None


JOB_COLUMNS = {  # of the parent's table of jobs: heading → metric
    "load_s": "stage1_load_s.median",
    "preprocess_s": "stage2_preprocess_s.median",
    "encode_s": "stage3_encode_s.median",
    "decode_s": "stage4_decode_s.median",
    "total_s": "total_s.median",
    "ttft_s": "ttft_s.median",
    "tpot_ms": "tpot_ms",
    "output_tokens": "output_tokens.mean",
    "samples_ok": "samples_ok",
    "samples_failed": "samples_failed",
}


NOTED = {  # of them in the parent's description: heading → column, unit
    "load": ("load_s", "s"),
    "preprocess": ("preprocess_s", "s"),
    "encode": ("encode_s", "s"),
    "decode": ("decode_s", "s"),
    "total": ("total_s", "s"),
    "TTFT": ("ttft_s", "s"),
    "TPOT": ("tpot_ms", "ms"),
    "output tokens": ("output_tokens", ""),
}
NOTED_JOBS = 40  # a tag holds 8000 characters


def fill_parent(
    folder: RunFolder,
    outcomes: Mapping[int, Outcome],
    children: Sequence[RunFacts],
    earlier: RunFacts | None = None,
) -> None:
    """The parent's files and note: its jobs with state and main figures, the texts of its runs side by side."""
    jobs = [
        {"job": number, "run": outcome.name, "state": outcome.status, "why": outcome.why, "run_id": outcome.run_id}
        | {heading: outcome.metrics.get(metric) for heading, metric in JOB_COLUMNS.items()}
        for number, outcome in outcomes.items()
    ]
    folder.add_file(
        "jobs.json", {"columns": list(jobs[0]) if jobs else [], "data": [list(job.values()) for job in jobs]}
    )
    tables = []
    done = sorted(
        (run for run in children if run.status == "FINISHED"), key=lambda run: int(run.tags.get("fourstage.job", -1))
    )
    if texts := side_by_side(folder.state.destination, done[:SIDE_BY_SIDE]):
        folder.add_file("samples.json", texts)
        tables.append("samples.json")
    folder.add_tags({"mlflow.note.content": jobs_note(jobs)})
    folder.add_tags({"mlflow.loggedArtifacts": json.dumps([{"path": name, "type": "table"} for name in tables])})
    states = [outcome.status for outcome in outcomes.values()]
    known = [
        key.removeprefix("jobs_").upper() for key in (earlier.metrics if earlier else ()) if key.startswith("jobs_")
    ]
    counted = dict.fromkeys(["FINISHED", *known, *states])
    folder.add_metrics({f"jobs_{state.lower()}": states.count(state) for state in counted})


def jobs_note(jobs: Sequence[Mapping[str, Any]]) -> str:
    """The parent's description, in Markdown: a row for each of the first jobs, figures as medians."""
    from fourstage.records.wording import amount
    from fourstage.text import markdown_cell

    def shown(value: Any, unit: str) -> str:
        return "–" if value is None else amount(value, unit)

    lines = [f"| run | state |{''.join(f' {heading} |' for heading in NOTED)}", f"|---|---|{'---|' * len(NOTED)}"]
    for job in jobs[:NOTED_JOBS]:
        figures = "".join(f" {shown(job[key], unit)} |" for key, unit in NOTED.values())
        lines.append(f"| {markdown_cell(str(job['run']))} | {job['state'].lower()} |{figures}")
    if len(jobs) > NOTED_JOBS:
        lines.append(f"\n{len(jobs) - NOTED_JOBS} more jobs are in jobs.json.")
    return "\n".join(lines)


def side_by_side(destination: Destination, runs: Sequence[RunFacts]) -> dict[str, Any]:
    """One row a sample, one column a run: what each answered, and how long it took. {} where no run left any.

    In `output` the answers stand together: it is the column that the UI's artifact view shows, and the only one.
    """
    from fourstage.tracking.reader import run_samples

    rows: dict[str, dict[str, Any]] = {}
    columns = ["sample", "question", "reference"]
    answers, times = list[str](), list[str]()
    for run in runs:
        name = run.name if f"{run.name}" not in answers else f"{run.name} (job {run.tags.get('fourstage.job')})"
        answers.append(name)
        times.append(f"{name}: total_s")
        for sample in run_samples(destination, run.run_id):
            row = rows.setdefault(str(sample["sample"]), {key: sample[key] for key in columns})
            row.setdefault(name, sample["output"] if sample["error"] is None else f"failed: {sample['error']}")
            row.setdefault(f"{name}: total_s", sample["total_s"])
    columns += [*answers, *times, "output"]
    for row in rows.values():
        row["output"] = _together({name: str(row[name]) for name in answers if name in row})
    return {"columns": columns, "data": [[row.get(key) for key in columns] for row in rows.values()]} if rows else {}


CELL_CHARS = 280  # that a cell of the UI's artifact view shows, in 7 lines
LEAST_CHARS = 40


def _together(answers: Mapping[str, str]) -> str:
    """The answers under their runs' names, each cut to its share of a cell where they are too long for it."""
    room = CELL_CHARS - sum(len(name) + 4 for name in answers)
    share = room // max(len(answers), 1) if sum(map(len, answers.values())) > room else CELL_CHARS
    share = max(share, LEAST_CHARS)
    texts = {name: text if len(text) <= share else f"{text[: share - 1]}…" for name, text in answers.items()}
    return "\n".join(f"▸ {name}: {text}" for name, text in texts.items())


def summary(name: str, outcomes: Mapping[int, Outcome]) -> Iterator[str]:
    """How many jobs came to which end, and each that failed with its reason."""
    counts: dict[str, int] = {}
    for outcome in outcomes.values():
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
    told = (f"{n} {state.lower().replace('_', ' ')}" for state, n in counts.items())
    yield f"sweep {name}: " + (", ".join(told) or "no job")
    for number, outcome in outcomes.items():
        if outcome.status in ("FAILED", "KILLED"):
            yield f"  job {number} {outcome.status} {outcome.name}: {outcome.why}"


def _key(word: Any) -> str:
    return str(word).partition("=")[0].lstrip("+~")
