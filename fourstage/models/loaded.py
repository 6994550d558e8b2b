"""The model that stays loaded between the jobs of a sweep that share it.

A model is asked for by what makes its parameters and how they are computed: architecture, weights, precision,
engine, device. Which files a job reads and how many frames it takes belong to the job, and are set on reuse.
Left out: what a measurement resets by itself (seeds, peak memory, warm-up; `loop.py`).

    loaded = LoadedModel()
    pipeline, seconds = loaded.get(config)     # loaded, or as it was left: then 0.0 s
"""

from __future__ import annotations

import gc
import time
from collections.abc import Hashable

import torch

from fourstage.config.schema import Config
from fourstage.models.base import StagedPipeline
from fourstage.models.device import choose_device
from fourstage.models.load import load_pipeline


class LoadedModel:
    """One loaded pipeline, given up before another is loaded: both may not fit."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._pipeline: StagedPipeline | None = None

    def get(self, config: Config) -> tuple[StagedPipeline, float]:
        """The pipeline, and the seconds that loading it took. Raises UserError where it cannot be loaded."""
        key = model_key(config)
        if self._pipeline is not None and self._key == key:
            self._pipeline.use(config.model)
            return self._pipeline, 0.0
        self.clear()
        start = time.perf_counter()
        self._pipeline, self._key = load_pipeline(config), key
        return self._pipeline, time.perf_counter() - start

    def clear(self) -> None:
        """Give the model up."""
        if self._pipeline is not None:
            self._pipeline = self._key = None
            free_memory()


def model_key(config: Config) -> Hashable:
    """What two jobs must share to use one loaded model."""
    return config.model.name, config.weights, config.precision, config.engine, choose_device(config.device)


def free_memory() -> None:
    """Give back what nobody holds any more: a model refers to itself through its hooks, so Python waits otherwise."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
