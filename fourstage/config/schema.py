"""The schema of `conf/`: every setting with its type and range, as dataclasses.

It knows plain dictionaries only, neither Hydra nor torch, so that a mistake is reported before anything heavy is
imported. One dataclass per option of a group; `name` selects the option. The settings of a model, a dataset format or
an engine are in its own file (`plugins.py`): here is only what all of a kind have in common.

    config = check(tree)     # a composed configuration → Config, or SettingError
"""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from fourstage.config.flat import plain
from fourstage.config.values import MOST, FilePath, Name, Plugin, Range, SettingError, build, value_of
from fourstage.stages import Media, Sample, Sampling


@dataclass(frozen=True)
class DemoWeights:
    """Weights of the demo: the model's shipped stand-in; of a model without one, tiny and drawn from the seed."""

    name: Literal["demo"]
    seed: Annotated[int, Range(0, MOST)]
    size: ClassVar[str] = "tiny"
    # shown wherever a run has these weights
    note: ClassVar[str] = (
        "weights=demo: a small stand-in trained on synthetic scenes; its answers, quality and times say nothing about "
        "the published 7B models"
    )


@dataclass(frozen=True)
class RandomWeights:
    """Random weights of a tiny model or at the published size: times without a download."""

    name: Literal["random"]
    size: Literal["tiny", "7b"]
    seed: Annotated[int, Range(0, MOST)]


@dataclass(frozen=True)
class PretrainedWeights:
    """A published checkpoint (docs/weights.md)."""

    name: Literal["pretrained"]
    path: FilePath | None
    vision_tower: FilePath | None


Weights = DemoWeights | RandomWeights | PretrainedWeights


@dataclass(frozen=True)
class ModelSettings(ABC):
    """What all models' settings have in common: which files of a sample a model reads, and how (stage 1).

    A model's own are `Settings` in its file, each field with conf/'s value as its default; a field without one must
    be given on the command line.
    """

    name: str
    # a checkpoint without its vision tower needs weights.vision_tower
    separate_tower: ClassVar[bool] = False
    # what a report calls the images that the model sees
    pictures: ClassVar[str] = "images"
    # the published sampling, where there is no conf/generation/<name>.yaml
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, top_p=1.0, top_k=50, max_new_tokens=512)

    @abstractmethod
    def read(self, sample: Sample) -> Media:
        """Disk → uint8 images. Raises SampleError where the sample cannot be read."""

    @abstractmethod
    def files(self, sample: Sample) -> list[Path]:
        """The files that `read` opens, unread."""

    @abstractmethod
    def read_file(self, path: Path, max_bytes: int) -> Media:
        """As `read`, of one file or folder outside a dataset, within `max_bytes` decoded."""

    @property
    @abstractmethod
    def image_count(self) -> int:
        """How many images of a sample reach the model."""

    @property
    @abstractmethod
    def media_sources(self) -> tuple[str, ...]:
        """What `Media.source` can be under these settings."""

    def check(self, weights: Weights) -> None:
        """Raise SettingError for settings of the weights that this model does not have."""
        if isinstance(weights, PretrainedWeights) and weights.vision_tower and not self.separate_tower:
            raise SettingError(f"weights.vision_tower={weights.vision_tower}: {self.name} has its tower in the "
                               "checkpoint; leave it out")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """What all dataset formats' settings have in common; a format's own are `Settings` in its file."""

    name: str
    limit: Annotated[int, Range(1)] | None = None
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_sample_bytes: Annotated[int, Range(1, MOST)] = 2 * 1024**3
    question: str = "What are the key elements in this scene?"
    hash: Literal["content", "stat"] = "content"

    @property
    def label(self) -> str:
        """What a run's name says of the dataset; "": nothing."""
        return self.name


@dataclass(frozen=True)
class EngineSettings:
    """What all engines' settings have in common; an engine's own are `Settings` in its file."""

    name: str
    attention: Literal["sdpa", "eager"] = "sdpa"

    def check(self, config: Config) -> None:
        """Raise SettingError for settings of the run that this engine does not have."""


@dataclass(frozen=True)
class ProtocolSettings:
    """How a run is measured: warm-up, repeats, order and state of the files (docs/checks.md)."""

    name: str
    warmup: Annotated[int, Range(0, 1000)]
    warmup_tolerance: Annotated[float, Range(above=0, high=1)]
    repeats: Annotated[int, Range(1, 1000)]
    max_repeats: Annotated[int, Range(1, 1000)]
    target_half_width: Annotated[float, Range(above=0, high=1)] | None
    order: Literal["as_is", "shuffled"]
    io: Literal["as_is", "warm", "cold"]
    sentinel: Annotated[int, Range(0, 100_000)]
    audit: bool


@dataclass(frozen=True)
class TrackingSettings:
    """The store to which a run is logged."""

    name: Literal["local", "server"]
    uri: str
    artifacts: str | None
    experiment: Name
    traces: Annotated[int, Range(0)]
    wait_s: Annotated[float, Range(above=0)] = 30.0


@dataclass(frozen=True)
class SweepSettings:
    """How the runs of one -m are made."""

    name: Name | None
    resume: bool
    isolate: bool
    compare: bool


@dataclass(frozen=True)
class Config:
    """A run, whole: what was composed is what is used, all of it."""

    model: Annotated[ModelSettings, Plugin("model")]
    weights: Weights
    dataset: Annotated[DatasetSettings, Plugin("dataset")]
    precision: Literal["fp32", "bf16", "fp16", "int8", "int4"]
    engine: Annotated[EngineSettings, Plugin("engine")]
    protocol: ProtocolSettings
    tracking: TrackingSettings
    temperature: Annotated[float, Range(0, 100)]
    top_p: Annotated[float, Range(above=0, high=1)]
    top_k: Annotated[int, Range(0)]
    max_new_tokens: Annotated[int, Range(1, 100_000)]
    num_beams: Annotated[int, Range(1, 64)]
    stop: Literal["natural", "fixed"]
    prompt: str | None
    seed: Annotated[int, Range(0, MOST)]
    device: str
    threads: Annotated[int, Range(1, 1024)] | None
    replicates: Annotated[int, Range(1, 1000)]
    batch_size: Annotated[int, Range(1, 1024)]
    cache: Literal["none", "frames", "tensors"]
    study: str | None
    run_name: Name | None
    sweep: SweepSettings
    objective: str

    @property
    def fresh(self) -> bool:
        """Whether it is measured in fresh processes, one for each replicate."""
        return self.replicates > 1 or self.sweep.isolate

    @property
    def cached_stages(self) -> tuple[str, ...]:
        """The stages that are to be served from the run's cache."""
        return {"none": (), "frames": ("load",), "tensors": ("load", "preprocess")}[self.cache]

    @property
    def arithmetic(self) -> str:
        """The precision of activations, and of all weights that are not quantised."""
        return "bf16" if self.precision in ("int8", "int4") else self.precision

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen, as the decoding engine takes it."""
        return Sampling(self.temperature, self.top_p, self.top_k, self.max_new_tokens, self.num_beams, self.stop)


def check(tree: Mapping[str, Any]) -> Config:
    """The typed configuration of a composed tree. Raises SettingError for the first setting that is wrong."""
    config = build(Config, tree, "")
    assert isinstance(config, Config)
    if config.prompt is not None and not config.prompt.strip():
        raise SettingError("prompt is blank: give a question, or prompt=null for each sample's own")
    if config.stop == "fixed" and config.num_beams > 1:
        raise SettingError("stop=fixed with num_beams>1: beams end where they end; set num_beams=1")
    protocol = config.protocol
    if protocol.target_half_width is not None and protocol.max_repeats <= max(1, protocol.repeats):
        raise SettingError(
            f"protocol.max_repeats={protocol.max_repeats}: protocol.target_half_width needs rounds beyond "
            f"protocol.repeats={protocol.repeats}; raise it"
        )
    config.model.check(config.weights)
    config.engine.check(config)
    device = config.device.partition(":")
    if device[0] not in ("auto", "cpu", "cuda", "mps") or (device[1] and not device[2].isdigit()):
        raise SettingError(f"device={config.device!r}: expected auto, cpu, cuda, cuda:N or mps")
    return config


def typed(tree: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """The tree that a configuration was made of, with its values as the schema has them: 0 is 0.0 for a number that
    may have decimals, and a path has no `~`. So that one setting has one identity, however it was written."""
    found = {
        key: typed(value, getattr(config, key)) if isinstance(value, Mapping) else getattr(config, key)
        for key, value in tree.items()
    }
    return {key: plain(value) for key, value in found.items()}


def dataset_settings(tree: Mapping[str, Any]) -> DatasetSettings:
    """The dataset of a composition whose other settings may be missing. Raises SettingError."""
    dataset = value_of(typing.get_type_hints(Config, include_extras=True)["dataset"], tree["dataset"], "dataset")
    assert isinstance(dataset, DatasetSettings)
    return dataset


def sweep_settings(tree: Mapping[str, Any]) -> tuple[SweepSettings, TrackingSettings]:
    """What concerns a sweep as a whole, of a composition that its jobs may yet complete. Raises SettingError."""
    return build(SweepSettings, tree["sweep"], "sweep."), build(TrackingSettings, tree["tracking"], "tracking.")
