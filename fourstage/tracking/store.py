"""Where runs go: an SQLite database with a folder of artifacts, or a tracking server.

Opening makes what is missing, and says in one line what the user can mend. Left out: what is written there
(`writer.py`), how the UI shows it (`views.py`), and reading it back (`reader.py`). MLflow takes a second to import,
so it is imported inside functions.

    here = Destination("sqlite:///mlruns/mlflow.db", "mlruns/artifacts", "fourstage")
    client, experiment_id = open_store(here)
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from fourstage.paths import kind_of, path_of, shortened
from fourstage.stages import UserError

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

    from fourstage.config.schema import TrackingSettings

SQLITE = "sqlite:///"
LOCK_LIMIT_S = 120  # making a store takes about 2 s
_OWN_QUERY = f"?timeout={LOCK_LIMIT_S}"  # other writers take their turn; sqlite's own 5 s are few
_QUERY = re.compile(r"\?\w+=[^/?]*$")  # a folder's name may hold a question mark

# set only where the user has not
MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # 5 s to say that a server is down; mlflow's own 7 take 4 minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # works offline, and no thread delays the exit
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # one call for all spans that wait, twice as quick as one for each; `log_traces` waits for it
    "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "true",
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_WORKERS": "1",
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_SPAN_BATCH_SIZE": "512",
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS": "60000",
    # else trace ids come from `random`, and two runs with one seed would overwrite each other's traces
    "MLFLOW_TRACE_USE_ISOLATED_RANDOM_ID_GENERATOR": "true",
}


@dataclass(frozen=True)
class Destination:
    """A store and an experiment in it."""

    uri: str  # sqlite:///relative.db, sqlite:////absolute.db, http(s)://server
    artifacts: str | None  # folder or URI for a new experiment; None: beside the database, or as the server says
    experiment: str

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
            return _open_experiment(destination, resolved_uri(destination.uri), _server_artifacts(destination))
        _make_database(path)
        _check_database(path, writing=True)
        artifacts = destination.artifacts or str(path.parent / "artifacts")
        _check_artifacts(artifacts)
        client, experiment_id = _open_experiment(
            destination, resolved_uri(destination.uri), _artifact_uri(artifacts), path
        )
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
        from mlflow import MlflowClient

        check_existing(destination.uri)
        client = MlflowClient(resolved_uri(destination.uri))
        experiment = _experiment(client, destination.experiment)
        if experiment is None:
            names = ", ".join(f"'{known.name}'" for known in client.search_experiments(max_results=10))
            raise UserError(f"no experiment '{destination.experiment}' in {shown(destination.uri)}; it has {names}")
        return client, str(experiment.experiment_id)


def check_existing(uri: str) -> None:
    """Raise UserError where a database is not there or cannot be read; of a server nothing is asked."""
    path = database_path(uri)
    if path is not None:
        if not _has_content(path):
            raise UserError(f"no runs: {path} does not exist; run something first, or set tracking.uri")
        _check_database(path, writing=False)


def set_up_mlflow() -> None:
    """Make mlflow quiet, quick to give up on a dead server, and private; to be called before it is imported."""
    for name, value in MLFLOW_DEFAULTS.items():
        os.environ.setdefault(name, value)
    # urllib3 announces each retry; the error that follows them says it once
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


@contextmanager
def reporting(uri: str) -> Iterator[None]:
    """Turn what mlflow and the file system raise inside into a UserError of one line that names the store."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise UserError(f"tracking store {shown(uri)}: {_first_line(error)}{_advice(uri, error)}") from error


def database_path(uri: str) -> Path | None:
    """The absolute path of an SQLite database; None for other stores. Raises UserError where no file can be there.

    The path is taken as the file system has it, `%` and `?` included; only what `resolved_uri` made is decoded.
    """
    if not uri.startswith(SQLITE):
        return None
    match = _QUERY.search(uri)
    name = uri[len(SQLITE) : match.start() if match else None]
    if match and match.group() == _OWN_QUERY:
        name = name.replace("%3F", "?").replace("%25", "%")
    path = path_of(name, "tracking.uri").absolute()
    if path.exists() and not path.is_file():
        raise UserError(f"tracking.uri={uri} is {kind_of(path)}; expected a file, such as {SQLITE}{name}/mlflow.db")
    return path


def resolved_uri(uri: str) -> str:
    """The uri, independent of the working directory. Raises UserError for a kind that mlflow does not keep up."""
    path = database_path(uri)
    if path is not None:
        return _sqlite_uri(path) + _OWN_QUERY
    if not re.match(r"[a-z][a-z0-9+.-]*://.", uri) or uri.startswith(("file:", "sqlite:")):
        found = f"'{shown(shortened(uri))}'" if uri.strip() else "empty"
        raise UserError(f"tracking.uri is {found}; expected a database, {SQLITE}mlruns/mlflow.db, or a server's URL")
    return uri


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


def shown(uri: str) -> str:
    """The uri as it may be printed: without user and password."""
    return re.sub(r"//[^/@]*@", "//", uri)


def _make_database(path: Path) -> None:
    """Create tables under another name and move them into place: two makers or a Ctrl-C leave no half a store."""
    if _has_content(path):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            if _has_content(path):
                return
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            making = path.with_name(f"{path.name}.making")
            for leftover in (making, making.with_name(f"{making.name}-journal")):
                leftover.unlink(missing_ok=True)
            making.touch()
            # not by a client, which would put the folder's name into SQL as it is, quotes and all
            SqlAlchemyStore(_sqlite_uri(making), _artifact_uri(str(path.parent / "artifacts"))).engine.dispose()
            making.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write the tracking database {path}: {error.strerror or error}; "
            "free the path or set tracking.uri to a folder that you may write"
        ) from error


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


def _check_database(path: Path, writing: bool) -> None:
    """Refuse before mlflow opens it: it would wait minutes, or upgrade somebody's older store without asking."""
    try:
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            if "alembic_version" not in tables or "experiments" not in tables:
                raise UserError(f"{path} is a database of something else; set tracking.uri to another path")
            revisions = [revision for (revision,) in database.execute("SELECT version_num FROM alembic_version")]
            if not revisions:
                raise UserError(f"{path} was only half made; delete it, or set tracking.uri to another path")
            if writing:
                (version,) = database.execute("PRAGMA user_version").fetchone()
                database.execute("BEGIN IMMEDIATE")  # says nothing of a read-only file; the next line does
                database.execute(f"PRAGMA user_version={version}")
                database.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise UserError(
            f"cannot use the tracking database {path}: {error}; mend its permissions or set tracking.uri to another"
        ) from error
    _check_schema(path, revisions[0])


def _check_schema(path: Path, revision: str) -> None:
    import mlflow
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    if revision in scripts.get_heads():
        return
    if revision in {script.revision for script in scripts.walk_revisions()}:
        raise UserError(
            f"{path} was made by an mlflow older than {mlflow.__version__}; "
            f"back it up and run: mlflow db upgrade {SQLITE}{path}"
        )
    raise UserError(
        f"{path} was made by an mlflow newer than {mlflow.__version__} (schema {revision}); "
        "upgrade mlflow or set tracking.uri to another path"
    )


def _open_experiment(
    destination: Destination, uri: str, artifacts: str | None, database: Path | None = None
) -> tuple[MlflowClient, str]:
    from mlflow import MlflowClient

    from fourstage.tracking.views import prepare

    client = MlflowClient(uri)
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
        return str(client.get_experiment_by_name(name).experiment_id)  # somebody was quicker


def _experiment(client: MlflowClient, name: str) -> Experiment | None:
    experiment = client.get_experiment_by_name(name)
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
    text = next(iter(lines), type(error).__name__)
    return shown(text if len(text) <= 300 else f"{text[:299]}…")


def _advice(uri: str, error: Exception) -> str:
    if uri.startswith("http") and "failed with exception" in str(error):
        return "; is the server running and the address right?"
    return ""
