"""Launchers and sweepers that are not there, or have nothing to do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fourstage.cli.run import main
from fourstage.config.compose import check_command_line, explain_hydra_error
from fourstage.config.values import SettingError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra/launcher=jolib", "-m"], r"unknown hydra/launcher 'jolib'; did you mean 'joblib'\?.*"),
        (["hydra/launcher=lsf", "-m"], r"unknown hydra/launcher 'lsf'; there are basic, joblib, ray, .*"),
        (["hydra/sweeper=optna", "-m"], r"unknown hydra/sweeper 'optna'; did you mean 'optuna'\?.*"),
        (["hydra/launcher=joblib"], r"hydra/launcher=joblib is for the jobs of a sweep: add -m"),
    ],
)
def test_a_launcher_that_cannot_be_used_is_told_in_one_line(words: list[str], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        check_command_line(words)
    assert re.fullmatch(message, str(caught.value))


@pytest.mark.parametrize(
    ("word", "extra"),
    [
        ("hydra/launcher=joblib", "joblib"),
        ("hydra/launcher=submitit_local", "submitit"),
        ("hydra/launcher=submitit_slurm", "submitit"),
        ("hydra/launcher=ray", "ray"),
        ("hydra/sweeper=optuna", "optuna"),
    ],
)
def test_a_missing_extra_names_the_install(word: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourstage.config.compose._plugin_is_installed", lambda package: False)
    monkeypatch.setattr("fourstage.config.compose._options_that_hydra_knows", lambda group: ["basic"])
    with pytest.raises(SettingError, match=re.escape(f"{word} needs an extra: pip install 'fourstage[{extra}]'")):
        check_command_line(["-m", word])


def test_a_missing_extra_is_told_where_no_plugin_is_installed(tmp_path: Path) -> None:
    """A real process that cannot import Hydra's plugins, as where no extra is installed."""
    hide = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'hydra_plugins': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from fourstage.cli.run import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", hide, "-m", "hydra/launcher=joblib"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stderr == "error: hydra/launcher=joblib needs an extra: pip install 'fourstage[joblib]'\n"
    assert (done.returncode, done.stdout) == (2, "")


def test_a_missing_extra_that_a_file_asks_for_is_told_too() -> None:
    from hydra.errors import MissingConfigException

    error = MissingConfigException(
        "In 'hydra/config': Could not find 'hydra/launcher/joblib'\n\nAvailable options in 'hydra/launcher':\n\tbasic"
    )
    assert explain_hydra_error(error) == "hydra/launcher=joblib needs an extra: pip install 'fourstage[joblib]'"


@pytest.mark.parametrize("word", ["hydra=1_000", "~model=-1", "hydra.verbose={}", "hydra.verbose=[1,2]"])
def test_a_value_that_hydra_does_not_check_is_one_line(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset.samples=1", word]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: Hydra cannot use these settings (")


def test_other_peoples_launchers_are_left_to_hydra(tmp_path: Path) -> None:
    check_command_line(["-m", "hydra/launcher=mine", "--config-dir", str(tmp_path)])


def test_the_composition_with_a_launcher_can_be_looked_at() -> None:
    check_command_line(["--cfg", "hydra", "hydra/launcher=joblib"])


@pytest.mark.parametrize("word", ["--help", "--cfg=job"])
def test_installed_launchers_do_not_make_hydra_slow(word: str) -> None:
    """Counted, not timed: Hydra copied the store of all plugins' settings at each of its 97 looks."""
    code = (
        "import sys; from hydra.core.config_store import ConfigStore; from fourstage.cli.run import main\n"
        f"try: main([{word!r}])\n"
        "except SystemExit: pass\n"
        "import copy; store = ConfigStore.instance(); assert copy.deepcopy(store) is store\n"
        "print(sorted({'ray', 'optuna', 'joblib', 'submitit', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
