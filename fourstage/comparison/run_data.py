"""Runs as a comparison reads them: columns, settings, and what each stage worked on.

Left out: reading them (`reading.py`) and comparing them (`effects.py`).

    stage_facts(run)[2].operation     # "5 images → 577 visual tokens"
    differing_settings([one, other])  # (Setting(name="precision", values=("fp32", "bf16")),)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fourstage.config.flat import is_label
from fourstage.records.columns import Columns, Ints
from fourstage.stages import STAGES, UserError
from fourstage.stats.clusters import Floats

CACHED = {"none": (), "frames": ("load",), "tensors": ("load", "preprocess")}
LOADING = {
    "png": "png read and decoded",
    "npy": "events read and drawn as images",
    "mp4": "mp4 read and decoded",
    "images": "images read and decoded",
}


@dataclass(frozen=True, eq=False)
class RunData:
    """A run as far as a comparison needs it; full records and texts stay where they are."""

    run_id: str
    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    columns: Columns  # of its samples
    valid: bool = True
    checks_failed: tuple[str, ...] = ()
    checks_warned: tuple[str, ...] = ()
    logged_name: str = ""  # in the store, where `name` says what distinguishes it
    pooled: tuple[str, ...] = ()  # ids of the runs that are in it, where it is several

    @property
    def fault(self) -> str:
        """Why nothing should be claimed against it, behind its name; "" of a valid run."""
        if self.valid:
            return ""
        return f"failed {', '.join(self.checks_failed)}" if self.checks_failed else "was never checked"


@dataclass(frozen=True)
class Setting:
    """A setting that differs, and its value in each run: "-" where a run has none."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class StageFacts:
    """What a stage worked on, as measured; medians over all successful samples of the run, None where unknown."""

    stage: str
    operation: str  # in words: "png read and decoded", "5 images → 577 visual tokens"
    sources: tuple[str, ...]  # of its images
    images: float | None
    bytes_read: float | None
    visual_tokens: float | None
    cached: bool


def replicate_codes(runs: Sequence[RunData]) -> tuple[Ints, ...]:
    """Which process measured each record of runs that are pooled (`grouping.same_configuration`), counted over all.

    A run with replicates has a process for each. Runs of a sweep that were measured in one process are one replicate,
    however many there are: they share its luck.
    """
    codes: dict[tuple[object, ...], int] = {}
    found = []
    for run in runs:
        process = None if "fourstage.replicates" in run.tags else run.tags.get("fourstage.process")
        own, inverse = np.unique(run.columns.replicate, return_inverse=True)
        each = [codes.setdefault((process or run.run_id, int(number)), len(codes)) for number in own]
        found.append(np.asarray(each, dtype=np.int64)[inverse])
    return tuple(found)


def own_memory(run: RunData) -> bool:
    """Whether its peak memory is its samples' own: a GPU's allocator counts from zero, while the resident set of a
    process on a CPU has in it whatever earlier samples, models and runs left there."""
    device = run.tags.get("fourstage.device", "")
    return not device or device.startswith("cuda")


def cached_stages(params: Mapping[str, str]) -> tuple[str, ...]:
    """The stages whose work a run found done in its cache. Raises UserError for a cache that is not known."""
    cache = params.get("cache", "none")
    if cache not in CACHED:
        raise UserError(f"unknown cache {cache!r} in a run's settings; known are {', '.join(CACHED)}")
    return CACHED[cache]


def cache_fill_s(run: RunData) -> float | None:
    """Seconds that filling its cache took, once for each sample; None for a run without one."""
    done = run.columns.measured.done
    filled = done.where(~np.isnan(done.cache_fill_s))
    _, first = np.unique(filled.key_codes, return_index=True)  # repeats share one filling
    return float(filled.cache_fill_s[first].sum()) if len(first) else None


def differing_settings(runs: Sequence[RunData]) -> tuple[Setting, ...]:
    """The settings that are not the same in all of the runs, without labels: names, and where they were logged."""
    names = sorted({name for run in runs for name in run.params})
    compared = (name for name in names if not is_label(name))
    values = ((name, tuple(run.params.get(name, "-") for run in runs)) for name in compared)
    return tuple(Setting(name, of_runs) for name, of_runs in values if len(set(of_runs)) > 1)


def stage_facts(run: RunData) -> tuple[StageFacts, ...]:
    """What each stage of a run worked on, as its records have it."""
    done = run.columns.measured.done
    cached = cached_stages(run.params)
    sources = tuple(done.sources[code] for code in np.unique(done.source_codes) if code >= 0)
    images, read, visual = (_median(values) for values in (done.images, done.bytes_read, done.visual_tokens))
    tokens_in, tokens_out = _median(done.input_tokens), _median(done.output_tokens)
    operations = {
        "load": ", ".join(LOADING.get(source, f"{source} read") for source in sources) or "unknown",
        "preprocess": f"{_count(images)} images → tensors on the device",
        "encode": f"{_count(images)} images → {_count(visual)} visual tokens",
        "decode": f"{_count(tokens_in)} tokens in → {_count(tokens_out)} tokens out",
    }
    return tuple(
        StageFacts(
            stage=stage,
            operation=f"from the cache of {run.params['cache']}" if stage in cached else operations[stage],
            sources=sources,
            images=images,
            bytes_read=read,
            visual_tokens=visual,
            cached=stage in cached,
        )
        for stage in STAGES
    )


def _median(values: Floats) -> float | None:
    there = values[~np.isnan(values)]
    return float(np.median(there)) if len(there) else None


def _count(value: float | None) -> str:
    return "?" if value is None else f"{value:.10g}"
