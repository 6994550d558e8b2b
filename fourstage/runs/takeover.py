"""What a resumed sweep takes over from its last session: the parent, and the jobs that the store does not have.

with exclusive(destination):
    earlier = find_parent(destination, sweep, key, data)
    deliver_earlier(earlier)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fourstage.config.schema import SweepSettings
from fourstage.runs.identity import code_hash
from fourstage.runs.outcome import describe_error
from fourstage.stages import UserError
from fourstage.text import say

if TYPE_CHECKING:
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.folder import RunFolder
    from fourstage.tracking.reader import RunFacts


def find_parent(destination: Destination, sweep: SweepSettings, key: str, data: str | None) -> RunFacts | None:
    """The newest parent of the same sweep, by its name where it has one; says why none can be resumed."""
    from fourstage.runs.resume import process_of, still_runs
    from fourstage.tracking.reader import find_equal
    from fourstage.tracking.store import open_store

    open_store(destination)  # makes it where it is missing
    which = ("attributes.run_name", sweep.name) if sweep.name else ("tags.`fourstage.sweep_key`", key)
    parent = "tags.`fourstage.role` = 'parent'"
    for run in find_equal(destination, *which, also=parent, newest=1):
        if run.status == "RUNNING" and still_runs(run):
            raise UserError(f"sweep {run.name} ({run.run_id}) still runs in {process_of(run)}: wait for it, or stop it")
        current = [("code", code_hash())] + ([("dataset", data)] if data else [])
        changed = [what for what, now in current if run.tags.get(f"fourstage.{what}_hash") != now]
        if changed:
            say(f"the {' and '.join(changed)} changed since sweep {run.tags['fourstage.sweep']}: a new sweep begins")
            return None
        return run
    for run in find_equal(destination, *which, also=parent, newest=1, deleted=True):
        say(f"sweep {run.name} was deleted, a new one begins; mlflow runs restore --run-id {run.run_id} brings it back")
        return None
    say("nothing to resume: no earlier sweep with these settings; it begins")
    return None


@contextmanager
def exclusive(destination: Destination) -> Iterator[None]:
    """Let one sweep at a time look for its parent and take it over: the next one finds it RUNNING.

    A lock on a file beside the database, or for a server in this user's cache folder; it ends with its process.
    Raises UserError where another process holds it for too long.
    """
    from filelock import FileLock

    from fourstage.data.contents import cache_folder
    from fourstage.tracking.destination import LOCK_LIMIT_S, database_path

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


def deliver_earlier(parent: RunFacts) -> None:
    """Deliver the jobs of the last session that the store does not have, so that they are found and not run again.

    One that began in the store is left to its job, which may continue it.
    """
    from fourstage.runs.sync import send
    from fourstage.tracking.folder import undelivered

    root = Path(parent.tags.get("fourstage.folder", ""))
    if not parent.tags.get("fourstage.folder") or not root.is_dir():  # on another machine, or gone
        return
    for folder in undelivered(root, lambda error: say(f"warning: {error}")):
        state = folder.state
        running = state.status == "RUNNING"
        if folder.path == root or (running and (state.run_id or state.process.alive() is not False)):
            continue
        try:
            send(folder)
        except Exception as error:  # its records stay in the folder
            say(f"warning: {state.name} of the last session stays in {folder.path}: {describe_error(error)}")


def supersede_parent(parent: RunFacts, folder: RunFolder) -> None:
    """The parent's run belongs to this session: the folder of the last one has nothing to deliver any more."""
    from fourstage.tracking.folder import RunFolder

    with suppress(UserError, OSError):  # it is on another machine, or gone
        last = RunFolder.open(Path(parent.tags.get("fourstage.folder", "")))
        if last.state.run_id in (parent.run_id, None) and last.state.token != folder.state.token:
            last.supersede()
