"""Where runs go: an SQLite database with a folder of artifacts, or a tracking server.

Opening makes what is missing, and says in one line what the user can mend. Left out: what is written there
(`writer.py`), how the UI shows it (`views.py`), and reading it back (`reader.py`). MLflow takes a second to import,
so it is imported inside functions.

    here = Destination("sqlite:///mlruns/mlflow.db", "mlruns/artifacts", "fourstage")
    client, experiment_id = open_store(here)
"""

from __future__ import annotations

import base64
import errno
import glob
import http.client
import logging
import os
import re
import sqlite3
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import TYPE_CHECKING, cast

from fourstage.credentials import complete, keep, login, masked, masked_error
from fourstage.paths import kind_of, path_of, shortened
from fourstage.stages import UserError
from fourstage.text import one_line
from fourstage.tracking.patience import (
    PROBE_S,
    SQLITE,
    ForeignError,
    LateError,
    Patience,
    PatientClient,
    StoreAwayError,
    patience_with,
)

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from mlflow import MlflowClient
    from mlflow.entities import Experiment
    from mlflow.exceptions import RestException

    from fourstage.config.schema import TrackingSettings

_QUERY = re.compile(r"\?\w+=[^/?]*$")  # a folder's name may hold a question mark
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://.")
_NO_HOST = re.compile(r"https?://([:/?#]|$)")
LOCK_LIMIT_S = 120  # making a store takes about 2 s
LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
PROBED = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"  # what any MLflow server can answer
MOST_OF_AN_ANSWER = 4096

# set only where the user has not
MLFLOW_DEFAULTS = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # works offline, and no thread delays the exit
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True)
class Destination:
    """A store and an experiment in it."""

    uri: str  # sqlite:///relative.db, sqlite:////absolute.db, http(s)://server; never with a password
    artifacts: str | None  # folder or URI for a new experiment; None: beside the database, or as the server says
    experiment: str

    def __post_init__(self) -> None:
        """Raises UserError for credentials that MLflow cannot take from an address."""
        object.__setattr__(self, "uri", keep(self.uri))

    @classmethod
    def of(cls, tracking: TrackingSettings) -> Destination:
        """Where a run's settings send it."""
        return cls(tracking.uri, tracking.artifacts, tracking.experiment)


# databases that this process has opened and checked, which takes 30 ms, as long as the file is the same
_opened: dict[Destination, tuple[tuple[int, int] | None, MlflowClient, str]] = {}


def open_store(destination: Destination) -> tuple[MlflowClient, str]:
    """Client and experiment id; store and experiment are made where missing.

    Raises UserError where the store cannot be reached, written or understood, or the experiment is deleted.
    """
    set_up_mlflow()
    with reporting(destination.uri):
        path = database_path(destination.uri)
        known = _opened.get(destination)
        if path is not None and known is not None and known[0] == _same_file(path):
            _, client, experiment_id = known
            experiment = _experiment(client, destination.experiment)  # raises where it was deleted meanwhile
            if experiment is not None and experiment.experiment_id == experiment_id:
                return client, experiment_id
        if path is None:
            if not destination.uri.startswith("http"):
                _check_server(destination.uri)
            return _open_experiment(destination, _server_artifacts(destination))
        _make_database(path)
        _check_database(path, writing=True, patience=patience_with(destination.uri))
        artifacts = destination.artifacts or str(path.parent / "artifacts")
        _check_artifacts(artifacts)
        client, experiment_id = _open_experiment(destination, _artifact_uri(artifacts), path)
        _opened[destination] = _same_file(path), client, experiment_id
        return client, experiment_id


def _same_file(path: Path) -> tuple[int, int] | None:
    """What a file that was not replaced keeps; None where there is none."""
    if not path.exists():
        return None
    found = path.stat()
    return found.st_dev, found.st_ino


def open_existing(destination: Destination) -> tuple[MlflowClient, str]:
    """Client and experiment id of what is there; makes nothing. Raises UserError where it is not there."""
    set_up_mlflow()
    with reporting(destination.uri):
        check_existing(destination.uri)
        client = client_of(destination.uri)
        experiment = _experiment(client, destination.experiment)
        if experiment is None:
            names = ", ".join(f"'{known.name}'" for known in client.search_experiments(max_results=10))
            raise UserError(f"no experiment '{destination.experiment}' in {masked(destination.uri)}; it has {names}")
        return client, str(experiment.experiment_id)


def check_existing(uri: str) -> None:
    """Raise UserError where a database is not there or cannot be read; of a server nothing is asked."""
    path = database_path(uri)
    if path is not None:
        if not _has_content(path):
            raise UserError(f"no runs: {path} does not exist; run something first, or set tracking.uri")
        _check_database(path, writing=False, patience=patience_with(uri))


def client_of(uri: str) -> MlflowClient:
    """MLflow's client, logged in, whose calls have one bound together. To be called inside `reporting`."""
    from mlflow import MlflowClient

    patience = patience_with(uri)
    _log_in(uri)
    client = patience.call(MlflowClient, client_uri(uri))
    if (path := database_path(uri)) is not None:
        file = _same_file(path)
        if _files.setdefault(path, file) != file:  # deleted and made again: open connections lead to the old file
            client._tracking_client.store.engine.dispose()
            _files[path] = file
    return cast("MlflowClient", PatientClient(client, patience))


_files: dict[Path, tuple[int, int] | None] = {}
_own_login: dict[str, str | None] = {}  # what MLflow's variables were before


def _log_in(uri: str) -> None:
    """Give MLflow the credentials that came with a server's address, and no other server those."""
    for name, value in _own_login.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    _own_login.clear()
    if (found := login(uri)) is not None:
        for name, value in zip(LOGIN, found, strict=True):
            _own_login[name] = os.environ.get(name)
            os.environ[name] = value


def set_up_mlflow() -> None:
    """Make mlflow quiet, quick to give up on a dead server, and private; to be called before it is imported."""
    for name, value in MLFLOW_DEFAULTS.items():
        os.environ.setdefault(name, value)
    # urllib3 announces each retry, mlflow prints the database's tracebacks; the error that follows says it once
    for name in ("urllib3.connectionpool", "mlflow.store.db.utils", "alembic", "mlflow.tracing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        gettempdir()
    except FileNotFoundError as error:
        raise UserError(f"no folder for temporary files: {error}; set TMPDIR to a folder that you may write") from error


@contextmanager
def reporting(uri: str) -> Iterator[None]:
    """Turn what mlflow and the file system raise inside into a UserError of one line that names the store.

    StoreAwayError where waiting may help: what the store should get can be kept and sent later.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError, LateError, ForeignError) as error:
        why, passes = _why(uri, error)
        if not passes:
            raise UserError(f"tracking store {masked(uri)}: {why}") from error
        patience_with(uri).give_up(why)
        raise StoreAwayError(f"tracking store {masked(uri)}: {why}") from error


PASSING = (  # of a database: locked, full, deleted under a run
    "database is locked", "database or disk is full", "disk I/O error", "attempt to write a readonly database",
    "No space left on device",
)  # fmt: skip
FULL = (errno.ENOSPC, errno.EDQUOT)


def _why(uri: str, error: Exception) -> tuple[str, bool]:
    """What is the matter with a store, in one line, and whether waiting may help."""
    from mlflow.exceptions import MlflowException, RestException

    line = _first_line(error)
    if isinstance(error, LateError):
        return line, True
    if uri.startswith("http"):
        if isinstance(error, RestException) and "error_code" in error.json and not _refuses_all(error):
            return line, False  # MLflow's own word
        requested = isinstance(error, OSError | ForeignError | RestException) or line.startswith("API request to")
        return (_what_answers(uri) or _unreachable(str(error)) or line, True) if requested else (line, False)
    passes = any(words in line for words in PASSING) or (isinstance(error, OSError) and error.errno in FULL)
    if database_path(uri) is None and isinstance(error, MlflowException):
        passes = passes or error.error_code == "TEMPORARILY_UNAVAILABLE"
    return line, passes


def _refuses_all(error: RestException) -> bool:
    status = int(error.get_http_status_code())
    return status in (401, 403, 429) or status >= 500


def _what_answers(uri: str) -> str:
    """`it answers 401 (text/plain) …`; empty where nothing answers, or MLflow does."""
    request = urllib.request.Request(f"{uri.rstrip('/')}{PROBED}")
    user, password = (os.environ.get(name, "") for name in LOGIN)
    if user and password:
        request.add_header("Authorization", f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}")
    elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        try:
            answer = urllib.request.urlopen(request, timeout=PROBE_S)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            status, kind, body = answer.status, answer.headers.get("Content-Type"), answer.read1(MOST_OF_AN_ANSWER)
    except (OSError, ValueError, http.client.HTTPException):
        return ""
    if status < 500 and status not in (401, 403) and (b'"error_code"' in body or b'"experiment_id"' in body):
        return ""
    what = one_line(f"it answers {status} ({kind or 'no content type'}) where MLflow's API was expected")[:200]
    if status in (401, 403):
        return f"{what}; set {LOGIN[0]} and {LOGIN[1]}, or MLFLOW_TRACKING_TOKEN"
    return what if status >= 429 else f"{what}; is the address right?"


def _unreachable(text: str) -> str:
    if found := re.findall(r"(?:\[Errno -?\d+\] |Error\(\d+, '|Disconnected\(')([^'\")\]]+)", text):
        return f"cannot be reached ({found[-1].strip()}); is the server running and the address right?"
    for words in ("too many 429", "too many 500", "too many 502", "too many 503", "too many 504"):
        if words in text:
            return f"it answers {words.removeprefix('too many ')}"
    return ""


def database_path(uri: str) -> Path | None:
    """The absolute path of an SQLite database; None for other stores. Raises UserError where no file can be there.

    The path is taken as the file system has it, `%` and `?` included.
    """
    if not uri.startswith(SQLITE):
        return None
    name = _QUERY.sub("", uri.removeprefix(SQLITE))
    path = path_of(name, "tracking.uri").absolute()
    if path.exists() and not path.is_file():
        example = f"such as {SQLITE}{name}/mlflow.db" if path.is_dir() else "set it to another path"
        raise UserError(f"tracking.uri={uri} is {kind_of(path)}; expected a file, {example}")
    return path


def resolved_uri(uri: str) -> str:
    """The uri, independent of the working directory. Raises UserError for a kind that mlflow does not keep up."""
    path = database_path(uri)
    if path is not None:
        return f"{SQLITE}{path}"
    if not _ADDRESS.match(uri) or uri.startswith(("file:", "sqlite:")) or _NO_HOST.match(uri):
        found = f"'{one_line(masked(shortened(uri)))}'" if uri.strip() else "empty"
        raise UserError(
            f"tracking.uri is {found}; expected a database, {SQLITE}mlruns/mlflow.db, or a server's URL, "
            "http://<host>:<port>"
        )
    return uri


def client_uri(uri: str) -> str:
    """What MLflow gets: with the password of a database, and time for other writers to take their turn."""
    resolved = resolved_uri(uri)
    path = database_path(resolved)
    return complete(resolved) if path is None else f"{_sqlite_uri(path)}?timeout={LOCK_LIMIT_S}"


def _sqlite_uri(path: Path) -> str:
    """The URL of a database, which SQLAlchemy decodes. Raises UserError where it would open another file."""
    uri = SQLITE + str(path).replace("%", "%25").replace("?", "%3F")
    if "%" in uri:
        from mlflow.store.db import utils
        from sqlalchemy.engine import make_url

        # it would make a folder by the encoded name; the database's own is there
        utils._make_parent_dirs_if_sqlite = lambda db_uri: None
        if make_url(uri).database != str(path):
            raise UserError(f"sqlalchemy before 2.1 opens no database at {path}: rename the folder, or upgrade it")
    return uri


def _make_database(path: Path) -> None:
    """Create tables under another name and move them into place: two makers or a Ctrl-C leave no half a store."""
    if _has_content(path):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            if _has_content(path):
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
        SqlAlchemyStore(_sqlite_uri(making), _artifact_uri(str(path.parent / "artifacts"))).engine.dispose()
    except (SQLAlchemyError, MlflowException) as error:
        if (engine := SqlAlchemyStore._engine_map.pop(_sqlite_uri(making), None)) is not None:
            engine.dispose()  # an open file keeps its space
        _remove_half_made(path)
        if "full" in str(error) or "disk I/O" in str(error):
            raise OSError(errno.ENOSPC, f"no space for the tracking database {path}") from error
        raise OSError(errno.EIO, _first_line(error)) from error
    making.replace(path)


def _remove_half_made(path: Path) -> None:
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.making*"):
        leftover.unlink(missing_ok=True)


def _check_server(uri: str) -> None:
    """Ask a database server for a connection: mlflow would try for minutes, and with tracebacks."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import NoSuchModuleError, OperationalError, SQLAlchemyError
    from sqlalchemy.pool import NullPool

    patience, full = patience_with(uri), client_uri(uri)
    if patience.away or uri not in _connected:
        limit = {"connect_timeout": max(1, round(patience.left_s))} if re.match("postgresql|mysql", uri) else {}

        def connect() -> None:
            create_engine(full, poolclass=NullPool, connect_args=limit).connect().close()

        try:
            patience.call(connect)
        except OperationalError as error:
            patience.give_up(_first_line(error))
            raise StoreAwayError(f"tracking store {masked(uri)}: {_first_line(error)}") from error
        except (SQLAlchemyError, ImportError) as error:
            known = isinstance(error, NoSuchModuleError | ImportError)
            advice = "; is its driver installed, and its kind known to SQLAlchemy?" if known else ""
            raise UserError(f"tracking store {masked(uri)}: {_first_line(error)}{advice}") from error
        _connected.add(uri)


_connected: set[str] = set()


def _check_artifacts(artifacts: str) -> None:
    """Refuse a local folder of files that cannot be written, before anything is measured."""
    if "://" in artifacts and not artifacts.startswith("file://"):
        return
    folder = path_of(artifacts.removeprefix("file://"), "tracking.artifacts").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as probe:
            probe.write(b"written")
    except OSError as error:
        raise UserError(
            f"cannot write the artifact folder {folder}: {error.strerror or error}; "
            "set tracking.artifacts to a folder that you may write"
        ) from error


def _check_database(path: Path, writing: bool, patience: Patience) -> None:
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


def _open_experiment(
    destination: Destination, artifacts: str | None, database: Path | None = None
) -> tuple[MlflowClient, str]:
    from fourstage.tracking.views import prepare

    client = client_of(destination.uri)
    experiment = _experiment(client, destination.experiment)
    if experiment is None:
        with _lock(database) if database else nullcontext():
            experiment_id = _create_experiment(client, destination.experiment, artifacts)
        experiment = client.get_experiment(experiment_id)
    prepare(client, experiment)
    return client, str(experiment.experiment_id)


def _create_experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name, artifact_location=artifacts))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        experiment = client.get_experiment_by_name(name)  # another process was quicker
        if experiment is None:
            raise
        return str(experiment.experiment_id)


def _experiment(client: MlflowClient, name: str) -> Experiment | None:
    experiment = client.get_experiment_by_name(name)
    if experiment is not None and not experiment.experiment_id:  # `{}` from a server
        raise ForeignError("its answer is not MLflow's")
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"experiment '{name}' is deleted; restore it with: "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}, or choose another name"
        )
    return experiment


def _has_content(path: Path) -> bool:
    return path.exists() and (not path.is_file() or path.stat().st_size > 0)


def _lock(path: Path) -> BaseFileLock:
    from filelock import FileLock

    return FileLock(f"{path}.lock", timeout=LOCK_LIMIT_S)


def _server_artifacts(destination: Destination) -> str | None:
    return None if destination.artifacts is None else _artifact_uri(destination.artifacts)


def _artifact_uri(artifacts: str) -> str:
    return artifacts if "://" in artifacts else Path(artifacts).expanduser().absolute().as_uri()


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("(raised as a result of")]
    text = masked_error(one_line(next(iter(lines), type(error).__name__)))
    return text if len(text) <= 300 else f"{text[:299]}…"
