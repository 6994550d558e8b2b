"""Where runs go: the address of an SQLite database or of a tracking server, and an experiment in it.

Destination("sqlite:///mlruns/mlflow.db", "mlruns/artifacts", "fourstage")
database_path("sqlite:///mlruns/mlflow.db")     # the absolute path of the file
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fourstage.credentials import complete, keep, masked
from fourstage.paths import kind_of, path_of, shortened
from fourstage.stages import UserError
from fourstage.text import one_line
from fourstage.tracking.patience import (
    SQLITE,
)

if TYPE_CHECKING:
    from fourstage.config.schema import TrackingSettings


_QUERY = re.compile(r"\?\w+=[^/?]*$")  # a folder's name may hold a question mark
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://.")
_NO_HOST = re.compile(r"https?://([:/?#]|$)")
LOCK_LIMIT_S = 120  # making a store takes about 2 s


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
    return complete(resolved) if path is None else f"{sqlite_uri(path)}?timeout={LOCK_LIMIT_S}"


def sqlite_uri(path: Path) -> str:
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


def artifact_uri(artifacts: str) -> str:
    """A folder or URI of artifacts as a URI."""
    return artifacts if "://" in artifacts else Path(artifacts).expanduser().absolute().as_uri()
