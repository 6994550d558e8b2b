"""Opening a store: client and experiment of an SQLite database or a tracking server, made where missing.

Left out: where it is (`destination.py`), the database's file (`database.py`), what its failures mean (`failures.py`),
what is written there (`writer.py`), how the UI shows it (`views.py`), and reading it back (`reader.py`). MLflow takes a
second to import, so it is imported inside functions.

    here = Destination("sqlite:///mlruns/mlflow.db", "mlruns/artifacts", "fourstage")
    client, experiment_id = open_store(here)
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import TYPE_CHECKING, cast

from fourstage.credentials import login, masked
from fourstage.paths import path_of
from fourstage.stages import UserError
from fourstage.tracking.patience import (
    ForeignError,
    PatientClient,
    StoreAwayError,
    patience_with,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

from fourstage.tracking.database import check_database, has_content, lock, make_database, same_file
from fourstage.tracking.destination import Destination, artifact_uri, client_uri, database_path
from fourstage.tracking.failures import LOGIN, first_line, reporting

# set only where the user has not
MLFLOW_DEFAULTS = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # works offline, and no thread delays the exit
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
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
        if path is not None and known is not None and known[0] == same_file(path):
            _, client, experiment_id = known
            experiment = _experiment(client, destination.experiment)  # raises where it was deleted meanwhile
            if experiment is not None and experiment.experiment_id == experiment_id:
                return client, experiment_id
        if path is None:
            if not destination.uri.startswith("http"):
                _check_server(destination.uri)
            return _open_experiment(destination, _server_artifacts(destination))
        make_database(path)
        check_database(path, writing=True, patience=patience_with(destination.uri))
        artifacts = destination.artifacts or str(path.parent / "artifacts")
        _check_artifacts(artifacts)
        client, experiment_id = _open_experiment(destination, artifact_uri(artifacts), path)
        _opened[destination] = same_file(path), client, experiment_id
        return client, experiment_id


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
        if not has_content(path):
            raise UserError(f"no runs: {path} does not exist; run something first, or set tracking.uri")
        check_database(path, writing=False, patience=patience_with(uri))


def client_of(uri: str) -> MlflowClient:
    """MLflow's client, logged in, whose calls have one bound together. To be called inside `reporting`."""
    from mlflow import MlflowClient

    patience = patience_with(uri)
    _log_in(uri)
    client = patience.call(MlflowClient, client_uri(uri))
    if (path := database_path(uri)) is not None:
        file = same_file(path)
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
            patience.give_up(first_line(error))
            raise StoreAwayError(f"tracking store {masked(uri)}: {first_line(error)}") from error
        except (SQLAlchemyError, ImportError) as error:
            known = isinstance(error, NoSuchModuleError | ImportError)
            advice = "; is its driver installed, and its kind known to SQLAlchemy?" if known else ""
            raise UserError(f"tracking store {masked(uri)}: {first_line(error)}{advice}") from error
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


def _open_experiment(
    destination: Destination, artifacts: str | None, database: Path | None = None
) -> tuple[MlflowClient, str]:
    from fourstage.tracking.views import prepare

    client = client_of(destination.uri)
    experiment = _experiment(client, destination.experiment)
    if experiment is None:
        with lock(database) if database else nullcontext():
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


def _server_artifacts(destination: Destination) -> str | None:
    return None if destination.artifacts is None else artifact_uri(destination.artifacts)
