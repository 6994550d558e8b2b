"""How long a store may keep a run waiting: one bound for all its requests together, then its folder keeps it.

Every call to a store goes through here, in a thread of its own, so that a server that accepts and never answers, a
database that another process holds and a disk that hangs are bounded alike. Failed calls, and what a server takes
beyond a second, use the bound up. Then the store counts as away: later runs give it a moment, now and then, to show
that it is back. Left out: which error means what (`store.py`).

    patience = patience_with("http://host:5000")
    patience.begin(30)                                  # a run begins
    patience.call(client.get_run, run_id)               # LateError after 30 s
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fourstage.stages import UserError

SQLITE = "sqlite:///"
WAIT_S = 30.0  # where no setting says otherwise
PROBE_S = 1.0  # for a store that was away to answer
PROBE_EVERY = 10.0  # times as long as a failed probe took until the next
QUICK_S = 1.0  # an answer within it is no waiting
BYTES_PER_S = 250_000  # that a slow network carries
DOWNLOAD_S = 60.0
RETRIES, RETRY_S = 2, 0.5  # of a server that refuses; a locked database is tried until the bound is used up
AWAY = "FOURSTAGE_STORE_AWAY"  # in the environment of a sweep's other processes: the store and why
CARRIES_FILES = ("log_artifact", "log_artifacts", "download_artifacts")


class StoreAwayError(UserError):
    """The store does not answer now, or something else answers in its place: what it should get can be kept."""


class LateError(Exception):
    """No answer within what was left."""


class ForeignError(Exception):
    """An answer that is not MLflow's."""


class Patience:
    """With one store, in this process."""

    def __init__(self, uri: str):
        self.uri, self.remote = uri, not uri.startswith("sqlite:")
        self.wait_s = self.left_s = WAIT_S
        self._next_probe = 0.0  # on the monotonic clock

    @property
    def away(self) -> str:
        """Why the store is away; empty while it is not known to be."""
        uri, _, why = os.environ.get(AWAY, "").partition(" ")
        return why if uri == self.uri else ""

    def begin(self, wait_s: float) -> None:
        """A run begins, which may wait so long in all."""
        self.wait_s = self.left_s = wait_s
        self.probe()

    def probe(self) -> None:
        """Let a store that was away show that it is back, if the last look is long ago for what it cost."""
        if self.away:
            self.left_s = min(self.wait_s, PROBE_S) if time.monotonic() >= self._next_probe else 0.0

    def give_up(self, why: str) -> None:
        """The store is away, for this process and those that it starts."""
        os.environ[AWAY] = f"{self.uri} {why}"

    def call(self, function: Callable[..., Any], *args: Any, allowance_s: float = 0.0, **kwargs: Any) -> Any:
        """What `function` gives. Raises LateError where it takes longer than what is left.

        Also ForeignError where a server's answer cannot be read, else what it raises.
        `allowance_s`: that it may take beyond it since it carries much.
        """
        from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]

        tries = 0
        while True:
            if self.left_s <= 0:
                raise LateError(self.away or self._late())
            began = time.monotonic()
            try:
                result = self._bounded(function, args, kwargs, self.left_s + allowance_s)
            except (AttributeError, KeyError, TypeError, ValueError, ParseError) as error:
                if not self.remote:
                    raise
                raise ForeignError(f"its answer cannot be read ({type(error).__name__})") from error
            except Exception as error:
                self._spend(time.monotonic() - began)
                self._next_probe = time.monotonic() + PROBE_EVERY * min(PROBE_S, time.monotonic() - began)
                tries += 1
                if self.away or self.left_s <= RETRY_S or not _worth_a_retry(error, tries):
                    raise
                time.sleep(RETRY_S)
                self._spend(RETRY_S)
                continue
            if self.remote:
                self._spend(time.monotonic() - began - QUICK_S - allowance_s)
            if self.away:
                del os.environ[AWAY]
                self.left_s = self.wait_s
            return result

    def _bounded(self, function: Callable[..., Any], args: Any, kwargs: Any, limit_s: float) -> Any:
        found: dict[str, Any] = {}

        def run() -> None:
            try:
                found["result"] = function(*args, **kwargs)
            except BaseException as error:
                found["error"] = error

        _limit_http(self.left_s)
        thread = threading.Thread(target=run, name="fourstage-store", daemon=True)
        thread.start()
        thread.join(limit_s)
        if thread.is_alive():
            self.left_s = 0.0
            raise LateError(self._late())
        if "error" in found:
            raise found["error"]
        return found["result"]

    def _late(self) -> str:
        return f"no answer within {self.wait_s:g} s (tracking.wait_s)"

    def _spend(self, seconds: float) -> None:
        self.left_s -= max(0.0, seconds)


class PatientClient:
    """An MlflowClient whose every method is called with patience."""

    def __init__(self, client: Any, patience: Patience):
        self._client, self._patience = client, patience

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name.startswith("_") or not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            allowance_s = _transfer_s(args) if name in CARRIES_FILES else 0.0
            return self._patience.call(method, *args, allowance_s=allowance_s, **kwargs)

        return call


_patience: dict[str, Patience] = {}


def patience_with(uri: str) -> Patience:
    """The one of this process with the store at `uri`."""
    if uri.startswith(SQLITE):
        uri = SQLITE + str(Path(uri.removeprefix(SQLITE)).expanduser().absolute())
    return _patience.setdefault(uri, Patience(uri))


def forget() -> None:
    """A new command begins: what was away may be back."""
    _patience.clear()
    os.environ.pop(AWAY, None)


def _worth_a_retry(error: Exception, tries: int) -> bool:
    text = str(error)
    if "database is locked" in text:
        return True
    passing = ("failed with exception", "error code 429", "error code 500", "error code 502", "error code 503")
    return tries <= RETRIES and any(words in text for words in passing)


def _limit_http(left_s: float) -> None:
    """MLflow's own limits where the user has set none: a thread that nobody waits for ends soon; retries are ours."""
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    MLFLOW_HTTP_REQUEST_TIMEOUT.default = max(1, math.ceil(min(left_s, WAIT_S)))
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.default = 0


def _transfer_s(args: tuple[Any, ...]) -> float:
    """How long the files of a call may take: (run id, path, …)."""
    path = Path(str(args[1])) if len(args) > 1 else Path("/nowhere")
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
    return sum(file.stat().st_size for file in files) / BYTES_PER_S if files else DOWNLOAD_S
