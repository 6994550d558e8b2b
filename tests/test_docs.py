"""The documentation: complete, current, and its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from fourstage.cli.app import COMMANDS
from fourstage.config.keys import check_override, every_key
from fourstage.data.dataset import _KNOWN
from fourstage.trust.checks import CHECKS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
COMMANDS_WRITTEN = re.compile(r"^    (?:\$ )?(?:[A-Z_]+=\S+ )*fourstage (?P<words>[^#\n|…]*)", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s#]*)(?:#(?P<anchor>[^)\s]*))?\)")


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    """docs/settings.py, which is no package."""
    spec = importlib.util.spec_from_file_location("settings_page", DOCS / "settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_the_settings_page_is_what_conf_says(writer: ModuleType) -> None:
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == writer.page(), "run: python docs/settings.py"


def test_every_setting_of_the_schema_is_on_the_settings_page(writer: ModuleType) -> None:
    shown = {setting.key for setting in writer.all_settings()}
    assert shown == {key for key in every_key() if not key.endswith(".name") or key == "sweep.name"}


def test_a_setting_without_a_comment_is_refused(writer: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("name: some\nframes: 8   # frames that reach the model\nrule: head\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"some.yaml:3: rule has no comment; say its unit and meaning"):
        list(writer.settings_of(path, "model."))


def test_every_key_of_a_datasets_entry_is_explained() -> None:
    text = (DOCS / "datasets.md").read_text(encoding="utf-8")
    for key in _KNOWN:
        assert f"| `{key}` |" in text


def test_every_command_is_explained() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"`fourstage {name}`" in text


def test_every_check_is_explained() -> None:
    text = (DOCS / "checks.md").read_text(encoding="utf-8")
    named = [check.__name__ for check in CHECKS]
    assert len(named) > 10
    reads, _, proves = text.partition("### What proves each check")
    for part in (reads, proves):
        assert not [name for name in named if f"| `{name}` |" not in part]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_in_a_page_is_one_that_exists(page: Path) -> None:
    for found in COMMANDS_WRITTEN.finditer(page.read_text(encoding="utf-8")):
        words = shlex.split(found["words"].replace("\\\n", " ").rstrip("\\ "))
        assert words, found[0]
        if "temprature=0.2" in words:
            continue  # the mistake that shows an error
        assert words[0] in COMMANDS, found[0]
        for word in words[1:] if words[0] == "run" else []:
            key, _, value = word.lstrip("+").partition("=")
            if key.startswith(("hydra", "experiments", "-")):
                continue
            for one in value.split(",") if "(" not in value and '"' not in value else []:
                check_override(key, yaml.safe_load(one) if key != "tracking.uri" else one, ROOT / "conf")


def test_the_pages_show_commands() -> None:
    shown = [found for page in PAGES for found in COMMANDS_WRITTEN.finditer(page.read_text(encoding="utf-8"))]
    assert len(shown) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    for found in LINK.finditer(page.read_text(encoding="utf-8")):
        target = found["target"]
        if target and not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {found[0]}"


def test_the_pictures_of_the_readme_are_small() -> None:
    for path in (DOCS / "images").glob("*.png"):
        assert path.stat().st_size < 250_000
