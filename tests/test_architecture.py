"""docs/architecture.md names modules that exist, and every package."""

from __future__ import annotations

import re
from pathlib import Path

import fourstage

ROOT = Path(fourstage.__file__).parents[1]
TEXT = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def test_every_path_that_the_page_names_exists() -> None:
    named = re.findall(r"`(fourstage/[\w/.]+)`", TEXT)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_package_is_in_the_table() -> None:
    packages = {path.parent.name for path in (ROOT / "fourstage").glob("*/__init__.py")}
    assert packages == set(re.findall(r"^\| `fourstage/(\w+)` \|", TEXT, re.MULTILINE))


def test_a_sample_passes_at_most_ten_modules_and_returns_to_none() -> None:
    way = re.findall(r"^\d+\. `(fourstage/[\w/.]+)`", TEXT, re.MULTILINE)
    assert 5 < len(way) <= 10
    assert len(set(way)) == len(way)
