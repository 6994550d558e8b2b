"""The samples of a dataset, whatever its format: each format is a file of `data/formats/` (`plugins.py`).

samples = read_samples(config.dataset)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fourstage import plugins
from fourstage.stages import UserError

if TYPE_CHECKING:
    from fourstage.config.schema import DatasetSettings
    from fourstage.stages import Sample


def read_samples(settings: DatasetSettings, root: Path | None = None) -> list[Sample]:
    """The samples in the dataset's order; `root`: its folder, where that is not the settings'.

    Raises UserError, also where a format gives no sample or two with one key, which could not be paired across runs.
    """
    samples: list[Sample] = plugins.find("dataset", settings.name).read(settings, root)
    if not samples:
        raise UserError(f"dataset={settings.name} has no samples, expected at least one: choose another dataset")
    key, times = Counter(sample.key for sample in samples).most_common(1)[0]
    if times > 1:
        raise UserError(f"dataset={settings.name} gives {times} samples the key {key!r}: each needs one of its own")
    return [replace(sample, max_bytes=settings.max_sample_bytes) for sample in samples]
