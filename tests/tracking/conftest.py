"""Fixtures for tests of the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourstage.tracking.destination import Destination
from fourstage.tracking.store import open_store


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store; tests work on copies, since making one takes seconds."""
    path = tmp_path_factory.mktemp("made") / "mlflow.db"
    open_store(Destination(f"sqlite:///{path}", None, "study"))
    return path
