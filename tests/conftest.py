"""Fixtures for all tests. No test asks a hub: the network is off for huggingface and MLflow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
