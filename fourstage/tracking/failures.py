"""Failures of a store as one line each: what answered, whether waiting may help, and what to do.

with reporting(uri):
    client.search_runs(...)     # raises UserError, or StoreAwayError where waiting may help
"""

from __future__ import annotations

import base64
import errno
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fourstage.credentials import masked, masked_error
from fourstage.stages import UserError
from fourstage.text import one_line
from fourstage.tracking.patience import (
    PROBE_S,
    ForeignError,
    LateError,
    StoreAwayError,
    patience_with,
)

if TYPE_CHECKING:
    from mlflow.exceptions import RestException

from fourstage.tracking.destination import database_path

LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
PROBED = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"  # what any MLflow server can answer
MOST_OF_AN_ANSWER = 4096


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

    line = first_line(error)
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


def first_line(error: Exception) -> str:
    """The first line of an error that says something, masked and at most 300 letters."""
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("(raised as a result of")]
    text = masked_error(one_line(next(iter(lines), type(error).__name__)))
    return text if len(text) <= 300 else f"{text[:299]}…"
