"""A store opens, or says in one line why not."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fourstage.stages import UserError
from fourstage.tracking.destination import Destination
from fourstage.tracking.store import open_existing, open_store, set_up_mlflow

# mlflow 3.17 with SQLAlchemy 2.1, while it is imported
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

OPEN = """
import sys
from fourstage.tracking.destination import Destination
from fourstage.tracking.store import open_store
print(open_store(Destination(sys.argv[1], None, "shared"))[1])
"""


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "mlflow.db"))


def _complaint(path: Path | str, experiment: str = "study") -> str:
    uri = f"sqlite:///{path}" if isinstance(path, Path) else path
    with pytest.raises(UserError) as caught:
        open_store(Destination(uri, None, experiment))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_four_processes_may_make_the_store_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mlflow.db"
    command = [sys.executable, "-c", OPEN, f"sqlite:///{path}"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * 4, said
    assert said == [("1\n", "")] * 4  # one experiment, and nothing else on the screen
    assert open_existing(Destination(f"sqlite:///{path}", None, "shared"))[1] == "1"
    assert not list(path.parent.glob("*.making*"))


def test_opening_again_finds_the_same_experiment(store: Path) -> None:
    destination = Destination(f"sqlite:///{store}", None, "study")
    assert open_store(destination)[1] == open_store(destination)[1] == open_existing(destination)[1]


def test_a_second_experiment_is_made_where_it_is_missing(store: Path) -> None:
    first = open_store(Destination(f"sqlite:///{store}", None, "study"))[1]
    assert open_store(Destination(f"sqlite:///{store}", None, "other"))[1] != first


def test_artifacts_have_an_absolute_place(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for artifacts, expected in ((None, tmp_path / "artifacts"), ("else where", tmp_path / "else where")):
        client, experiment_id = open_store(Destination("sqlite:///mlflow.db", artifacts, f"in {artifacts}"))
        assert client.get_experiment(experiment_id).artifact_location == expected.as_uri()


def test_what_an_interrupted_maker_left_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "mlflow.db.making").write_bytes(b"half a database")
    open_store(Destination(f"sqlite:///{tmp_path / 'mlflow.db'}", None, "study"))


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlruns").write_text("")
    message = _complaint(tmp_path / "mlruns" / "mlflow.db")
    assert str(tmp_path / "mlruns" / "mlflow.db") in message
    assert "set tracking.uri" in message


def test_a_folder_that_cannot_be_written_is_named() -> None:
    assert "cannot write the tracking database /proc/fourstage/mlflow.db" in _complaint(
        Path("/proc/fourstage/mlflow.db")
    )


def test_a_folder_in_place_of_the_database_is_named(tmp_path: Path) -> None:
    assert str(tmp_path) in _complaint(tmp_path)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("dear diary, " * 100)
    assert "file is not a database" in _complaint(tmp_path / "notes.txt")


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "bank.db") as database:
        database.execute("CREATE TABLE accounts (id INTEGER)")
    database.close()
    assert "database of something else" in _complaint(tmp_path / "bank.db")
    database = sqlite3.connect(tmp_path / "bank.db")
    assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("accounts",)]
    database.close()


@pytest.mark.parametrize(("revision", "word"), [("451aebb31d03", "mlflow db upgrade"), ("ffffffffffff", "newer than")])
def test_a_store_of_another_mlflow_is_refused_and_unchanged(store: Path, revision: str, word: str) -> None:
    database = sqlite3.connect(store)
    database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    database.commit()
    assert word in _complaint(store)
    assert database.execute("SELECT version_num FROM alembic_version").fetchone() == (revision,)
    database.close()


def test_a_store_that_mlflow_left_half_made_is_named(store: Path) -> None:
    database = sqlite3.connect(store)
    database.execute("DELETE FROM alembic_version")
    database.commit()
    database.close()
    assert "half made" in _complaint(store)


def test_a_deleted_experiment_can_be_restored_as_told(store: Path) -> None:
    client, experiment_id = open_store(Destination(f"sqlite:///{store}", None, "study"))
    client.delete_experiment(experiment_id)
    assert f"mlflow experiments restore --experiment-id {experiment_id}" in _complaint(store)


def test_a_server_that_does_not_answer_is_named_soon_and_without_its_password() -> None:
    began = time.monotonic()
    message = _complaint("http://me:secret@127.0.0.1:9")
    assert time.monotonic() - began < 20
    assert message.startswith("tracking store http://127.0.0.1:9:")
    assert "is the server running" in message
    assert "secret" not in message


def test_a_folder_is_no_store() -> None:
    assert "sqlite:///mlruns/mlflow.db" in _complaint("mlruns/")


@pytest.mark.parametrize("uri", ["", "7", "mlruns", "http://", "https://:5000"])
def test_what_is_no_address_gets_an_example(uri: str) -> None:
    assert "expected a database, sqlite:///mlruns/mlflow.db, or a server's URL, http://<host>:<port>" in _complaint(uri)


def test_reading_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_existing(Destination(f"sqlite:///{tmp_path / 'none' / 'mlflow.db'}", None, "study"))
    assert not list(tmp_path.iterdir())


def test_reading_names_the_experiments_that_are_there(store: Path) -> None:
    with pytest.raises(UserError, match=r"no experiment 'studdy'.*'study'"):
        open_existing(Destination(f"sqlite:///{store}", None, "studdy"))


def test_what_the_user_set_for_mlflow_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "ERROR")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    set_up_mlflow()
    assert os.environ["MLFLOW_LOGGING_LEVEL"] == "ERROR"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
