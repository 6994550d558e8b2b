"""What Hydra knows of one -m before its jobs begin, as plain values; and what travels to the jobs through Hydra.

multirun = read_multirun(config)          # a composition with Hydra's part
multirun.swept                            # {"model": "eventgpt,videollava"}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourstage.config.compose import (
    as_tree,
    check_job_folders,
    check_working_folder,
    job_overrides,
    quote_study_texts,
    study_of,
    swept_settings,
)
from fourstage.credentials import keep, masked

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Multirun:
    """One -m as it was asked for."""

    tree: Mapping[str, Any]  # the settings that the jobs have in common
    overrides: tuple[str, ...]
    swept: Mapping[str, str]  # setting → its values as written
    study: str | None
    jobs: tuple[tuple[str, ...], ...] | None  # overrides of each job; None: a sweeper chooses them as it goes
    folder: Path
    in_this_process: bool  # Hydra only composes the jobs, and they run here afterwards


def read_multirun(config: DictConfig) -> Multirun:
    """Check the folders of an -m and read what it varies. Raises SettingError."""
    check_working_folder(config.hydra)
    quote_study_texts(config)
    jobs = job_overrides(config)
    check_job_folders(config, jobs or ())
    hide_credentials(config)
    return Multirun(
        tree=as_tree(config, without=("hydra",)),
        overrides=tuple(str(text) for text in config.hydra.overrides.task),
        swept=swept_settings(config),
        study=study_of(config),
        jobs=jobs,
        folder=Path(config.hydra.sweep.dir),
        in_this_process=all(
            "basic" in str(config.hydra[part]._target_).lower() for part in ("launcher", "sweeper")
        ),
    )  # fmt: skip


def set_in_jobs(config: DictConfig, variable: str, value: str) -> None:
    """Have Hydra set an environment variable for each job, in whatever process it runs."""
    from omegaconf import open_dict

    with open_dict(config):
        config.hydra.overrides.hydra.append(f"+hydra.job.env_set.{variable}={value}")


def hide_credentials(config: DictConfig) -> None:
    """Take the password out of an address that a settings file gives: Hydra and launchers write this down."""
    from omegaconf import OmegaConf

    uri = OmegaConf.select(config, "tracking.uri", throw_on_missing=False)
    if isinstance(uri, str) and (bare := keep(uri)) != uri:
        OmegaConf.update(config, "tracking.uri", bare)


def mask_written_settings(config: DictConfig) -> None:
    """Mask the password of a settings file in the composition that Hydra has just written into a job's folder."""
    folder = Path(config.hydra.runtime.output_dir, str(config.hydra.output_subdir or ""))
    for path in folder.glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        if (clean := masked(text)) != text:
            path.write_text(clean, encoding="utf-8")
