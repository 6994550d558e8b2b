"""What the code's hash depends on: what measures, and nothing else."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import fourstage
from fourstage.runs import identity
from fourstage.runs.identity import MEASURING, NOT_MEASURING, code_hash, sources

PACKAGE = Path(fourstage.__file__).parent


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the package."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "fourstage", ignore=shutil.ignore_patterns("__pycache__")))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("module", ["report/build.py", "comparison/effects.py", "runs/sweep.py", "tracking/writer.py"])
def test_code_that_only_shows_or_stores_does_not_count(root: Path, module: str) -> None:
    before = sources(root)
    (root / module).write_text((root / module).read_text() + "\nCHANGED = 1\n")
    assert sources(root) == before


def test_comments_docstrings_and_formatting_do_not_count(root: Path) -> None:
    before, file = sources(root), root / "measure/loop.py"
    tree = ast.parse(file.read_text())
    doc = ast.get_docstring(tree, clean=False)
    assert doc
    edit(file, doc, "Other words.")
    (root / "measure/clock.py").write_text(
        "# a comment\n" + ast.unparse(ast.parse((root / "measure/clock.py").read_text()))
    )
    assert sources(root) == before


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("measure/warm_up.py", "WARMUP_TOKENS = 16", "WARMUP_TOKENS = 17"),
        ("stages.py", 'STAGES = ("load"', 'STAGES = ("Load"'),
        ("config/schema.py", "return ", "return not "),
        ("models/demo_tokenizer.json", "{", "{ "),
    ],
)
def test_code_that_measures_counts(root: Path, module: str, old: str, new: str) -> None:
    before = sources(root)
    edit(root / module, old, new)
    assert sources(root) != before


@pytest.mark.parametrize("package", ["data", "models", "engines", "measure"])
def test_a_new_module_of_a_measuring_package_counts(root: Path, package: str) -> None:
    before = sources(root)
    (root / package / "another.py").write_text("X = 1\n")
    assert sources(root) != before


def test_a_text_that_is_no_docstring_counts(root: Path) -> None:
    file = root / "data/another.py"
    file.write_text('X = "a"\n')
    before = sources(root)
    file.write_text('X = "b"\n')
    assert sources(root) != before


def imported(file: Path) -> Iterator[str]:
    """The modules of ours that a file imports when it runs, without those for its types alone."""
    typing_only = {
        inner
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in map(ast.unparse, node.body)
    }
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.ImportFrom) or ast.unparse(node) in typing_only:
            continue
        if node.module == "fourstage":
            yield from (alias.name for alias in node.names)
        elif node.module and node.module.startswith("fourstage."):
            name = node.module.removeprefix("fourstage.")
            is_package = (PACKAGE / name.replace(".", "/")).is_dir()
            yield from (f"{name}.{alias.name}" for alias in node.names) if is_package else [name]


def test_every_module_that_measuring_imports_is_known_to_measure_or_not_to() -> None:
    def within(module: str, names: tuple[str, ...]) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in names)

    files = [PACKAGE / line.split(" ")[0] for line in sources(PACKAGE)]
    found = {module for file in files if file.suffix == ".py" for module in imported(file)}
    assert {module for module in found if not within(module, (*MEASURING, *NOT_MEASURING))} == set()
    unused = [name for name in NOT_MEASURING if not any(within(module, (name,)) for module in found)]
    assert unused == []


def test_a_model_of_another_package_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "theirs.py"
    theirs.write_text("answer = 1\n")
    monkeypatch.setattr(identity, "files_of_others", lambda: [theirs])
    hashes = []
    for text in ("answer = 1\n", "answer = 1  # a comment\n", "answer = 2\n"):
        theirs.write_text(text)
        code_hash.cache_clear()
        hashes.append(code_hash())
    code_hash.cache_clear()
    assert hashes[0] == hashes[1] != hashes[2]


def test_code_that_is_touched_is_the_same_and_code_that_is_changed_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from fourstage.runs import identity

    identity.code_hash()
    stamp = identity.code_stamp()
    assert not identity.code_changed(stamp)
    assert not identity.code_changed(stamp[1:])  # another stamp, the same meaning
    monkeypatch.setattr(identity, "MEASURING", identity.MEASURING[1:])
    assert not identity.code_changed(stamp)  # nobody looks while no file has changed
    assert identity.code_changed(stamp[1:])
