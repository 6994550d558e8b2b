"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings and references: FOURSTAGE_SHARED, else ../shared beside the checkout."""
    folder = Path(os.environ.get("FOURSTAGE_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set FOURSTAGE_SHARED to the folder that holds real/ and reference/")
    return folder
