"""The file of an SQLite store: made whole or not at all, and checked before MLflow opens it."""

from __future__ import annotations

import errno
import glob
import sqlite3
import uuid
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fourstage.credentials import masked
from fourstage.stages import UserError
from fourstage.tracking.patience import (
    SQLITE,
    Patience,
    StoreAwayError,
)

if TYPE_CHECKING:
    from filelock import BaseFileLock

from fourstage.tracking.destination import LOCK_LIMIT_S, artifact_uri, sqlite_uri
from fourstage.tracking.failures import FULL, first_line


def same_file(path: Path) -> tuple[int, int] | None:
    """What a file that was not replaced keeps; None where there is none."""
    if not path.exists():
        return None
    found = path.stat()
    return found.st_dev, found.st_ino


def make_database(path: Path) -> None:
    """Create tables under another name and move them into place: two makers or a Ctrl-C leave no half a store."""
    if has_content(path):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path):
            if has_content(path):
                return
            _make_tables(path)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise UserError(
            f"cannot write the tracking database {path}: {error.strerror or error}; "
            "free the path or set tracking.uri to a folder that you may write"
        ) from error


def _make_tables(path: Path) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import SQLAlchemyError

    _remove_half_made(path)
    making = path.with_name(f"{path.name}.making-{uuid.uuid4().hex}")  # mlflow makes tables once for a name
    making.touch()
    try:
        # not by a client, which would put the folder's name into SQL as it is, quotes and all
        SqlAlchemyStore(sqlite_uri(making), artifact_uri(str(path.parent / "artifacts"))).engine.dispose()
    except (SQLAlchemyError, MlflowException) as error:
        if (engine := SqlAlchemyStore._engine_map.pop(sqlite_uri(making), None)) is not None:
            engine.dispose()  # an open file keeps its space
        _remove_half_made(path)
        if "full" in str(error) or "disk I/O" in str(error):
            raise OSError(errno.ENOSPC, f"no space for the tracking database {path}") from error
        raise OSError(errno.EIO, first_line(error)) from error
    making.replace(path)


def _remove_half_made(path: Path) -> None:
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.making*"):
        leftover.unlink(missing_ok=True)


def check_database(path: Path, writing: bool, patience: Patience) -> None:
    """Refuse before mlflow opens it: it would wait minutes, or upgrade somebody's older store without asking."""
    if not path.is_file():
        raise UserError(f"cannot use the tracking database {path}: it is no file; set tracking.uri to another path")
    try:
        revision = patience.call(_read_revision, path, writing, patience.left_s)
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            patience.give_up(str(error))
            raise StoreAwayError(f"tracking store {masked(str(path))}: {error}") from error
        broken = code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
        advice = "set tracking.uri to another" if broken else "mend its permissions or set tracking.uri to another"
        raise UserError(f"cannot use the tracking database {path}: {error}; {advice}") from error
    _check_schema(path, revision)


def _read_revision(path: Path, writing: bool, wait_s: float) -> str:
    with closing(sqlite3.connect(path, timeout=wait_s, isolation_level=None)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if "alembic_version" not in tables or "experiments" not in tables:
            raise UserError(f"{path} is a database of something else; set tracking.uri to another path")
        revisions = [str(revision) for (revision,) in database.execute("SELECT version_num FROM alembic_version")]
        if not revisions:
            raise UserError(f"{path} was only half made; delete it, or set tracking.uri to another path")
        if writing:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            database.execute("BEGIN IMMEDIATE")  # says nothing of a read-only file; the next line does
            database.execute(f"PRAGMA user_version={version}")
            database.execute("ROLLBACK")
        return revisions[0]


def _check_schema(path: Path, revision: str) -> None:
    import mlflow

    newest, known = _schemas()
    if revision in newest:
        return
    if revision in known:
        raise UserError(
            f"{path} was made by an mlflow older than {mlflow.__version__}; "
            f"back it up and run: mlflow db upgrade {SQLITE}{path}"
        )
    raise UserError(
        f"{path} was made by an mlflow newer than {mlflow.__version__} (schema {revision}); "
        "upgrade mlflow or set tracking.uri to another path"
    )


@cache
def _schemas() -> tuple[frozenset[str], frozenset[str]]:
    """The revisions of a database that this mlflow works with, and all that it knows; reading them takes 0.2 s."""
    import mlflow
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    return frozenset(scripts.get_heads()), frozenset(script.revision for script in scripts.walk_revisions())


def has_content(path: Path) -> bool:
    """Whether a path holds anything but an empty file."""
    return path.exists() and (not path.is_file() or path.stat().st_size > 0)


def lock(path: Path) -> BaseFileLock:
    """The lock under which a database is made and its experiments are created."""
    from filelock import FileLock

    return FileLock(f"{path}.lock", timeout=LOCK_LIMIT_S)
