"""A composed configuration as flat keys, and the hash of those that can change a result.

flatten({"model": {"name": "x"}})    # {"model.name": "x"}
identity(tree)                       # 16 hex digits, without labels such as run_name
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"model": {"name": "x"}}` → `{"model.name": "x"}`: the names under which MLflow shows the settings."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = plain(value)
    return flat


def plain(value: Any) -> Any:
    """A value as YAML and JSON hold it: a list for a tuple."""
    return list(value) if isinstance(value, tuple) else value


def identity(tree: Mapping[str, Any]) -> str:
    """Hash (16 hex digits) of the settings that can change a result: without where it is tracked and its name."""
    flat = {key: value for key, value in flatten(tree).items() if not is_label(key)}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:16]


LABELS = ("run_name", "study", "dataset.cache", "dataset.hash", "objective", "replicates")


def is_label(key: str) -> bool:
    """Whether a setting cannot change a result: where a run is tracked, its names, how its sweep is organised, how
    often it is replicated."""
    return key.startswith(("sweep.", "tracking.")) or key in LABELS
