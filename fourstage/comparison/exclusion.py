"""Samples that `exclude=` leaves out of every figure.

keys = excluded_keys("day/000016.npy,night/*", runs)
columns = without(run.columns, keys)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fourstage.comparison.selection import brief
from fourstage.config.values import SettingError

if TYPE_CHECKING:
    from fourstage.comparison.run_data import RunData
    from fourstage.records.columns import Columns


def excluded_keys(text: str, runs: Sequence[RunData]) -> tuple[str, ...]:
    """The keys of samples that `exclude=` names. Raises SettingError for a word that names none of them."""
    import difflib
    from fnmatch import fnmatchcase

    known = dict.fromkeys(key for run in runs for key in run.columns.keys)
    words = [text] if text in known else [word.strip() for word in text.split(",") if word.strip()]
    found: dict[str, None] = {}
    for word in words:
        matched = [word] if word in known else [key for key in known if fnmatchcase(key, word)]
        if not matched:
            near = difflib.get_close_matches(word[:80], list(known), n=5, cutoff=0.5)
            hint = (
                f"near it are {', '.join(near)}" if near else f"the first of {len(known)} is {next(iter(known), '-')}"
            )
            raise SettingError(f"exclude={brief(word)}: no sample of these runs has this key; {hint}")
        found |= dict.fromkeys(matched)
    return tuple(key for key in known if key in found)


def without(columns: Columns, keys: Sequence[str]) -> Columns:
    """The records of all other samples."""
    import numpy as np

    gone = set(keys)
    codes = [code for code, key in enumerate(columns.keys) if key in gone]
    return columns.where(~np.isin(columns.key_codes, codes))
