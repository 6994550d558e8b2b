"""The keys of the schema: what an override on the command line may set, and the options of each group.

check_override("temprature", "0.2", conf_folder)   # SettingError: unknown setting 'temprature'; did you mean …
choices("model", conf_folder)                      # ["eventgpt", "videollava"]
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from fourstage import plugins
from fourstage.config.flat import plain
from fourstage.config.schema import Config
from fourstage.config.values import (
    SettingError,
    groups_of,
    members_of,
    options_of,
    plain_type,
    plugin_of,
    suggest,
    value_of,
)

GROUPS = ("model", "weights", "dataset", "precision", "generation", "engine", "protocol", "tracking")


def check_override(key: str, value: Any, conf: Path) -> None:
    """Raise SettingError for one `key=value` of the command line: unknown key, unknown choice, bad value."""
    if key in GROUPS:
        options = choices(key, conf)
        if value not in options:
            raise SettingError(f"unknown {key} {value!r}; {suggest(str(value), options)}")
        return
    hints = every_key()
    if key not in hints:
        raise SettingError(f"unknown setting {key!r}; {suggest(key, [*hints, *GROUPS])}")
    errors = []
    for hint in hints[key]:
        try:
            value_of(hint, value, key)
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
    settings = {item.name: "???" if item.default is MISSING else plain(item.default) for item in _fields(group, name)}
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
            values[item.name] = value_of(hints[item.name], _from_text(hints[item.name], params[key]), key)
        elif item.default is MISSING:
            raise SettingError(f"{key} is missing: the run does not say it")
    return kind(**values)


def _fields(group: str, name: str) -> tuple[Any, ...]:
    return fields(plugins.find(group, name).Settings)


def _from_text(hint: Any, text: str) -> Any:
    """A value that `str` wrote."""
    members = [typing.get_args(part)[0] if typing.get_origin(part) is Annotated else part for part in members_of(hint)]
    if text == "None" and type(None) in members:
        return None
    if bool in members and text in ("True", "False"):
        return text == "True"
    if any(typing.get_origin(member) is tuple for member in members):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):  # reported by the setting's own check
            return text
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
    options = options_of(typing.get_type_hints(Config, include_extras=True).get(group))
    owners = [choice for choice, member in options.items() if name in [item.name for item in fields(member)]]
    return f"{group}={'|'.join(owners)}" if owners and len(options) > 1 else None


def is_text(key: str) -> bool:
    """Whether a setting holds free text."""
    return any(plain_type(member) is str for hint in every_key().get(key, []) for member in members_of(hint))


def canonical(word: str) -> str:
    """An override of the command line with its numbers written in one way: `temperature=0,1` and `temperature=0.0,1.0`
    are the same; any other stays as it is."""
    key, equals, values = word.partition("=")
    kinds = {plain_type(member) for hint in every_key().get(key.lstrip("+"), []) for member in members_of(hint)}
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


@cache
def every_key(kind: Any = Config, path: str = "") -> dict[str, list[Any]]:
    """Every dotted key of the schema, with what each option of its group asks for."""
    found_keys: dict[str, list[Any]] = {}
    hints = typing.get_type_hints(kind, include_extras=True)
    for name in (item.name for item in fields(kind)):
        options = options_of(hints[name]) if plugin_of(hints[name]) else {}
        groups = list(options.values()) or groups_of(hints[name])
        for group in groups:
            for key, hints_of_key in every_key(group, f"{path}{name}.").items():
                found_keys.setdefault(key, []).extend(hints_of_key)
        if options:
            found_keys[f"{path}{name}.name"] = [Literal[tuple(options)]]
        if not groups:
            found_keys.setdefault(f"{path}{name}", []).append(hints[name])
    return found_keys
