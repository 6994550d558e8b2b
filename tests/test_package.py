"""An installed wheel, without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fourstage
from fourstage.plugins import conf_folder

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("the tests run without the checkout that a wheel is built from")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        check=True, capture_output=True,
    )  # fmt: skip
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_has_all_of_conf_and_the_console_script(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "fourstage = fourstage.cli.app:main" in archive.read(entry_points).decode()
    conf = conf_folder()
    studies = [*(conf / "experiments").glob("*.yaml")]  # a link, which rglob does not follow
    assert studies
    for path in [*conf.rglob("*.yaml"), *studies]:
        assert f"fourstage/conf/{path.relative_to(conf)}" in names
    assert "fourstage/models/demo_tokenizer.json" in names
    assert {f"fourstage/models/stand_ins/{model}/model.safetensors" for model in ("eventgpt", "videollava")} <= set(
        names
    )


def test_the_wheel_is_typed_licensed_and_of_the_version_that_the_package_states(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert "fourstage/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert f"\nVersion: {fourstage.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata


def test_the_wheel_runs_from_an_empty_folder_and_its_data_land_there(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    subprocess.run(
        [sys.executable, "-m", "fourstage.run", "protocol=quick", "dataset.samples=1", "dataset.seconds=0.3",
         "max_new_tokens=4"],
        cwd=empty, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    assert {path.name for path in empty.iterdir()} == {"data", "mlruns"}
    assert (empty / "mlruns" / "mlflow.db").is_file()
