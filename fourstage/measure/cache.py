"""A cache of what does not change between measurements of a sample: its decoded images, or their pixel tensors too.

It is filled before the measurement, each sample's filling timed by itself, and each record says which stages it
served: a cached stage is one that was not done, never a fast one. `cache=frames` serves `load`; `cache=tensors` also
the images' part of `preprocess`, while the question is tokenised each time. Tensors stay in host memory, so their
copy to the device stays in `preprocess`. The vision encoder is never cached: what it makes is what is measured.

    pipeline, filled = with_cache(config, pipeline, samples)   # the pipeline itself for cache=none
    filled.metrics["cache_fill_s"], filled.metrics["cache_bytes"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import psutil
import torch

from fourstage.config.schema import Config
from fourstage.measure.clock import Timing
from fourstage.measure.protocol import timing_of
from fourstage.models.base import StagedPipeline
from fourstage.records.units import amount
from fourstage.stages import Fill, Inputs, Media, Sample, UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """One sample in the cache."""

    media: Media
    pixels: Tensor | None  # [images, 3, S, S] in the run's dtype, in host memory; None where only images are cached

    @property
    def size_bytes(self) -> int:
        """Bytes of everything that is cached for the sample."""
        images = {id(image): image.nbytes for image in self.media.images}  # a short clip repeats some
        return sum(images.values()) + (self.pixels.nbytes if self.pixels is not None else 0)


@dataclass(frozen=True)
class Filled:
    """What is cached, and what filling took: metrics and tags of the run."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=lambda: {"fourstage.cached_stages": "none"})


class CachedPipeline:
    """A pipeline that takes what it can from the cache. All else is the inner pipeline's."""

    def __init__(self, inner: StagedPipeline, entries: Mapping[str, Entry]):
        self.inner = inner
        self._entries = entries  # by the sample's key
        # by the very object: a copy with other pixels, as audits make it, is not cached
        self._pixels = {id(entry.media): entry.pixels for entry in entries.values() if entry.pixels is not None}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def load(self, sample: Sample) -> Media:
        entry = self._entries.get(sample.key)
        return entry.media if entry else self.inner.load(sample)  # what could not be read raises its error again

    def files(self, sample: Sample) -> list[Path]:
        """None for a sample that is cached: `load` opens no file."""
        return [] if sample.key in self._entries else self.inner.files(sample)

    def preprocess(self, media: Sequence[Media], questions: Sequence[str]) -> Inputs:
        if not any(id(item) in self._pixels for item in media):
            return self.inner.preprocess(media, questions)
        device = self.inner.facts.device
        pixels = [
            cached.to(device) if (cached := self._pixels.get(id(item))) is not None else self.inner.pixels([item])
            for item in media
        ]
        return self.inner.inputs(pixels[0] if len(pixels) == 1 else torch.cat(pixels), media, questions)


def with_cache(config: Config, pipeline: StagedPipeline, samples: Sequence[Sample]) -> tuple[StagedPipeline, Filled]:
    """The pipeline behind the cache that `config` asks for, filled, and what that took.

    Raises UserError where the samples do not fit into memory. A sample that cannot be read is left out: its fault
    goes on its record.
    """
    if config.cache == "none":
        return pipeline, Filled()
    entries = fill(pipeline, samples, config.cached_stages, timing_of(config, pipeline))
    fills = [entry.media.fill.seconds for entry in entries.values() if entry.media.fill]
    metrics = {
        "cache_fill_s": sum(fills),
        "cache_bytes": float(sum(entry.size_bytes for entry in entries.values())),
        "cache_samples": float(len(entries)),
    }
    filled = Filled(entries, metrics, {"fourstage.cached_stages": ",".join(config.cached_stages)})
    return behind(filled, pipeline), filled


def behind(filled: Filled, pipeline: StagedPipeline) -> StagedPipeline:
    """The pipeline behind the entries of the cache."""
    return cast(StagedPipeline, CachedPipeline(pipeline, filled.entries)) if filled.entries else pipeline


def uncached(pipeline: StagedPipeline) -> StagedPipeline:
    """The pipeline behind the cache, where there is one."""
    return pipeline.inner if isinstance(pipeline, CachedPipeline) else pipeline


def fill(
    pipeline: StagedPipeline, samples: Sequence[Sample], stages: tuple[str, ...], timing: Timing
) -> dict[str, Entry]:
    """An entry of each sample that can be read, by its key, with its files as the protocol wants them before.

    Raises UserError as soon as the entries so far show that the rest will not fit into memory.
    """
    entries: dict[str, Entry] = {}
    held = 0
    warmed = False
    for number, sample in enumerate(samples):
        try:
            if not warmed:  # the first time also imports the decoder
                _entry(pipeline, sample, stages, timing)
                warmed = True
            entry = _entry(pipeline, sample, stages, timing)
        except Exception:  # the measurement reads the sample again and records the error
            continue
        entries[sample.key] = entry
        held += entry.size_bytes
        _check_memory(held, len(entries), len(samples) - number - 1)
    return entries


def _entry(pipeline: StagedPipeline, sample: Sample, stages: tuple[str, ...], timing: Timing) -> Entry:
    """Read one sample, timed as the stages that it stands in for."""
    share = timing.prepare_files(sample)
    watch = timing.stopwatch()
    pixels: Tensor | None = None
    with watch.stage("load"):
        media = pipeline.load(sample)
    if "preprocess" in stages:
        with watch.stage("preprocess"):
            pixels = pipeline.pixels([media]).cpu()
    return Entry(replace(media, fill=Fill(stages, sum(watch.stage_s.values()), share)), pixels)


def _check_memory(held: int, entries: int, left: int) -> None:
    """Raise UserError where as much again for each sample that is `left` does not fit into what is available."""
    each, available = held // entries, available_bytes()
    if each * left > available:
        needed, one, has, free = (amount(size, "bytes") for size in (each * (entries + left), each, held, available))
        raise UserError(
            f"the cache needs about {needed} for {entries + left} samples ({one} each), "
            f"beside {has} that it holds {free} of memory are available: "
            f"set cache=none, or dataset.limit={entries + available // each}"
        )


def available_bytes() -> int:
    """Memory that can be had without swapping."""
    return int(psutil.virtual_memory().available)
