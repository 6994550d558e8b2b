"""The samples of a dataset, whatever its format: each format is a file of `data/formats/` (`plugins.py`).

samples = read_samples(config.dataset)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fourstage import plugins

if TYPE_CHECKING:
    from fourstage.config.schema import DatasetSettings
    from fourstage.stages import Sample


def read_samples(settings: DatasetSettings, root: Path | None = None) -> list[Sample]:
    """The samples in the dataset's order; `root`: its folder, where that is not the settings'. Raises UserError."""
    samples = plugins.find("dataset", settings.name).read(settings, root)
    return [replace(sample, max_bytes=settings.max_sample_bytes) for sample in samples]
