"""The settings of `python -m fourstage.train`: `conf/train.yaml`, composed and checked.

settings = compose_training(["model=videollava", "steps=100"])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fourstage.config.compose import (
    as_tree,
    explain_hydra_error,
    from_hydra,
    quote_where_needed,
    share_plugins_settings,
)
from fourstage.config.schema import ModelSettings, TrackingSettings
from fourstage.config.values import MOST, FilePath, Plugin, Range, SettingError, build
from fourstage.plugins import conf_folder


@dataclass(frozen=True)
class TrainingSettings:
    """How a stand-in is trained."""

    tracking: TrackingSettings
    model: Annotated[ModelSettings, Plugin("model")]
    out: FilePath
    scenes: Annotated[int, Range(1, 1_000_000)]
    validation: Annotated[int, Range(1, 100_000)]
    steps: Annotated[int, Range(1)]
    batch: Annotated[int, Range(8, 4096)]
    questions: Annotated[int, Range(1, 64)]
    epoch: Annotated[int, Range(1)]
    rate: Annotated[float, Range(above=0, high=1)]
    seed: Annotated[int, Range(0, MOST)]
    workers: Annotated[int, Range(1, 1024)]
    device: str
    resume: bool


def compose_training(overrides: Sequence[str]) -> tuple[TrainingSettings, dict[str, Any]]:
    """The settings that `overrides` compose, and their tree. Raises SettingError."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    share_plugins_settings()
    try:
        with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
            tree = as_tree(hydra_compose("train", [quote_where_needed(text) for text in overrides]))
    except Exception as error:
        if not from_hydra(error):
            raise
        why = explain_hydra_error(error).partition("; fourstage run --cfg job")[0]
        raise SettingError(f"{why}; conf/train.yaml lists the settings") from error
    settings = build(TrainingSettings, tree, "")
    assert isinstance(settings, TrainingSettings)
    return settings, tree
