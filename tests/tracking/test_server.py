"""The same run against a real tracking server, on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourstage.run import main
from fourstage.tracking.read import find_runs, run_records
from fourstage.tracking.store import Destination


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        _wait_for(uri, process, folder / "log")
        yield uri
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"mlflow server ended with {process.returncode}: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.3)
    pytest.fail(f"mlflow server did not answer in 120 s: {log.read_text()[-2000:]}")


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert main(["tracking=server", f"tracking.uri=http://127.0.0.1:{port}", "dataset.samples=1"]) == 2
    err = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in err
    assert len(err.strip().splitlines()) == 1
