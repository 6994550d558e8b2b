"""One value against its type: what a setting may be, and the message when it is not.

Left out: which settings exist (`schema.py`) and how they are written on the command line (`keys.py`).

    value_of(Annotated[float, Range(0, 100)], 0.2, "temperature")    # 0.2
    value_of(Annotated[float, Range(0, 100)], -1, "temperature")     # SettingError: temperature=-1: expected a number …
"""

from __future__ import annotations

import difflib
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal

from fourstage import plugins
from fourstage.paths import path_of, shortened
from fourstage.stages import UserError
from fourstage.text import is_storable


class SettingError(UserError):
    """A setting that does not exist, or a value that it cannot have."""


MOST = 2**63 - 1  # the largest seed; a range does not print it


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


def build(kind: Any, tree: Any, path: str) -> Any:
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
        values[item.name] = value_of(hints[item.name], tree[item.name], f"{path}{item.name}")
    return kind(**values)


def value_of(hint: Any, value: Any, path: str) -> Any:
    """`value` as `hint` asks for it. Raises SettingError."""
    if value == "???":
        raise SettingError(f"{path} is missing: give {path}=<value>")
    name = value.get("name") if isinstance(value, Mapping) else None
    if plugin := plugin_of(hint):
        _check_name(name, plugins.names(plugin.kind), path)
        return build(plugins.find(plugin.kind, str(name)).Settings, value, f"{path}.")
    if groups := groups_of(hint):
        options = options_of(hint)
        if len(groups) > 1:
            _check_name(name, options, path)
        return build(options.get(str(name), groups[0]), value, f"{path}.")
    kind, *others = members_of(hint)
    limits: Any = ANY
    if typing.get_origin(kind) is Annotated:
        kind, limits = typing.get_args(kind)
    if value is None and type(None) in others:
        return None
    if typing.get_origin(kind) is Literal:
        choices = [str(choice) for choice in typing.get_args(kind)]
        if value not in choices:
            raise SettingError(f"{path}={shown(value)}: {suggest(str(value), choices)}")
        return value
    if typing.get_origin(kind) is tuple:  # of texts; one alone needs no brackets
        parts = value if isinstance(value, list | tuple) else [value]
        return tuple(_text(part, path, NAME) for part in parts)
    if kind is str:
        return _text(value, path, limits)
    if not _fits(kind, value) or (kind in (int, float) and value not in limits):
        words = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise SettingError(f"{path}={shown(value)}: expected {words}{limits}")
    return value + 0.0 if kind is float else kind(value)  # -0.0 + 0.0 is 0.0


def _text(value: Any, path: str, limits: Any) -> str:
    """A free text, a name or a path. Raises SettingError."""
    # of an interpolation or a YAML file: on the command line it is a text (compose.quote_where_needed)
    if _fits(float, value):
        value = str(value)
    if not isinstance(value, str):
        raise SettingError(
            f"{path}={shown(value)}: expected a text{'; put it in quotes' * isinstance(value, bool | float)}"
        )
    if not is_storable(value):
        raise SettingError(f"{path}={shown(value)}: expected a text in UTF-8")
    if limits == NAME and (not value.strip() or not value.isprintable()):
        raise SettingError(f"{path}={shown(value)}: expected a name of printable characters in one line")
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


def shown(value: Any) -> str:
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


def plugin_of(hint: Any) -> Plugin | None:
    """The mark of a setting whose options are plugins."""
    marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    return next((mark for mark in marks if isinstance(mark, Plugin)), None)


def options_of(hint: Any) -> dict[str, Any]:
    """The dataclasses that a group of settings can be, by their `name`; {} where it is no group with options."""
    if plugin := plugin_of(hint):
        return {name: plugins.find(plugin.kind, name).Settings for name in plugins.names(plugin.kind)}
    by_name = {
        name: group for group in groups_of(hint) for name in typing.get_args(typing.get_type_hints(group)["name"])
    }
    return {name: group for name, group in by_name.items() if isinstance(name, str)}


def plain_type(hint: Any) -> Any:
    """The type without its annotation."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def members_of(hint: Any) -> tuple[Any, ...]:
    """The parts of a union; a plain type is one part."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def groups_of(hint: Any) -> list[Any]:
    """The dataclasses that a setting can be, where it is a group of settings."""
    return [member for member in members_of(hint) if is_dataclass(member)]
