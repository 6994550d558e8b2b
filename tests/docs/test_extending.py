"""docs/extending.md: its examples are a package that runs."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import find_runs
from fourstage.tracking.store import open_store
from tests.small import into
from tests.trust.test_checks import changed, evidence

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.M | re.S)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, installed: a package, and a dist-info folder with its entry points."""
    folder = tmp_path_factory.mktemp("site")
    blocks = dict(BLOCK.findall(PAGE.read_text()))
    project = tomllib.loads(blocks.pop("pyproject.toml"))["project"]
    for name, text in blocks.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def clips(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    shutil.copytree(dataset / "mp4", folder / "mp4")
    with (folder / "clips.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["clip", "question", "answer"])
        for path in sorted((folder / "mp4").rglob("*.mp4")):
            table.writerow([str(path.relative_to(folder / "mp4")), "Is it day?", "It is day."])
    return folder


def fourstage(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "fourstage.run", *words]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=250)


def test_the_model_the_format_the_engine_and_the_metric_make_a_valid_run(
    site: Path, clips: Path, store: Destination, tmp_path: Path
) -> None:
    done = fourstage(site, tmp_path, *into(store), "model=llava", "dataset=clips_csv", f"dataset.root={clips}",
                     "engine=greedy_loop", "max_new_tokens=6", "batch_size=2", "protocol.warmup=1")  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    (run,) = find_runs(store)
    assert (run.status, run.name.split("-")[0]) == ("FINISHED", "llava")
    assert run.params["model.frames"] == "2"
    assert run.params["engine.name"] == "greedy_loop"
    assert run.metrics["samples_ok"] == 3
    assert run.metrics["quality.exact"] == 0
    assert run.metrics["roofline_share"] > 0
    client, _ = open_store(store)
    checks = json.loads(Path(client.download_artifacts(run.run_id, "checks.json")).read_text())["checks"]
    passed = {check["id"] for check in checks if check["verdict"] == "pass"}  # others ask how busy the machine is
    assert {"staged_equals_own", "vision_runs_once", "counts_are_the_ids", "as_planned", "config_used"} <= passed


def test_help_lists_them_and_a_shell_completes_them(site: Path, tmp_path: Path) -> None:
    shown = fourstage(site, tmp_path, "--help").stdout
    assert "model: eventgpt, llava, videollava" in shown
    assert "dataset: clips_csv, demo, eventgpt_json" in shown
    assert "engine: compiled, eager, graph, greedy_loop" in shown
    env = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "COMP_LINE": "x model=", "COMP_POINT": "8"}
    command = [sys.executable, "-m", "fourstage.run", "-sc", "query=bash"]
    completed = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert "model=llava" in completed.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=lava"], "unknown model 'lava'; did you mean 'llava'?"),
        (["model=llava", "model.frames=9"], "model.frames=9: expected a whole number from 1 up to 6"),
        (["model=llava", "model.fames=2"], "unknown setting 'model.fames'; did you mean 'model.frames'?"),
        (["model=llava", "model.event_images=2"], "it belongs to model=eventgpt"),
        (["dataset=clips_csv"], "dataset.root is missing: give dataset.root=<value>"),
        (["dataset=clips_csv", "dataset.refrence=x"], "did you mean 'dataset.reference'?"),
    ],
)
def test_a_mistake_in_their_settings_is_one_line(site: Path, tmp_path: Path, words: list[str], message: str) -> None:
    done = fourstage(site, tmp_path, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_they_need_no_torch_to_compose(site: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from fourstage.config.compose import compose; from fourstage.config.schema import check; "
        "check(compose(['model=llava', 'engine=greedy_loop'])); "
        "print(sorted({'torch', 'transformers', 'numpy', 'mlflow'} & set(sys.modules)))"
    )
    env = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_check_passes_an_honest_run_and_fails_a_planted_fault(site: Path) -> None:
    made: dict[str, Any] = {}
    exec((site / "my_fourstage" / "check.py").read_text(), made)
    assert made["answers_are_there"](evidence()).verdict == "pass"
    assert made["answers_are_there"](changed(evidence(), output_tokens=0)).verdict == "fail"


def test_a_plugin_that_cannot_be_used_says_whose_it_is(site: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(site, tmp_path / "site"))
    (broken / "my_fourstage" / "greedy_loop.py").write_text("import nowhere_to_be_found\n")
    done = fourstage(broken, tmp_path, "engine=greedy_loop")
    assert done.returncode == 2
    assert "the engine 'greedy_loop' of my-fourstage (my_fourstage.greedy_loop) cannot be imported" in done.stderr
    (broken / "my_fourstage" / "greedy_loop.py").write_text("Settings = None\n")
    assert "has no Engine; docs/extending.md says what" in fourstage(broken, tmp_path, "engine=greedy_loop").stderr
