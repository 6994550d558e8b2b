"""The samples of a dataset, whatever its format: each format is a file of `data/formats/` (`plugins.py`).

samples = read_samples(config.dataset)
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from fourstage import plugins
from fourstage.paths import shortened
from fourstage.records.units import first_few
from fourstage.stages import UserError

if TYPE_CHECKING:
    from fourstage.config.schema import DatasetSettings
    from fourstage.stages import Sample


def choose(samples: Sequence[Sample], only: Sequence[str], exclude: Sequence[str]) -> list[Sample]:
    """The samples whose key or id matches one of `only` (none given: all), and none of `exclude`.

    A pattern is a key, or one with `*`, `?` and `[…]`. Raises UserError for a pattern that matches no sample, and where
    none is left.
    """
    for name, patterns in (("only", only), ("exclude", exclude)):
        for pattern in patterns:
            if not any(_matches(sample, pattern) for sample in samples):
                keys = [sample.key for sample in samples]
                near = difflib.get_close_matches(pattern, keys, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {first_few(keys)}"
                raise UserError(f"dataset.{name}={shortened(pattern)!r} matches no sample; {hint}")
    found = [
        sample
        for sample in samples
        if (not only or any(_matches(sample, pattern) for pattern in only))
        and not any(_matches(sample, pattern) for pattern in exclude)
    ]
    if not found:
        raise UserError("dataset.only and dataset.exclude leave no sample; change one of them")
    return found


def _matches(sample: Sample, pattern: str) -> bool:
    return pattern in (sample.key, sample.id) or fnmatchcase(sample.key, pattern) or fnmatchcase(sample.id, pattern)


def read_samples(settings: DatasetSettings, root: Path | None = None) -> list[Sample]:
    """The samples in the dataset's order; `root`: its folder, where that is not the settings'.

    Raises UserError, also where a format gives no sample or two with one key, which could not be paired across runs.
    """
    chosen = settings.only or settings.exclude
    every = replace(settings, limit=None) if chosen else settings  # the limit is of those that are chosen
    samples: list[Sample] = plugins.find("dataset", settings.name).read(every, root)
    if chosen:
        samples = choose(samples, settings.only, settings.exclude)[: settings.limit]
    if not samples:
        raise UserError(f"dataset={settings.name} has no samples, expected at least one: choose another dataset")
    key, times = Counter(sample.key for sample in samples).most_common(1)[0]
    if times > 1:
        raise UserError(f"dataset={settings.name} gives {times} samples the key {key!r}: each needs one of its own")
    return [replace(sample, max_bytes=settings.max_sample_bytes) for sample in samples]
