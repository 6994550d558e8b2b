"""What makes two runs the same: their settings, their data, their weights' files, and the code that ran them.

Left out is what cannot change a result (`config.is_label`). The machine is left out too: it is compared where a
half-done run would go on (`resume.py`).

    identity = identify(config, tree, samples)
    identity.whole == other.whole     # the same run
    identity.differs(other)           # ("code",)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fourstage
from fourstage.config import schema as settings
from fourstage.config.schema import Config, PretrainedWeights
from fourstage.models.reading import local_folder

PACKAGES = ("torch", "transformers")  # another version of them can give another answer


@dataclass(frozen=True)
class Identity:
    """Hashes of 16 hex digits; `dataset` is the dataset's whole digest."""

    settings: str
    dataset: str
    weights: str
    code: str

    @property
    def whole(self) -> str:
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
    return Identity(settings.identity(tree), digest, weights_hash(config), code_hash())


@cache
def code_hash() -> str:
    """Of fourstage's own sources, with the versions of torch and transformers."""
    root = Path(fourstage.__file__).parent
    sources = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".json"))
    parts = [f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in sources]
    return _hash(*parts, *(f"{name} {version(name)}" for name in PACKAGES))


def weights_hash(config: Config) -> str:
    """Of the names, sizes and times of a checkpoint's files: reading them whole would take minutes."""
    if not isinstance(config.weights, PretrainedWeights) or not config.weights.path:
        return "none"
    folder = local_folder(config.weights.path, "weights.path")
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return _hash(*(f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in found))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
