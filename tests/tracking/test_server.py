"""The same run against a real tracking server, on loopback."""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourstage.cli.compare import main as compare
from fourstage.cli.run import main
from fourstage.cli.sync import main as sync
from fourstage.credentials import KEPT
from fourstage.tracking.destination import Destination
from fourstage.tracking.patience import AWAY
from fourstage.tracking.reader import children_of, find_runs, run_records
from tests.servers import free_port, mlflow_server, proxy

TINY = ["protocol=quick", "dataset.samples=2", "dataset.seconds=0.4", "dataset.width=96", "dataset.height=64",
        "max_new_tokens=4", "tracking.traces=1"]  # fmt: skip


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    for name in (KEPT, AWAY):
        os.environ.pop(name, None)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(f"sqlite:///{folder}/mlflow.db", folder) as uri:
        yield uri


def test_a_server_gets_the_same_as_the_local_store(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tracking=server", f"tracking.uri={server}", *TINY]) == 0
    (facts,) = find_runs(where := Destination(server, None, "fourstage"))
    assert facts.status == "FINISHED"
    assert facts.metrics["samples_ok"] == 2
    assert [record.output_tokens for record in run_records(where, facts.run_id)] == [4, 4]


WORD = uuid.uuid4().hex  # made here: a run keeps the difference of the code to its commit
SECRET = f"{WORD}@pw/1"


def check_hidden(folder: Path, shown: str) -> None:
    """Nothing that was written or shown holds the password, in any form."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert WORD not in shown
    assert not [path for path in files if WORD.encode() in path.read_bytes()]


def test_a_single_run_without_its_server_is_measured_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    address = f"127.0.0.1:{free_port()}"
    words = [f"tracking.uri=http://me:{SECRET}@{address}", f"weights.path=http://me:{SECRET}@{address}/x"]
    assert main(["tracking=server", words[0], *TINY]) == 3
    out, err = capsys.readouterr()
    assert "2 ok, 0 failed" in out
    before, after = err.strip().splitlines()
    assert f"warning: tracking store http://{address}: cannot be reached (Connection refused)" in before
    assert "fourstage sync (with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD set" in after
    assert main(["tracking=server", "weights=pretrained", *words, *TINY]) == 2  # no such folder
    out, err = capsys.readouterr()
    assert f"http:/{address}/x" in err
    check_hidden(tmp_path, out + err)


def test_a_sweep_over_a_server_that_hangs_waits_once_and_is_delivered_with_its_parent_later(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with proxy(server) as between:
        uri = between.uri.replace("//", f"//me:{SECRET}@")
        experiment = "tracking.experiment=hung"
        words = ["-m", "tracking=server", f"tracking.uri={uri}", "tracking.wait_s=1", experiment, "seed=1,2"]
        assert main([*words, *TINY]) == 3
        assert len(between.seen) <= 4  # the parent's first request, and probes
        err = capsys.readouterr().err
        assert err.count("no answer within 1 s (tracking.wait_s)") >= 4  # parent and jobs, and at their end
        check_hidden(tmp_path, err)
        assert sync([]) == 3
        monkeypatch.delenv("FOURSTAGE_CREDENTIALS")  # another process
        monkeypatch.delenv("FOURSTAGE_STORE_AWAY")
        between.mode = "ok"
        assert sync([f"tracking.uri={uri}"]) == 0
        login = f"Authorization: Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}"
        assert login in between.seen[-1][0]
        (parent,) = find_runs(where := Destination(server, None, "hung"), "tags.`fourstage.role` = 'parent'")
        assert parent.status == "FINISHED"
        children = children_of(where, parent.run_id)
        assert sorted((child.params["seed"], child.status) for child in children) == [
            ("1", "FINISHED"),
            ("2", "FINISHED"),
        ]
        assert sync([]) == 0
        assert len(find_runs(where)) == 3
        assert compare([f"uri={uri}", "experiment=hung", f"sweep={parent.tags['fourstage.sweep']}"]) in (0, 1)
        sent = b"".join(body for _, body in between.seen)
        assert WORD.encode() not in sent
        out, err = capsys.readouterr()
        check_hidden(tmp_path, out + err)
