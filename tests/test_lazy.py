"""A lazy module is imported at its first use, or when it is resolved."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from fourstage.lazy import lazy, resolve


@pytest.fixture
def heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "heavy_for_a_test.py").write_text(
        "value = 3\ndef __getattr__(name):\n    globals()[name] = 4\n    return 4\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "heavy_for_a_test", raising=False)
    return "heavy_for_a_test"


def test_nothing_is_imported_before_the_first_use(heavy: str) -> None:
    module = lazy(heavy)
    assert heavy not in sys.modules
    assert module.value == 3
    assert heavy in sys.modules


def test_resolving_a_module_imports_what_it_took_and_the_names_that_it_listed(heavy: str) -> None:
    user = ModuleType("user")
    user.__dict__["heavy"] = lazy(heavy, "late")
    resolve(user)
    assert vars(sys.modules[heavy])["late"] == 4
    assert vars(user)["heavy"] is sys.modules[heavy]
