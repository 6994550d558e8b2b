"""Studies: each composes, runs end to end on the tiny models, and can be read; a slip in one is a line."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourstage.cli.run import main
from fourstage.config import flat, schema
from fourstage.config.compose import as_tree, with_own_studies
from fourstage.config.studies import find_study, list_studies, read_study
from fourstage.config.values import SettingError
from fourstage.plugins import conf_folder
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import find_runs
from fourstage.tracking.store import open_store
from tests.small import jobs_since

SHIPPED = conf_folder() / "experiments"
NAMES = list_studies([SHIPPED])
TINY = ["replicates=1", "dataset.samples=2",
        "dataset.seconds=0.4", "dataset.width=96", "dataset.height=64", "protocol=quick",
        "tracking.traces=0", "max_new_tokens=4"]  # fmt: skip
# two samples of 20 ms on a busy machine were seen to fail these; the others say that the study did what it says
TIMING = ("stages_close", "tokens_explain_time")

OWN = """# @package _global_
# Does the temperature matter?
study: mine
hydra:
  sweeper:
    params:
      temperature: 0,0.5
"""


def jobs(name: str) -> Iterator[list[str]]:
    """The overrides of each job of a study."""
    params = find_study(name, [SHIPPED]).params
    for values in itertools.product(*(text.split(",") for text in params.values())):
        yield [f"{key}={value}" for key, value in zip(params, values, strict=True)]


def test_the_studies_that_the_report_answers_are_there() -> None:
    assert {"event_vs_video", "cache", "batch", "tokens", "tokens_event", "fair_input"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_job_of_a_study_composes_and_is_one_of_its_own(name: str) -> None:
    from hydra import compose, initialize_config_dir

    identities = set()
    with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        for words in jobs(name):
            tree = as_tree(compose("config", [f"+experiments={name}", *words]))
            assert schema.check(tree).study == name
            identities.add(flat.identity(tree))
    assert len(identities) == len(list(jobs(name))) > 1


@pytest.mark.parametrize("name", NAMES)
def test_a_study_opens_with_its_question_and_the_command_that_runs_it(name: str) -> None:
    study = find_study(name, [SHIPPED])
    assert "?" in study.question
    assert "python" not in study.question
    assert study.command == f"fourstage run -m +experiments={name}"
    assert name in (SHIPPED / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all studies: they share the demo dataset and the store."""
    return tmp_path_factory.mktemp("studies")


@pytest.mark.parametrize("name", NAMES)
def test_a_study_runs_end_to_end(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    store = Destination("sqlite:///mlruns/mlflow.db", "mlruns/artifacts", "fourstage")
    if not Path("mlruns").exists():
        open_store(store)
    before = len(find_runs(store))
    swept = find_study(name, [SHIPPED]).params
    assert main(["-m", f"+experiments={name}", *TINY]) == 0
    made = jobs_since(store, before)
    expected = 1
    for key, values in swept.items():
        expected *= 1 if key == "max_new_tokens" else len(values.split(","))  # here all are short
    assert len(made) == expected
    assert {run.status for run in made} == {"FINISHED"}
    assert {run.metrics["samples_failed"] for run in made} == {0}
    assert {run.params["study"] for run in made} == {name}
    assert len({run.tags["fourstage.identity"] for run in made}) == expected
    failed = {check for run in made for check in run.tags["fourstage.checks_failed"].split(",")}
    assert failed <= {"none", *TIMING}


def test_a_study_of_ones_own_is_found_in_the_folder_that_one_is_in(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    Path("experiments").mkdir()
    Path("experiments/mine.yaml").write_text(OWN)
    assert main(["+experiments=mine", "--cfg", "job"]) == 0
    assert "study: mine" in capsys.readouterr().out
    assert main(["-m", "+experiments=mine", *TINY]) == 0
    err = capsys.readouterr().err
    assert "job 0: temperature=0\njob 1: temperature=0.5\nsweep mine-" in err
    assert main(["-m", "+experiments=min"]) == 2
    assert capsys.readouterr().err == "error: unknown experiment 'min'; did you mean 'mine'?\n"


def test_a_study_that_hides_behind_a_shipped_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("experiments").mkdir()
    Path("experiments/cache.yaml").write_text(OWN.replace("mine", "cache"))
    assert main(["-m", "+experiments=cache"]) == 2
    assert "two studies are called 'cache'" in capsys.readouterr().err


def test_a_shipped_study_needs_no_further_folder_and_a_folder_that_is_named_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert with_own_studies(["-m", "+experiments=cache"]) == ["-m", "+experiments=cache"]
    assert with_own_studies(["seed=1"]) == ["seed=1"]
    assert with_own_studies(["-m", "+experiments=mine"])[2:] == ["--config-dir", str(tmp_path)]
    named = ["-m", "+experiments=mine", "--config-dir", "elsewhere"]
    assert with_own_studies(named) == named


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OWN.replace("temperature", "temprature"), "unknown setting 'temprature'; did you mean 'temperature'?"),
        (OWN.replace("0,0.5", "cold,0.5"), "temperature='cold': expected a number"),
        (OWN.replace("study: mine\n", ""), "expected the line 'study: mine'"),
        (OWN.replace("study: mine", "study: other"), "expected the line 'study: mine'"),
        (OWN.replace("# @package _global_\n", ""), "expected '# @package _global_' as its first line"),
        (OWN.partition("hydra:")[0], "expected what it sweeps under hydra: sweeper: params:"),
        (OWN + "   - [", "is no YAML"),
    ],
)
def test_a_slip_in_a_study_is_one_line_that_names_the_file(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("experiments").mkdir()
    Path("experiments/mine.yaml").write_text(text)
    assert main(["-m", "+experiments=mine"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "experiments/mine.yaml" in err
    assert len(err.strip().splitlines()) == 1


def test_a_study_says_what_it_asks_and_sweeps(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OWN.replace("0,0.5", "0,0.5\n      prompt: null\n      protocol.audit: true"))
    study = read_study(path)
    assert study.question == "Does the temperature matter?"
    assert study.command == "fourstage run -m +experiments=mine"
    assert study.params == {"temperature": "0,0.5", "prompt": "null", "protocol.audit": "true"}
    with pytest.raises(SettingError, match="unknown experiment 'x'; there are mine"):
        find_study("x", [tmp_path])
    with pytest.raises(SettingError, match="unknown experiment 'x'; there are none"):
        find_study("x", [tmp_path / "nowhere"])
