"""Filters of runs as people write them: `model=videollava`, `status=FAILED`, `name=night*`.

    matching(runs, {"model": "videollava", "temperature": "0"})

A key is a setting (`precision`, `model.frames`; a choice by its name: `model`, `weights`), or one of `name`, `status`,
`valid`, `sweep`, `study`, `host`, `device`. A value is text, with `*` and `?` for any characters; numbers are equal as
numbers. Left out: MLflow's search language (`selection.py`, `filter=`).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fourstage.config.values import SettingError, suggest

if TYPE_CHECKING:
    from fourstage.tracking.reader import RunFacts

TAGS = {
    "valid": "fourstage.valid",
    "sweep": "fourstage.sweep",
    "host": "fourstage.host",
    "device": "fourstage.device",
}


def matching(runs: Sequence[RunFacts], filters: Mapping[str, str]) -> list[RunFacts]:
    """The runs that fit every filter, in their order. Raises SettingError for a key that no run has."""
    for key in filters:
        if runs and all(value_of(run, key) is None for run in runs):
            known = sorted(
                {*TAGS, "name", "status", *(name.removesuffix(".name") for run in runs for name in run.params)}
            )
            raise SettingError(f"no run has {key!r}; {suggest(key, known)}")
    return [run for run in runs if all(_fits(value_of(run, key), wanted) for key, wanted in filters.items())]


def value_of(run: RunFacts, key: str) -> str | None:
    """What a run has under a filter's key; None where it has nothing."""
    if key == "name":
        return run.name
    if key == "status":
        return run.status
    for name in (key, f"{key}.name"):
        if name in run.params:
            return run.params[name]
    return run.tags.get(TAGS[key]) if key in TAGS else None


def _fits(found: str | None, wanted: str) -> bool:
    if found is None:
        return False
    try:
        return float(found) == float(wanted)
    except ValueError:
        return fnmatch.fnmatchcase(found.lower(), wanted.lower())
