"""A run on disk: everything that it leaves is here first, and goes to the store from here.

    run.json         what it is: name, params, tags, figures, dataset, status, and whether the store has it
    journal.jsonl    its records while it goes
    replicates/      000, 001, …: of a run that is measured in fresh processes a folder like this for each
    records.parquet  all of them, when it ended
    files/           what becomes its artifacts

So a store that is away disturbs no measurement, and a killed process leaves what it had. Left out: sending it
(`deliver.py`) and measuring (`session.py`).

    folder = RunFolder.begin(path, destination, "eventgpt-bf16", params, tags, traces=16)
    folder.add_metrics({"load_model_s": 12.3})
    folder.end("FINISHED")
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fourstage.credentials import masked, masked_tree
from fourstage.records.table import read_journal
from fourstage.stages import SampleRecord, UserError
from fourstage.text import storable
from fourstage.tracking.destination import Destination, resolved_uri

NAME, JOURNAL, RECORDS, FILES, REPLICATES = "run.json", "journal.jsonl", "records.parquet", "files", "replicates"
OPEN = "RUNNING"


@dataclass(frozen=True)
class Process:
    """A process that can be told from a later one with its number."""

    host: str
    pid: int
    started_unix_s: float

    @classmethod
    def this(cls) -> Process:
        """The process that asks."""
        import psutil

        return cls(platform.node(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def parse(cls, text: str) -> Process | None:
        """From `str(process)`; None where it is no such text."""
        host, _, rest = text.rpartition(" ")
        pid, _, started = rest.partition("@")
        return cls(host, int(pid), float(started)) if host and pid.isdigit() and started else None

    def alive(self) -> bool | None:
        """Whether it still runs; None where another host would have to be asked."""
        import psutil

        if self.host != platform.node():
            return None
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.started_unix_s) < 1
            return bool(same and found.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        return f"{self.host} {self.pid}@{self.started_unix_s}"


@dataclass(frozen=True)
class RunState:
    """What `run.json` holds."""

    token: str  # of this run alone: by it the store's run is found again
    name: str
    destination: Destination
    params: dict[str, Any]
    tags: dict[str, str]
    traces: int  # samples that get a trace, at most
    started_ms: int
    process: Process
    run_id: str | None = None  # None: the store has not heard of it
    dataset: dict[str, Any] | None = None  # name, digest, source, samples
    metrics: dict[str, float] = field(default_factory=dict)
    status: str = OPEN  # RUNNING, FINISHED, FAILED, KILLED
    ended_ms: int | None = None
    delivered: bool = False
    parent: str | None = None  # of a sweep's job the folder of the sweep


class RunFolder:
    """The folder of one run, and what is known of it."""

    def __init__(self, path: Path, state: RunState):
        self.path, self.state = path, state
        self.journal, self.records, self.files = path / JOURNAL, path / RECORDS, path / FILES

    @classmethod
    def begin(
        cls,
        path: Path,
        destination: Destination,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        traces: int,
        run_id: str | None = None,
        parent: str | None = None,
        delivered: bool = False,
    ) -> RunFolder:
        """A new run, or with `run_id` one that goes on. A replicate counts as delivered: its run delivers it.

        Raises OSError where the folder cannot be written, UserError where a run of another process still goes on in it.
        """
        path.mkdir(parents=True, exist_ok=True)
        cls._refuse_busy(path)
        for left in (path / JOURNAL, path / RECORDS):  # of another run in a folder that was asked for by name
            left.unlink(missing_ok=True)
        for left in (path / FILES, path / REPLICATES):
            shutil.rmtree(left, ignore_errors=True)
        here = replace(destination, uri=resolved_uri(destination.uri), artifacts=_absolute(destination.artifacts))
        token, process = uuid.uuid4().hex, Process.this()
        own = {"fourstage.token": token, "fourstage.folder": str(path.absolute()), "fourstage.process": str(process)}
        own |= _clock()
        texts = (storable(masked_tree(text)) for text in (name, params, {**tags, **own}))
        clean_name, clean_params, clean_tags = texts
        state = RunState(
            token, clean_name, here, clean_params, clean_tags, traces, _now_ms(), process, run_id, parent=parent,
            delivered=delivered,
        )  # fmt: skip
        folder = cls(path, state)
        folder._write()
        return folder

    @classmethod
    def _refuse_busy(cls, path: Path) -> None:
        try:
            state = cls.open(path).state
        except UserError:  # none is there, or none that can be read
            return
        if state.status == OPEN and state.process.pid != os.getpid() and state.process.alive():
            raise UserError(
                f"{path} is the folder of {state.name}, which still runs in {state.process}: choose another"
            )

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """A run that was begun. Raises UserError where there is none, or none that this version understands."""
        try:
            found = json.loads((path / NAME).read_text(encoding="utf-8"))
            found["destination"] = Destination(**found["destination"])
            found["process"] = Process(**found["process"])
            return cls(path, _checked(RunState(**found)))
        except FileNotFoundError as error:
            raise UserError(f"{path} holds no run: {NAME} is not there") from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            known = ", ".join(item.name for item in fields(RunState))
            raise UserError(f"{path / NAME} cannot be read: {error}; expected {known}") from error

    @property
    def gone(self) -> bool:
        """Whether somebody deleted it while the run went on."""
        return not (self.path / NAME).exists()

    def replicate(self, number: int) -> Path:
        """The folder of a replicate, counted from 0."""
        return self.path / REPLICATES / f"{number:03d}"

    def finished_replicate(self, number: int) -> RunFolder | None:
        """A replicate that was measured to its end; None where it was not."""
        try:
            found = RunFolder.open(self.replicate(number))
        except UserError:
            return None
        return found if found.state.status == "FINISHED" else None

    def journaled(self) -> Iterator[SampleRecord]:
        """The records that were made so far, those of its replicates one after the other; whatever was killed."""
        position = 0
        for path in (self.journal, *sorted(self.path.glob(f"{REPLICATES}/*/{JOURNAL}"))):
            records = read_journal(path)
            yield from (replace(record, position=position + record.position) for record in records)
            position += len(records)

    def change(self, **changes: Any) -> None:
        """Put these fields into `run.json`, whole or not at all."""
        self.state = replace(self.state, **{key: storable(value) for key, value in changes.items()})
        self._write()

    def add_tags(self, tags: Mapping[str, str]) -> None:
        """Add tags to `run.json`, credentials masked."""
        self.change(tags={**self.state.tags, **masked_tree(tags)})

    def add_metrics(self, metrics: Mapping[str, float]) -> None:
        """Add metrics to `run.json`."""
        self.change(metrics={**self.state.metrics, **metrics})

    def add_file(self, name: str, content: str | Mapping[str, Any]) -> None:
        """A file that becomes an artifact; a mapping is written as JSON."""
        path = self.files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = masked(content) if isinstance(content, str) else json.dumps(masked_tree(content), indent=2, default=str)
        path.write_text(storable(text), encoding="utf-8")

    def end(self, status: str) -> None:
        """The run is over, as FINISHED, FAILED or KILLED."""
        self.change(status=status, ended_ms=_now_ms())

    def supersede(self) -> None:
        """Another run took its place, or it never began: there is nothing to deliver."""
        self.change(delivered=True)
        self.tidy()

    def discard(self) -> None:
        """Forget the run: it was not to be."""
        (self.path / NAME).unlink(missing_ok=True)
        self.tidy()

    def tidy(self) -> None:
        """Remove what the store has; a run that could go on keeps its journal."""
        shutil.rmtree(self.files, ignore_errors=True)
        self.records.unlink(missing_ok=True)
        if self.state.status == "FINISHED":
            shutil.rmtree(self.path / REPLICATES, ignore_errors=True)
            self.journal.unlink(missing_ok=True)

    def _write(self) -> None:
        making = self.path / f"{NAME}.making"
        try:
            making.write_text(json.dumps(asdict(self.state), indent=1, default=str), encoding="utf-8")
            making.replace(self.path / NAME)
        except OSError:  # a full disk: what was written before stays
            making.unlink(missing_ok=True)
            raise


def _now_ms() -> int:
    return max(1, round(1000 * time.time()))


def _clock() -> dict[str, str]:
    """MLflow stores no time before 1970; a board without a battery may think that it is then."""
    return {"fourstage.clock": "before 1970: its times are not stored"} if time.time() < 0 else {}


def undelivered(root: Path, tell: Callable[[UserError], None]) -> Iterator[RunFolder]:
    """The runs below `root` that the store does not have whole, oldest first, also those that still go on.

    `tell` is called with the error of each folder whose run.json cannot be read.
    """
    folders: list[RunFolder] = []
    for path in sorted(root.rglob(NAME)):
        try:
            folders.append(RunFolder.open(path.parent))
        except UserError as error:
            tell(error)
    yield from sorted((f for f in folders if not f.state.delivered), key=lambda folder: folder.state.started_ms)


def _checked(state: RunState) -> RunState:
    """Raise TypeError where a field of a damaged or foreign run.json has another type."""
    kinds: dict[str, Any] = {
        "token": str, "name": str, "params": dict, "tags": dict, "traces": int, "started_ms": int, "metrics": dict,
        "status": str, "delivered": bool,
    }  # fmt: skip
    for name, kind in kinds.items():
        if not isinstance(value := getattr(state, name), kind):
            raise TypeError(f"{name} is {value!r}")
    of_process: dict[str, Any] = {"host": str, "pid": int, "started_unix_s": int | float}
    for name, kind in of_process.items():
        if not isinstance(value := getattr(state.process, name), kind):
            raise TypeError(f"process.{name} is {value!r}")
    return state


def _absolute(artifacts: str | None) -> str | None:
    if artifacts is None or "://" in artifacts:
        return artifacts
    return str(Path(artifacts).expanduser().absolute())
