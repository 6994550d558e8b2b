"""What makes two runs the same: their settings, their data, their weights' files, and the code that measured them.

Left out is what cannot change a result: labels (`config.flat.is_label`), and code that only shows, stores or
compares. The machine is left out too: it is compared where a half-done run would continue (`resume.py`).

    identity = identify(config, tree, digest)
    identity.whole == other.whole     # the same run
    identity.differs(other)           # ("code",)
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fourstage.config import flat
from fourstage.config.schema import Config, PretrainedWeights
from fourstage.models.reading import local_folder
from fourstage.plugins import files_of_others
from fourstage.version import PACKAGE

PACKAGES = ("torch", "transformers")  # another version of them can give another answer
# packages and modules of ours that decide what is measured, and how
MEASURING = (
    "stages",
    "data",
    "models",
    "engines",
    "measure",
    "config.schema",
    "config.values",
    "stats.intervals",  # ends the rounds of protocol.target_half_width
    "stats.clusters",
    "json_text",
    "paths",
)
# what they import and no measured value depends on; a test checks that every import of theirs is in one of the two
NOT_MEASURING = ("config.flat", "lazy", "plugins", "records.units", "screen", "text")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Identity:
    """Hashes of 16 hex digits; `dataset` is the dataset's whole digest."""

    settings: str
    dataset: str
    weights: str
    code: str

    @property
    def whole(self) -> str:
        """One hash of all parts."""
        return _hash(*(getattr(self, item.name) for item in fields(self)))

    def tags(self) -> dict[str, str]:
        """As a run carries it."""
        parts = {f"fourstage.{item.name}_hash": getattr(self, item.name) for item in fields(self)}
        return {"fourstage.identity": self.whole, **parts}

    def differs(self, tags: Mapping[str, str]) -> tuple[str, ...]:
        """Which parts are other than on a run with these tags."""
        return tuple(key.split("_")[0].removeprefix("fourstage.") for key, value in self.tags().items()
                     if key != "fourstage.identity" and tags.get(key) != value)  # fmt: skip


def identify(config: Config, tree: Mapping[str, Any], digest: str) -> Identity:
    """The identity of the run of a composed tree over the data of a digest (`dataset.dataset_digest`)."""
    return Identity(flat.identity(tree), digest, weights_hash(config), code_hash())


@cache
def code_hash() -> str:
    """Of the modules that measure, those of other packages too, with the versions of torch and transformers.

    Their comments, docstrings and formatting do not count, nor do the modules that only show, store or compare.
    """
    versions = (f"{name} {version(name)}" for name in PACKAGES)
    others = (f"{path.name} {_hash(_meaning(path))}" for path in files_of_others() if path.suffix == ".py")
    return _hash(*sources(PACKAGE), *others, *versions)


def code_stamp() -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of each source file of ours: whether `code_hash` could be another by now, in milliseconds."""
    return tuple(
        (str(path), (found := path.stat()).st_size, found.st_mtime_ns) for path in sorted(PACKAGE.rglob("*.py"))
    )


def code_changed(since: tuple[tuple[str, int, int], ...]) -> bool:
    """Whether the code that measures is another than when `since` was the stamp, and `code_hash` was first asked."""
    return code_stamp() != since and code_hash.__wrapped__() != code_hash()


def sources(root: Path) -> list[str]:
    """Name and hash of each source file below `root` that measures."""
    found = []
    for name in MEASURING:
        path = root / name.replace(".", "/")
        files = path.rglob("*") if path.is_dir() else [path.with_suffix(".py")]
        found += [file for file in files if file.suffix in (".py", ".json")]
    return [f"{file.relative_to(root)} {_hash(_meaning(file))}" for file in sorted(found)]


def _meaning(file: Path) -> str:
    """A file's text; of Python what it does, however it is written."""
    text = file.read_text(encoding="utf-8")
    return "".join(_tokens(_parsed(text))) if file.suffix == ".py" else text


def _parsed(text: str) -> ast.Module:
    """The syntax tree. CPython 3.11 raises SystemError where another thread parses at the same moment
    (python/cpython#106905): then it is tried again."""
    for _ in range(5):
        try:
            return ast.parse(text)
        except SystemError:
            continue
    return ast.parse(text)


def _tokens(node: object) -> Iterator[str]:
    """A syntax tree without docstrings. Empty fields are left out: Python's versions differ in them."""
    if isinstance(node, ast.AST):
        yield f"{type(node).__name__}("
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                value = value[1:]
            if value is not None and value != []:
                yield f"{name}="
                yield from _tokens(value)
        yield ")"
    elif isinstance(node, list):
        for item in node:
            yield from _tokens(item)
            yield ","
    else:
        yield repr(node)


def weights_hash(config: Config) -> str:
    """Of the names, sizes and times of a checkpoint's files: reading them whole would take minutes."""
    if not isinstance(config.weights, PretrainedWeights) or not config.weights.path:
        return "none"
    folder = local_folder(config.weights.path, "weights.path")
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return _hash(*(f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in found))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
