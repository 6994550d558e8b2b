"""The same run against a real tracking server, on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fourstage.cli.run import main
from fourstage.tracking.reader import find_runs, run_records
from fourstage.tracking.store import Destination
from tests.servers import free_port, mlflow_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(f"sqlite:///{folder}/mlflow.db", folder) as uri:
        yield uri


def test_a_server_gets_the_same_as_the_local_store(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(
        ["tracking=server", f"tracking.uri={server}", "protocol=quick", "dataset.samples=2", "dataset.seconds=0.4",
         "dataset.width=96", "dataset.height=64", "max_new_tokens=4", "tracking.traces=1"]
    )  # fmt: skip
    assert code == 0
    (facts,) = find_runs(where := Destination(server, None, "fourstage"))
    assert facts.status == "FINISHED"
    assert facts.metrics["samples_ok"] == 2
    assert [record.output_tokens for record in run_records(where, facts.run_id)] == [4, 4]


def test_a_server_that_is_away_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_port()
    assert main(["tracking=server", f"tracking.uri=http://127.0.0.1:{port}", "dataset.samples=1"]) == 2
    err = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in err
    assert len(err.strip().splitlines()) == 1
