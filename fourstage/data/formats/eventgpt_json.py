"""A dataset in EventGPT's layout: a JSON list of samples beside event_npy/, event_image/, video/ and mp4/.

samples = read(Settings(name="eventgpt_json", root="real", limit=10))
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fourstage.config.schema import DatasetSettings
from fourstage.config.values import FilePath
from fourstage.data.dataset import read_dataset
from fourstage.stages import Sample


@dataclass(frozen=True, kw_only=True)
class Settings(DatasetSettings):
    """Where the dataset is."""

    root: FilePath  # its folder
    file: FilePath = "EventGPT_Instruction_Subset.json"

    @property
    def label(self) -> str:
        return Path(self.root).expanduser().absolute().name or self.name


def read(settings: Settings, root: Path | None = None) -> list[Sample]:
    """The samples that the file lists; `root`: where the dataset is by now. Raises UserError."""
    return read_dataset(root or Path(settings.root), settings.file, settings.limit)
