"""No store keeps a run waiting beyond its bound, and what answers in its place is named."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourstage.stages import UserError
from fourstage.tracking.destination import Destination
from fourstage.tracking.failures import reporting
from fourstage.tracking.patience import AWAY, LateError, Patience, StoreAwayError, patience_with
from fourstage.tracking.store import open_store
from fourstage.tracking.writer import TrackedRun
from tests.servers import proxy

# mlflow 3.17 with SQLAlchemy 2.1, while it is imported
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    os.environ.pop(AWAY, None)


def opened(uri: str, wait_s: float = 1.0) -> tuple[str, float]:
    """What a store says that does not open, and how long that took."""
    import mlflow  # noqa: F401  # not what is timed

    patience_with(uri).begin(wait_s)
    began = time.monotonic()
    with pytest.raises(StoreAwayError) as caught:
        open_store(Destination(uri, None, "study"))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"tracking store {uri}: ")
    return message, time.monotonic() - began


@pytest.mark.parametrize("mode", ["hang", "drip"])
def test_a_server_that_never_comes_to_an_answer_holds_a_run_for_its_bound_and_once(mode: str) -> None:
    with proxy() as server:
        server.mode = mode
        message, took = opened(server.uri)
        assert "no answer within 1 s (tracking.wait_s)" in message
        assert 1 <= took < 5
        message, took = opened(server.uri, wait_s=30)  # the next job of a sweep
        assert "no answer" in message
        assert took < 0.5


@pytest.mark.parametrize(
    ("mode", "words", "advice"),
    [
        ((401, "text/plain", b"no"), "it answers 401 (text/plain)", "MLFLOW_TRACKING_PASSWORD"),
        ((403, "application/json", b'{"detail": "no"}'), "it answers 403 (application/json)", "MLFLOW_TRACKING_TOKEN"),
        ((500, "text/html", b"<b>\x1b[31m Internal"), "it answers 500 (text/html)", ""),
        ((502, "text/html", b"Bad Gateway"), "it answers 502 (text/html)", ""),
        ((404, "text/html", b"nothing"), "it answers 404 (text/html)", "is the address right?"),
        ((200, "text/html", b"<html>log in</html>"), "it answers 200 (text/html)", "is the address right?"),
        ((200, "application/json", b"[]"), "it answers 200 (application/json)", "is the address right?"),
        ((200, "application/json", b"{}"), "it answers 200 (application/json)", "is the address right?"),
        ((200, "application/json", b'{"experiment": 7}'), "it answers 200 (application/json)", ""),
        ((200, "text/plain", b""), "it answers 200 (text/plain)", "is the address right?"),
        ("reset", "cannot be reached (Connection reset by peer)", "is the server running"),
    ],
)
def test_what_answers_in_place_of_mlflow_is_named(mode: str | tuple[int, str, bytes], words: str, advice: str) -> None:
    with proxy() as server:
        server.mode = mode
        message, took = opened(server.uri, wait_s=5)
        assert words in message
        assert message.endswith(advice) or advice in message
        assert "\x1b" not in message
        assert took < 10


def test_a_store_that_answers_again_is_used_again() -> None:
    patience = Patience("http://here")
    patience.begin(0.2)
    with pytest.raises(LateError):
        patience.call(time.sleep, 5)
    patience.give_up("no answer")
    patience.probe()
    with pytest.raises(LateError, match="no answer"):
        patience.call(int)
    patience._next_probe = 0.0  # ten times as long as the look took
    patience.probe()
    assert patience.call(int, "7") == 7
    assert patience.away == ""


def test_what_a_slow_server_takes_is_counted_and_what_a_database_takes_is_not() -> None:
    slow, local = Patience("http://here"), Patience("sqlite:///here")
    for patience in (slow, local):
        patience.begin(2)
        patience.call(time.sleep, 1.2)
    assert slow.left_s < 2 <= local.left_s


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Destination:
    return Destination(f"sqlite:///{shutil.copy(made, tmp_path / 'mlflow.db')}", None, "study")


def test_a_database_that_another_process_holds_is_waited_for_within_the_bound(
    store: Destination, tmp_path: Path
) -> None:
    holder = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    message = ""
    patience_with(store.uri).begin(1)
    for open_or_write in (lambda: open_store(replaced(store)), lambda: TrackedRun.start(store, "run", {}, {})):
        began = time.monotonic()
        with pytest.raises(StoreAwayError) as caught:
            open_or_write()
        message = str(caught.value)
        assert time.monotonic() - began < 5
        assert "permissions" not in message
        assert "locked" in message or "no answer within 1 s" in message
    holder.execute("ROLLBACK")
    holder.close()
    patience_with(store.uri)._next_probe = 0.0
    patience_with(store.uri).begin(30)
    assert TrackedRun.start(store, "run", {}, {}).run_id


def replaced(store: Destination) -> Destination:
    """The same store, which this process has not opened yet."""
    return Destination(store.uri, None, "another")


def test_a_database_that_was_deleted_is_made_anew(store: Destination, tmp_path: Path) -> None:
    lost = TrackedRun.start(store, "lost", {}, {})
    (tmp_path / "mlflow.db").unlink()
    again = TrackedRun.start(store, "again", {"seed": 1}, {})
    assert again.params() == {"seed": "1"}
    assert TrackedRun.reopen(store, lost.run_id) is None


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_a_pipe_or_a_device_is_no_database(kind: str, tmp_path: Path) -> None:
    path = Path("/dev/zero")
    if kind == "fifo":
        os.mkfifo(path := tmp_path / "pipe")
    with pytest.raises(UserError, match=r"is a named pipe|is a device") as caught:
        open_store(Destination(f"sqlite:///{path}", None, "study"))
    assert not isinstance(caught.value, StoreAwayError)


def test_a_full_disk_is_one_line_and_may_pass(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(StoreAwayError, match="No space left on device"), reporting("sqlite:///here.db"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(StoreAwayError, match="no space for the tracking database") as caught:
            open_store(Destination(f"sqlite:///{disk}/mlflow.db", None, "study"))
        assert "\n" not in str(caught.value)
        assert capfd.readouterr() == ("", "")
        assert not list(disk.glob("*.making*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_without_a_folder_for_temporary_files_nothing_begins(
    store: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/proc/nowhere"])
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(UserError, match="set TMPDIR to a folder that you may write"):
        open_store(store)


def test_a_clock_before_1970_is_stored_as_the_beginning_of_1970(
    store: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: -86400.0)
    run = TrackedRun.start(store, "early", {"seed": 1}, {})
    run.log_metrics({"total_s.median": 1.5})
    run.end("FINISHED")
    run.check_ended("FINISHED")
    info = run._client.get_run(run.run_id).info
    assert (info.start_time, info.end_time) == (1, 1)
    assert [metric.timestamp for metric in run._client.get_metric_history(run.run_id, "total_s.median")] == [1]
