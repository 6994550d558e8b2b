"""The schema of `conf/`: every setting, its type and range, and every message about a setting that is wrong.

It knows plain dictionaries only, neither Hydra nor torch, so that a mistake is reported before anything heavy is
imported. One dataclass per option of a group; `name` says which. The settings of a model, a dataset format or an
engine are in its own file (`plugins.py`): here is only what all of a kind have in common.

    config = check(tree)                               # a composed configuration → Config, or SettingError
    check_override("temprature", "0.2", conf_folder)   # SettingError: unknown setting 'temprature'; did you …
"""

from __future__ import annotations

import difflib
import hashlib
import json
import sys
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from fourstage import plugins
from fourstage.paths import path_of, shortened
from fourstage.stages import Media, Sample, Sampling, UserError
from fourstage.text import is_storable, one_line


class SettingError(UserError):
    """A setting that does not exist, or a value that it cannot have."""


MOST = 2**63 - 1  # what a seed can be; no user needs to be told


@dataclass(frozen=True)
class Range:
    """Where a number must lie: from `low`, or `above` it, up to `high`."""

    low: float | None = None
    high: float | None = None
    above: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.low is None or value >= self.low)
            and (self.above is None or value > self.above)
            and (self.high is None or value <= self.high)
        )

    def __str__(self) -> str:
        words = "" if self.low is None else f" from {self.low:g}"
        words += "" if self.above is None else f" above {self.above:g}"
        return words + ("" if self.high is None or self.high >= MOST else f" up to {self.high:g}")


ANY = Range()
NAME = "name"  # a text of printable characters on one line
PATH = "path"  # `~` is the home folder
Name = Annotated[str, NAME]
FilePath = Annotated[str, PATH]


@dataclass(frozen=True)
class Plugin:
    """Marks a setting whose options are plugins of this kind (`plugins.KINDS`)."""

    kind: str


@dataclass(frozen=True)
class DemoWeights:
    """Weights of the demo: a tiny model, seeded, that runs on a CPU."""

    name: Literal["demo"]
    seed: Annotated[int, Range(0, MOST)]
    size: ClassVar[str] = "tiny"


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
    """How the runs of one -m are made; `rounds` alone can change a result."""

    name: Name | None
    resume: bool
    isolate: bool
    rounds: Annotated[int, Range(1, 1000)]
    memory_gb: Annotated[float, Range(above=0)] | None
    compare: bool


@dataclass(frozen=True)
class Config:
    """A run, whole: what was composed is what is used, all of it."""

    model: Annotated[ModelSettings, Plugin("model")]
    weights: Weights
    dataset: Annotated[DatasetSettings, Plugin("dataset")]
    precision: Literal["fp32", "bf16", "fp16"]
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
    replicates: Annotated[int, Range(1, 1000)]
    batch_size: Annotated[int, Range(1, 1024)]
    cache: Literal["none", "frames", "tensors"]
    study: str | None
    run_name: Name | None
    sweep: SweepSettings
    objective: str

    @property
    def cached_stages(self) -> tuple[str, ...]:
        """The stages that are to be served from the run's cache."""
        return {"none": (), "frames": ("load",), "tensors": ("load", "preprocess")}[self.cache]

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen, as the decoding engine takes it."""
        return Sampling(self.temperature, self.top_p, self.top_k, self.max_new_tokens, self.num_beams, self.stop)


GROUPS = ("model", "weights", "dataset", "precision", "generation", "engine", "protocol", "tracking")


def check(tree: Mapping[str, Any]) -> Config:
    """The typed configuration of a composed tree. Raises SettingError for the first setting that is wrong."""
    config = _build(Config, tree, "")
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
    device = config.device.partition(":")
    if device[0] not in ("auto", "cpu", "cuda", "mps") or (device[1] and not device[2].isdigit()):
        raise SettingError(f"device={config.device!r}: expected auto, cpu, cuda, cuda:N or mps")
    return config


def typed(tree: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """The tree that a configuration was made of, with its values as the schema has them: 0 is 0.0 for a number that
    may have decimals, and a path has no `~`. So that one setting has one identity, however it was written."""
    return {
        key: typed(value, getattr(config, key)) if isinstance(value, Mapping) else getattr(config, key)
        for key, value in tree.items()
    }


def dataset_settings(tree: Mapping[str, Any]) -> DatasetSettings:
    """The dataset of a composition whose other settings may be missing. Raises SettingError."""
    dataset = _value(typing.get_type_hints(Config, include_extras=True)["dataset"], tree["dataset"], "dataset")
    assert isinstance(dataset, DatasetSettings)
    return dataset


def check_override(key: str, value: Any, conf: Path) -> None:
    """Raise SettingError for one `key=value` of the command line: unknown key, unknown choice, bad value."""
    if key in GROUPS:
        options = choices(key, conf)
        if value not in options:
            raise SettingError(f"unknown {key} {value!r}; {suggest(str(value), options)}")
        return
    hints = _leaves()
    if key not in hints:
        raise SettingError(f"unknown setting {key!r}; {suggest(key, [*hints, *GROUPS])}")
    errors = []
    for hint in hints[key]:
        try:
            _value(hint, value, key)
            return
        except SettingError as error:
            errors.append(error)
    raise errors[0]


def choices(group: str, conf: Path) -> list[str]:
    """The options of a group: files of `conf`, and what other packages bring."""
    found = {path.stem for path in (conf / group).glob("*.yaml")}
    if group in plugins.CHOSEN:
        found |= set(plugins.names(group))
    if group == "generation":  # each model's published sampling
        found |= set(plugins.names("model"))
    return sorted(found)


def defaults(group: str, name: str) -> dict[str, Any]:
    """What an option of `model`, `dataset` or `engine` composes to: its defaults, `???` where there is none.

    For `generation` it is the published sampling of the model of that name.
    """
    if group == "generation":
        return asdict(plugins.find("model", name).Settings.sampling)
    settings = {item.name: "???" if item.default is MISSING else item.default for item in _fields(group, name)}
    return settings | {"name": name}


def from_params(group: str, params: Mapping[str, str]) -> Any:
    """The settings of a run's model, dataset or engine, from its params, which are texts.

    A setting that an earlier version did not have takes its default. Raises SettingError for one that has none, and
    for a value that is wrong by now; UserError for a plugin that is not installed here.
    """
    name = params.get(f"{group}.name", "")
    kind = plugins.find(group, name).Settings
    hints = typing.get_type_hints(kind, include_extras=True)
    values = {}
    for item in fields(kind):
        key = f"{group}.{item.name}"
        if key in params:
            values[item.name] = _value(hints[item.name], _from_text(hints[item.name], params[key]), key)
        elif item.default is MISSING:
            raise SettingError(f"{key} is missing: the run does not say it")
    return kind(**values)


def _fields(group: str, name: str) -> tuple[Any, ...]:
    return fields(plugins.find(group, name).Settings)


def _from_text(hint: Any, text: str) -> Any:
    """A value that `str` wrote."""
    members = [typing.get_args(part)[0] if typing.get_origin(part) is Annotated else part for part in _members(hint)]
    if text == "None" and type(None) in members:
        return None
    if bool in members and text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        if kind in members:
            try:
                return kind(text)
            except ValueError:  # reported by the setting's own check
                return text
    return text


def owner(key: str) -> str | None:
    """Which choice a setting belongs to where not every option of its group has it: `model=videollava`."""
    group, _, name = key.partition(".")
    options = _options(typing.get_type_hints(Config, include_extras=True).get(group))
    owners = [choice for choice, member in options.items() if name in [item.name for item in fields(member)]]
    return f"{group}={'|'.join(owners)}" if owners and len(options) > 1 else None


def is_text(key: str) -> bool:
    """Whether a setting holds free text."""
    return any(_plain(member) is str for hint in _leaves().get(key, []) for member in _members(hint))


def canonical(word: str) -> str:
    """An override of the command line with its numbers written in one way: `temperature=0,1` and `temperature=0.0,1.0`
    are the same; any other stays as it is."""
    key, equals, values = word.partition("=")
    kinds = {_plain(member) for hint in _leaves().get(key.lstrip("+"), []) for member in _members(hint)}
    kind = float if float in kinds else int if int in kinds else None
    if kind is None or is_text(key.lstrip("+")):
        return word
    written = []
    for value in values.split(","):
        try:
            written.append(str(kind(value) + kind()))
        except ValueError:  # null, an interpolation, a range
            written.append(value)
    return f"{key}{equals}{','.join(written)}"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"model": {"name": "x"}}` → `{"model.name": "x"}`: the names under which MLflow shows the settings."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def identity(tree: Mapping[str, Any]) -> str:
    """Hash (16 hex digits) of the settings that can change a result: without where it is tracked and its name."""
    flat = {key: value for key, value in flatten(tree).items() if not is_label(key)}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:16]


LABELS = ("run_name", "study", "dataset.cache", "dataset.hash", "objective", "replicates")


def is_label(key: str) -> bool:
    """Whether a setting cannot change a result: where a run is tracked, its names, how its sweep is organised, how
    often it is replicated."""
    organises = key.startswith("sweep.") and key != "sweep.rounds"
    return organises or key.startswith("tracking.") or key in LABELS


def sweep_settings(tree: Mapping[str, Any]) -> tuple[SweepSettings, TrackingSettings]:
    """What concerns a sweep as a whole, of a composition that its jobs may yet complete. Raises SettingError."""
    sweep = _build(SweepSettings, tree["sweep"], "sweep.")
    if sweep.rounds > 1 and sweep.isolate:
        raise SettingError("sweep.rounds>1 with sweep.isolate=true: alternating jobs share one process; leave one out")
    tracking = _build(TrackingSettings, tree["tracking"], "tracking.")
    return sweep, tracking


NAMED = ("model", "weights", "precision", "temperature", "generation")  # what every name says
# what a name does not say of a dataset: it changes no figure, or is long
NEVER_SAID = ("dataset.cache", "dataset.hash", "dataset.question", "dataset.max_sample_bytes")
MOST_OF_A_VALUE, MOST_OF_A_NAME = 24, 120  # letters


def default_run_name(config: Config, varied: Mapping[str, str] | None = None) -> str:
    """`videollava-demo-bf16-T0.2-dsec-batch_size=4`: what tells the runs of a store apart.

    With what a sweep varied beyond model, weights, precision and sampling; of a run by itself, with its checkpoint,
    its dataset and whatever else is not as composed by default.
    """
    how = "greedy" if config.temperature == 0 else f"T{config.temperature:g}"
    how += f"-fixed{config.max_new_tokens}" if config.stop == "fixed" else ""
    name = f"{config.model.name}-{config.weights.name}-{config.precision}-{how}"
    flat = flatten(asdict(config))
    if varied:
        as_used = {key: _in_a_name(flat[key]) if key in flat else text for key, text in varied.items()}
        return _cut("-".join([name, *_said({key: text for key, text in as_used.items() if key not in NAMED})]))
    if isinstance(config.weights, PretrainedWeights) and config.weights.path:
        name += f"-{_short(Path(config.weights.path).name)}"
    if label := config.dataset.label:
        name += f"-{_short(label)}"
    unsaid = _unsaid(config) | ({"max_new_tokens": config.max_new_tokens} if config.stop == "fixed" else {})
    other = {key: _in_a_name(flat[key]) for key, value in unsaid.items() if key in flat and flat[key] != value}
    words = [_short(other.pop(key)) for key in ("protocol.name", "engine.name") if key in other]
    return _cut("-".join([name, *words, *_said(other)]))


def _unsaid(config: Config) -> dict[str, Any]:
    """What a name says only where it is another: conf/'s own values."""
    of_group = {
        group: {
            f"{group}.{item.name}": item.default
            for item in fields(getattr(config, group))
            if item.name != "name" and item.default is not MISSING
        }
        for group in plugins.CHOSEN
    }
    found = {"protocol.name": "standard", "engine.name": "eager", "device": "auto", **of_group["engine"],
             "batch_size": 1, "cache": "none", "num_beams": 1, "top_p": 1.0, "top_k": 50, "max_new_tokens": 512,
             "seed": 0, "prompt": None, **of_group["model"], "weights.seed": 0, "weights.size": "7b",
             "weights.vision_tower": None, **of_group["dataset"]}  # fmt: skip
    return {key: value for key, value in found.items() if key not in NEVER_SAID}


def name_of_varied(varied: Mapping[str, str]) -> str:
    """`seed=1-batch_size=4`: what a sweep varied; "" where that is nothing."""
    return _cut("-".join(_said(varied)))


def _said(settings: Mapping[str, str]) -> list[str]:
    """`frames=4`; the whole key where two settings end alike: `seed=1`, `dataset.seed=2`."""
    ends = [key.rpartition(".")[2] for key in settings]
    return [
        f"{key if ends.count(end) > 1 else end}={_short(text)}"
        for end, (key, text) in zip(ends, settings.items(), strict=True)
    ]


def _short(text: str) -> str:
    """A value in a name: one line, cut where it is long, with four digits that tell it from others cut there."""
    shown = one_line(text)
    if len(shown) <= MOST_OF_A_VALUE:
        return shown
    return f"{shown[: MOST_OF_A_VALUE - 5]}…{_digits(text)}"


def _cut(name: str) -> str:
    return name if len(name) <= MOST_OF_A_NAME else f"{name[: MOST_OF_A_NAME - 5]}…{_digits(name)}"


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:4]


def _in_a_name(value: Any) -> str:
    """A value as one writes it: 1 for 1.0, true, null."""
    if value is None or isinstance(value, bool):
        return _shown(value)
    return f"{value:g}" if isinstance(value, float) else one_line(str(value))


def _build(kind: Any, tree: Any, path: str) -> Any:
    """A dataclass `kind` from a mapping; for a union, the member whose `name` fits."""
    where = path.rstrip(".") or "the configuration"
    if not isinstance(tree, Mapping):
        raise SettingError(f"{where}={tree!r}: expected a group of settings, found a {type(tree).__name__}")
    hints = typing.get_type_hints(kind, include_extras=True)
    known = [item.name for item in fields(kind)]
    for key in tree:
        if key not in known:
            full = f"{path}{key}"
            raise SettingError(f"unknown setting {full!r}; {suggest(full, [f'{path}{name}' for name in known])}")
    values = {}
    for item in fields(kind):
        if item.name not in tree:
            raise SettingError(f"{path}{item.name} is missing: give {path}{item.name}=<value>")
        values[item.name] = _value(hints[item.name], tree[item.name], f"{path}{item.name}")
    return kind(**values)


def _value(hint: Any, value: Any, path: str) -> Any:
    """`value` as `hint` asks for it. Raises SettingError."""
    if value == "???":
        raise SettingError(f"{path} is missing: give {path}=<value>")
    name = value.get("name") if isinstance(value, Mapping) else None
    if plugin := _plugin(hint):
        _check_name(name, plugins.names(plugin.kind), path)
        return _build(plugins.find(plugin.kind, str(name)).Settings, value, f"{path}.")
    if groups := _groups(hint):
        options = _options(hint)
        if len(groups) > 1:
            _check_name(name, options, path)
        return _build(options.get(str(name), groups[0]), value, f"{path}.")
    kind, *others = _members(hint)
    limits: Any = ANY
    if typing.get_origin(kind) is Annotated:
        kind, limits = typing.get_args(kind)
    if value is None and type(None) in others:
        return None
    if typing.get_origin(kind) is Literal:
        choices = [str(choice) for choice in typing.get_args(kind)]
        if value not in choices:
            raise SettingError(f"{path}={_shown(value)}: {suggest(str(value), choices)}")
        return value
    if kind is str:
        return _text(value, path, limits)
    if not _fits(kind, value) or (kind in (int, float) and value not in limits):
        words = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise SettingError(f"{path}={_shown(value)}: expected {words}{limits}")
    return value + 0.0 if kind is float else kind(value)  # -0.0 + 0.0 is 0.0


def _text(value: Any, path: str, limits: Any) -> str:
    """A free text, a name or a path. Raises SettingError."""
    # of an interpolation or a YAML file: on the command line it is a text (compose.quote_where_needed)
    if _fits(float, value):
        value = str(value)
    if not isinstance(value, str):
        raise SettingError(
            f"{path}={_shown(value)}: expected a text{'; put it in quotes' * isinstance(value, bool | float)}"
        )
    if not is_storable(value):
        raise SettingError(f"{path}={_shown(value)}: expected a text in UTF-8")
    if limits == NAME and (not value.strip() or not value.isprintable()):
        raise SettingError(f"{path}={_shown(value)}: expected a name of printable characters in one line")
    if limits == PATH:
        try:
            return str(path_of(value, path))
        except UserError as error:
            raise SettingError(str(error)) from error
    return value


def _check_name(name: Any, known: Iterable[str], path: str) -> None:
    if name not in known:
        raise SettingError(f"unknown {path} {name!r}; {suggest(str(name), list(known))}")


def _fits(kind: type, value: Any) -> bool:
    """Whether `value` is of `kind`, as YAML means it: true is no number, 1 is one and a text too."""
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max
    return isinstance(value, kind)


def _shown(value: Any) -> str:
    """A value as it is written on the command line, or its beginning."""
    try:
        return "null" if value is None else shortened(repr(value).lower() if isinstance(value, bool) else repr(value))
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"


def suggest(found: str, known: list[str]) -> str:
    """`did you mean 'x'?` where something is near, else what there is."""
    near = [name for name in known if "." in name and name.rpartition(".")[2] == found][:1]  # root → dataset.root
    near = near or difflib.get_close_matches(found, known, n=1, cutoff=0.6)
    listed = ", ".join(known)
    if not near and len(known) > 12:
        return "fourstage run --help lists them"
    if near:
        return f"did you mean {near[0]!r}?" + (f" (there are {listed})" if len(known) <= 6 else "")
    return f"there are {listed}"


def _plugin(hint: Any) -> Plugin | None:
    """The mark of a setting whose options are plugins."""
    marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    return next((mark for mark in marks if isinstance(mark, Plugin)), None)


def _options(hint: Any) -> dict[str, Any]:
    """The dataclasses that a group of settings can be, by their `name`; {} where it is no group with options."""
    if plugin := _plugin(hint):
        return {name: plugins.find(plugin.kind, name).Settings for name in plugins.names(plugin.kind)}
    by_name = {name: group for group in _groups(hint) for name in typing.get_args(typing.get_type_hints(group)["name"])}
    return {name: group for name, group in by_name.items() if isinstance(name, str)}


def _plain(hint: Any) -> Any:
    """The type without its annotation."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _members(hint: Any) -> tuple[Any, ...]:
    """The parts of a union; a plain type is one part."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _groups(hint: Any) -> list[Any]:
    """The dataclasses that a setting can be, where it is a group of settings."""
    return [member for member in _members(hint) if is_dataclass(member)]


@cache
def _leaves(kind: Any = Config, path: str = "") -> dict[str, list[Any]]:
    """Every dotted key of the schema, with what each option of its group asks for."""
    leaves: dict[str, list[Any]] = {}
    hints = typing.get_type_hints(kind, include_extras=True)
    for name in (item.name for item in fields(kind)):
        options = _options(hints[name]) if _plugin(hints[name]) else {}
        groups = list(options.values()) or _groups(hints[name])
        for group in groups:
            for key, found in _leaves(group, f"{path}{name}.").items():
                leaves.setdefault(key, []).extend(found)
        if options:
            leaves[f"{path}{name}.name"] = [Literal[tuple(options)]]
        if not groups:
            leaves.setdefault(f"{path}{name}", []).append(hints[name])
    return leaves
