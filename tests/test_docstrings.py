"""Every public module, class and function says what it does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import fourstage

ROOT = Path(fourstage.__file__).parent
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")}

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Public classes and functions with their qualified names, methods too."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body, f"{prefix}{node.name}.")


# an implementation need not repeat what its base class or protocol says of a method
INTERFACES = {
    name.split(".")[-1]
    for tree in TREES.values()
    for name, node in definitions(tree.body)
    if "." in name and ast.get_docstring(node)
}


def test_public_names_have_docstrings() -> None:
    missing = [str(path.relative_to(ROOT)) for path, tree in TREES.items() if not ast.get_docstring(tree)]
    for path, tree in TREES.items():
        for name, node in definitions(tree.body):
            inherited = "." in name and node.name in INTERFACES
            if not ast.get_docstring(node) and not inherited:
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert missing == []


def test_definitions_are_found_in_classes_too() -> None:
    tree = ast.parse("class A:\n    def f(self): ...\n    def _g(self): ...\ndef h(): ...")
    assert [name for name, _ in definitions(tree.body)] == ["A", "A.f", "h"]
