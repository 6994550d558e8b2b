"""The schema of `conf/`: every setting, its type and range, and every message about a setting that is wrong.

It knows plain dictionaries only, neither Hydra nor torch, so that a slip is told before anything heavy is
imported. One dataclass per option of a group; `name` says which.

    config = check(tree)                               # a composed configuration → Config, or SettingError
    check_override("temprature", "0.2", conf_folder)   # SettingError: unknown setting 'temprature'; did you …
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from fourstage.stages import Sampling, UserError


class SettingError(UserError):
    """A setting that does not exist, or a value that it cannot have."""


def setting(low: float | None = None, high: float | None = None, exclusive_low: bool = False) -> Any:
    """A field whose number must lie in [low, high]."""
    return field(metadata={"low": low, "high": high, "exclusive_low": exclusive_low})


@dataclass(frozen=True)
class EventGPTSettings:
    name: Literal["eventgpt"]
    source: Literal["auto", "png", "npy"]
    event_images: int = setting(1, 64)
    max_span_us: int | None = setting(1)


@dataclass(frozen=True)
class VideoLlavaSettings:
    name: Literal["videollava"]
    source: Literal["auto", "mp4", "images"]
    frames: int = setting(1, 64)
    frame_rule: Literal["linspace", "arange", "head"] = field()


@dataclass(frozen=True)
class WeightsSettings:
    name: Literal["demo", "random", "pretrained"]
    size: Literal["tiny", "7b"]
    seed: int = setting(0)
    path: str | None = field()
    vision_tower: str | None = field()


@dataclass(frozen=True)
class DemoDatasetSettings:
    name: Literal["demo"]
    cache: str
    samples: int = setting(1, 100_000)
    seconds: float = setting(0.2, 60)
    width: int = setting(64, 4096)
    height: int = setting(64, 4096)
    fps: int = setting(1, 240)
    seed: int = setting(0)
    limit: int | None = setting(1)
    question: str = field()


@dataclass(frozen=True)
class JsonDatasetSettings:
    name: Literal["eventgpt_json"]
    root: str
    file: str
    limit: int | None = setting(1)
    question: str = field()


@dataclass(frozen=True)
class EngineSettings:
    name: Literal["eager"]
    attention: Literal["sdpa", "eager"]


@dataclass(frozen=True)
class ProtocolSettings:
    name: str
    warmup: int = setting(0, 1000)
    repeats: int = setting(1, 1000)


@dataclass(frozen=True)
class TrackingSettings:
    name: Literal["local", "server"]
    uri: str
    artifacts: str | None
    experiment: str
    traces: int = setting(0)


@dataclass(frozen=True)
class Config:
    """A run, whole: what was composed is what is used, all of it."""

    model: EventGPTSettings | VideoLlavaSettings
    weights: WeightsSettings
    dataset: DemoDatasetSettings | JsonDatasetSettings
    precision: Literal["fp32", "bf16", "fp16"]
    engine: EngineSettings
    protocol: ProtocolSettings
    tracking: TrackingSettings
    temperature: float = setting(0, 100)
    top_p: float = setting(0, 1, exclusive_low=True)
    top_k: int = setting(0)
    max_new_tokens: int = setting(1, 100_000)
    num_beams: int = setting(1, 64)
    stop: Literal["natural", "fixed"] = field()
    prompt: str | None = field()
    seed: int = setting(0, 2**63 - 1)
    device: str = field()
    batch_size: int = setting(1, 1024)
    run_name: str | None = field()

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.top_k, self.max_new_tokens, self.num_beams, self.stop)


GROUPS = ("model", "weights", "dataset", "precision", "generation", "engine", "protocol", "tracking")


def check(tree: Mapping[str, Any]) -> Config:
    """The typed configuration of a composed tree. Raises SettingError for the first setting that is wrong."""
    config = _build(Config, tree, "")
    assert isinstance(config, Config)
    if config.stop == "fixed" and config.num_beams > 1:
        raise SettingError("stop=fixed with num_beams>1: beams end where they end; set num_beams=1")
    device = config.device.partition(":")
    if device[0] not in ("auto", "cpu", "cuda", "mps") or (device[1] and not device[2].isdigit()):
        raise SettingError(f"device={config.device!r}: expected auto, cpu, cuda, cuda:N or mps")
    return config


def check_override(key: str, value: Any, conf: Path) -> None:
    """Raise SettingError for one `key=value` of the command line: unknown key, unknown choice, bad value."""
    if key in GROUPS:
        options = sorted(path.stem for path in (conf / key).glob("*.yaml"))
        if value not in options:
            raise SettingError(f"unknown {key} {value!r}; {_suggest(str(value), options)}")
        return
    hints = _leaves()
    if key not in hints:
        raise SettingError(f"unknown setting {key!r}; {_suggest(key, [*hints, *GROUPS])}")
    errors = []
    for hint, meta in hints[key]:
        try:
            _value(hint, meta, value, key)
            return
        except SettingError as error:
            errors.append(error)
    raise errors[0]


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
    flat = {
        key: value
        for key, value in flatten(tree).items()
        if not key.startswith("tracking.") and key not in ("run_name", "dataset.cache")
    }
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:16]


def default_run_name(config: Config) -> str:
    """`videollava-demo-bf16-T0.2`: what a reader of the runs table tells runs apart by."""
    how = "greedy" if config.temperature == 0 else f"T{config.temperature:g}"
    return f"{config.model.name}-{config.weights.name}-{config.precision}-{how}"


def _build(kind: Any, tree: Any, path: str) -> Any:
    """A dataclass `kind` from a mapping; for a union, the member whose `name` fits."""
    where = path.rstrip(".") or "the configuration"
    if not isinstance(tree, Mapping):
        raise SettingError(f"{where}={tree!r}: expected a group of settings, found a {type(tree).__name__}")
    hints = typing.get_type_hints(kind)
    known = [item.name for item in fields(kind)]
    for key in tree:
        if key not in known:
            full = f"{path}{key}"
            raise SettingError(f"unknown setting {full!r}; {_suggest(full, [f'{path}{name}' for name in known])}")
    values = {}
    for item in fields(kind):
        if item.name not in tree:
            raise SettingError(f"{path}{item.name} is missing: give {path}{item.name}=<value>")
        values[item.name] = _value(hints[item.name], item.metadata, tree[item.name], f"{path}{item.name}")
    return kind(**values)


def _value(hint: Any, meta: Mapping[str, Any], value: Any, path: str) -> Any:
    """`value` as `hint` asks for it. Raises SettingError."""
    if value == "???":
        raise SettingError(f"{path} is missing: give {path}=<value>")
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    groups = [member for member in members if is_dataclass(member)]
    if groups:
        name = value.get("name") if isinstance(value, Mapping) else None
        by_name = {choice: group for group in groups for choice in _names(group)}
        if len(groups) > 1 and name not in by_name:
            raise SettingError(f"unknown {path} {name!r}; {_suggest(str(name), list(by_name))}")
        return _build(by_name.get(name, groups[0]), value, f"{path}.")
    if value is None:
        if type(None) in members:
            return None
        raise SettingError(f"{path}=null: expected {_describe(members[0], meta)}")
    member = members[0]
    if typing.get_origin(member) is Literal:
        choices = [str(choice) for choice in typing.get_args(member)]
        if value not in choices:
            raise SettingError(f"{path}={value!r}: {_suggest(str(value), choices)}")
        return value
    fits = {
        bool: isinstance(value, bool),
        int: isinstance(value, int) and not isinstance(value, bool),
        float: isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value),
        str: isinstance(value, str | int | float) and not isinstance(value, bool),
    }[member]
    if not fits or not _in_range(value, meta):
        raise SettingError(f"{path}={value!r}: expected {_describe(member, meta)}")
    return member(value)


def _in_range(value: Any, meta: Mapping[str, Any]) -> bool:
    low, high = meta.get("low"), meta.get("high")
    if low is not None and (value < low or (meta["exclusive_low"] and value == low)):
        return False
    return high is None or value <= high


def _describe(kind: Any, meta: Mapping[str, Any]) -> str:
    """`a number above 0, at most 1`."""
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(kind, "a choice")
    low, high = meta.get("low"), meta.get("high")
    if low is not None:
        words += f" above {low:g}" if meta["exclusive_low"] else f" from {low:g}"
    if high is not None:
        words += f"{',' if low is None else ''} up to {high:g}"
    return words


def _suggest(found: str, known: list[str]) -> str:
    """`did you mean 'x'?` where something is near, else what there is."""
    near = [name for name in known if "." in name and name.rpartition(".")[2] == found][:1]  # root → dataset.root
    near = near or difflib.get_close_matches(found, known, n=1, cutoff=0.6)
    listed = ", ".join(known)
    if near:
        return f"did you mean {near[0]!r}?" + (f" (there are {listed})" if len(known) <= 6 else "")
    return f"there are {listed}"


def _names(group: Any) -> tuple[str, ...]:
    """The values that a group's `name` can have."""
    return typing.get_args(typing.get_type_hints(group)["name"])


def _leaves(kind: Any = Config, path: str = "") -> dict[str, list[tuple[Any, Mapping[str, Any]]]]:
    """Every dotted key of the schema, with the type and range that each option of its group asks for."""
    leaves: dict[str, list[tuple[Any, Mapping[str, Any]]]] = {}
    hints = typing.get_type_hints(kind)
    for item in fields(kind):
        hint = hints[item.name]
        members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        groups: Iterable[Any] = [member for member in members if is_dataclass(member)]
        for group in groups:
            for key, found in _leaves(group, f"{path}{item.name}.").items():
                leaves.setdefault(key, []).extend(found)
        if not groups:
            leaves.setdefault(f"{path}{item.name}", []).append((hint, item.metadata))
    return leaves
