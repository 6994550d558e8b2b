"""The `fourstage` command finds its subcommands, and what it does not know it says in one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import fourstage
from fourstage.cli import app, ui
from fourstage.cli.app import COMMANDS, main


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fourstage {fourstage.__version__}\n"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in out


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "run"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"fourstage {command}" in out
    assert "python -m" not in out


def test_a_mistyped_command_is_named_with_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["comapre"]) == 2
    assert capsys.readouterr().err == "error: unknown command 'comapre'; did you mean 'compare'?\n"


@pytest.mark.parametrize(
    "words", [["model=eventgpt"], ["-m", "seed=0,1"], ["+experiments=cache"], ["--cfg", "job"], []]
)
def test_settings_without_a_command_are_a_run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(app, "_call", lambda command, given: called.append((command, list(given))) or 0)
    assert main(words) == 0
    assert main(["run", *words]) == 0
    assert called == [("run", words), ("run", words)]


def completed(line: str, folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", "from fourstage.cli.app import main; raise SystemExit(main())", "-sc", "query=bash"],
        env=os.environ | {"COMP_LINE": line, "PYTHONPATH": str(Path(fourstage.__file__).parents[1])},
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


def test_the_shell_completes_commands_choices_and_settings(tmp_path: Path) -> None:
    assert {*COMMANDS} <= {*(first := completed("fourstage ", tmp_path))}
    assert "model=" in first
    assert {"model=eventgpt", "model=videollava"} <= {*completed("fourstage model=", tmp_path)}
    assert {"model=eventgpt", "model=videollava"} <= {*completed("fourstage run model=", tmp_path)}
    assert {"baseline=", "by="} <= {*completed("fourstage compare ", tmp_path)}
    assert "model=" not in completed("fourstage compare ", tmp_path)
    assert {"limit=", "model=", "status="} <= {*completed("fourstage ls ", tmp_path)}
    assert {"sample=", "model="} <= {*completed("fourstage inspect ", tmp_path)}
    assert {"model=eventgpt", "model=videollava"} <= {*completed("fourstage inspect model=", tmp_path)}


def test_the_ui_says_what_it_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ui.main([f"uri=sqlite:///{tmp_path}/mlflow.db"]) == 2
    assert capsys.readouterr().err.startswith("error: no runs: ")
    assert ui.main(["port=x"]) == 2
    assert capsys.readouterr().err == "error: port=x: expected a whole number from 1 to 65535\n"


def test_a_port_that_is_taken_is_said_before_mlflow_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ui.UserError, match=f"cannot listen on 127.0.0.1:{port}"):
            ui._check_free("127.0.0.1", port)
