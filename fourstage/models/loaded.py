"""Models that stay loaded between the jobs of a sweep, within a budget of memory.

A model is asked for by what makes its parameters and how they are computed: architecture, weights, precision,
engine, device. Which files a job reads and how many frames it takes belong to the job, and are set on reuse.
Left out: what a measurement resets by itself (seeds, peak memory, warm-up; `loop.py`).

    kept = KeptModels(budget_gb=None, several=True)
    pipeline, seconds = kept.get(config)     # loaded, or as it was left: then 0.0 s
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

SHARE = 0.8  # of the memory that is free when the first model is loaded


class KeptModels:
    """Loaded pipelines, the longest unused given up first; `several`: more than one at a time."""

    def __init__(self, budget_gb: float | None = None, several: bool = False):
        self.budget_gb, self.several = budget_gb, several
        self._pipelines: dict[Hashable, StagedPipeline] = {}
        self._budget_bytes = 0.0

    def get(self, config: Config) -> tuple[StagedPipeline, float]:
        """The pipeline, and the seconds that loading it took. Raises UserError where it cannot be loaded."""
        key = model_key(config)
        if key in self._pipelines:
            pipeline = self._pipelines.pop(key)
            pipeline.use(config.model)
            self._pipelines[key] = pipeline
            return pipeline, 0.0
        self._make_room(config)
        start = time.perf_counter()
        try:
            pipeline = load_pipeline(config)
        except torch.OutOfMemoryError:
            if not self._pipelines:
                raise
            self.clear()  # it is larger than those that were here
            pipeline = load_pipeline(config)
        self._pipelines[key] = pipeline
        return pipeline, time.perf_counter() - start

    def beside_bytes(self, config: Config) -> int:
        """Bytes of the parameters of the other models, which are no part of this one's peak."""
        own = model_key(config)
        return sum(pipeline.facts.parameter_bytes for key, pipeline in self._pipelines.items() if key != own)

    def clear(self) -> None:
        """Give every model up."""
        self._pipelines.clear()
        free_memory()

    def _make_room(self, config: Config) -> None:
        """Give up what the next model, taken to be as large as the largest here, leaves no room for."""
        if not self._pipelines:
            self._budget_bytes = _free_bytes(config) * SHARE if self.budget_gb is None else self.budget_gb * 1e9
            return
        sizes = [pipeline.facts.parameter_bytes for pipeline in self._pipelines.values()]
        expected = max(sizes)
        while self._pipelines and (not self.several or sum(sizes) + expected > self._budget_bytes):
            del self._pipelines[next(iter(self._pipelines))]
            sizes.pop(0)
        free_memory()


def model_key(config: Config) -> Hashable:
    """What two jobs must share to use one loaded model."""
    return config.model.name, config.weights, config.precision, config.engine, choose_device(config.device)


def free_memory() -> None:
    """Give back what nobody holds any more: a model refers to itself through its hooks, so Python waits otherwise."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _free_bytes(config: Config) -> int:
    if (device := choose_device(config.device)).startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)
