"""Fixtures for all tests. No test asks a hub: the network is off for huggingface and MLflow."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from fourstage.cli.run import main
from fourstage.data.formats.demo import make_demo
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import RunFacts, find_runs
from fourstage.tracking.store import open_store
from tests.fake_gpu import Fake, make_fake_gpu
from tests.small import SIZE, SMALL, Run, into
from tests.stores import records, sweep
from tests.stores import store as store_run

CACHE = TemporaryDirectory(prefix="fourstage-cache-")  # until this process ends; its children share it
os.environ["FOURSTAGE_CACHE"] = CACHE.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real recordings and reference tensors: FOURSTAGE_SHARED, else ../shared beside the checkout.

    Where they are absent the test is skipped, or fails if FOURSTAGE_REQUIRE names `shared`.
    """
    folder = Path(os.environ.get("FOURSTAGE_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        reason = f"no shared data at {folder}; set FOURSTAGE_SHARED to the folder that holds real/ and reference/"
        if "shared" in os.environ.get("FOURSTAGE_REQUIRE", ""):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(autouse=True)
def _gpu(request: pytest.FixtureRequest) -> None:
    """Tests marked `gpu` run where there is one."""
    if request.node.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Fake:
    return make_fake_gpu(monkeypatch)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Destination:
    folder = tmp_path_factory.mktemp("store")
    destination = Destination(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"), "fourstage")
    open_store(destination)
    return destination


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("data"), SIZE)


@pytest.fixture
def root(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the dataset that a test may spoil."""
    import shutil

    return Path(shutil.copytree(dataset, tmp_path / "dataset"))


@pytest.fixture
def run(store: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run with small settings; gives the exit code and the run that it left, if any."""
    monkeypatch.chdir(tmp_path)

    def call(*overrides: str) -> tuple[int, RunFacts | None]:
        before = {facts.run_id for facts in find_runs(store)}
        quick = ["sweep.compare=false"] if "-m" in overrides else []
        code = main([*into(store), *SMALL, *quick, *overrides])
        left = [facts for facts in find_runs(store) if facts.run_id not in before]
        return code, left[0] if left else None

    return call


@pytest.fixture
def where(tmp_path: Path) -> Destination:
    """An empty store, in a folder of the test's own."""
    return Destination(f"sqlite:///{tmp_path}/mlruns/mlflow.db", None, "fourstage")


@pytest.fixture(scope="session")
def three_runs(tmp_path_factory: pytest.TempPathFactory) -> Destination:
    """A sweep of two, and runs that share a name."""
    where = Destination(f"sqlite:///{tmp_path_factory.mktemp('three')}/mlruns/mlflow.db", None, "fourstage")
    sweep(where, a=(records(1), {}, {}), b=(records(2), {}, {}))
    store_run(where, "twin", records(1))
    store_run(where, "twin", records(2))
    store_run(where, "torn", records(2))
    store_run(where, "torn", None, status="FAILED")
    return where
