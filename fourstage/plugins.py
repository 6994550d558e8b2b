"""What can be added in one file: models, dataset formats, engines and quality metrics, found by name.

Those that are shipped are modules of one package each: `fourstage/models/eventgpt.py` is `model=eventgpt`. Those of
another package are named by an entry point, whose group is in GROUPS and whose value is the module:

    [project.entry-points."fourstage.models"]
    llava = "llava_for_fourstage.llava"

A module says what it brings under fixed names, which `docs/extending.md` explains. It is imported to learn its
settings, so it imports what is heavy through `fourstage.lazy`.

    names("model")                           # ("eventgpt", "videollava", …)
    find("model", "eventgpt").Model          # the module's class; UserError for an unknown name
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from fourstage.stages import UserError


@dataclass(frozen=True)
class Kind:
    """One kind of plugin."""

    package: str  # whose modules are those that are shipped
    entry_points: str  # the group under which other packages name theirs
    attributes: tuple[str, ...]  # what a module must have


KINDS: Mapping[str, Kind] = {
    "model": Kind("fourstage.models", "fourstage.models", ("Settings", "Model")),
    "dataset": Kind("fourstage.data.formats", "fourstage.datasets", ("Settings", "read")),
    "engine": Kind("fourstage.engines", "fourstage.engines", ("Settings", "Engine")),
    "quality": Kind("fourstage.quality", "fourstage.quality", ()),
}
CHOSEN = ("model", "dataset", "engine")  # by a setting: a shipped one has conf/<kind>/<name>.yaml


def names(kind: str) -> tuple[str, ...]:
    """The names of a kind's plugins, the shipped ones first. Raises UserError where two packages use one name."""
    return tuple(_locations(kind))


def find(kind: str, name: str) -> ModuleType:
    """The module of a plugin. Raises UserError for an unknown name, and for a plugin that cannot be used."""
    locations = _locations(kind)
    if name not in locations:
        near = difflib.get_close_matches(name, locations, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(locations)}"
        raise UserError(f"unknown {kind} {name!r}; {hint}")
    return _load(kind, name)


def conf_folder() -> Path:
    """`conf/`: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def forget() -> None:
    """Look for plugins anew: what was installed since the first look is found."""
    _locations.cache_clear()
    _load.cache_clear()


@cache
def _locations(kind: str) -> dict[str, str | EntryPoint]:
    """Name → the shipped module's name, or the entry point of another package."""
    package = KINDS[kind].package
    if kind in CHOSEN:
        shipped = sorted(path.stem for path in (conf_folder() / kind).glob("*.yaml"))
    else:
        shipped = [module.name for module in pkgutil.iter_modules(import_module(package).__path__)]
    found: dict[str, str | EntryPoint] = {name: f"{package}.{name}" for name in shipped}
    for point in sorted(entry_points(group=KINDS[kind].entry_points), key=lambda point: point.name):
        taken = found.get(point.name)
        used_by = taken.value if isinstance(taken, EntryPoint) else taken
        if used_by not in (None, point.value):
            raise UserError(
                f"two {kind}s are called {point.name!r}: {used_by} and {point.value} of {_distribution(point)}; "
                "uninstall one of them"
            )
        found[point.name] = point
    return found


@cache
def _load(kind: str, name: str) -> ModuleType:
    location = _locations(kind)[name]
    if isinstance(location, str):
        return import_module(location)
    whose = f"the {kind} {name!r} of {_distribution(location)} ({location.value})"
    try:
        module = import_module(location.module)
    except Exception as error:  # whatever another package's code raises
        raise UserError(
            f"{whose} cannot be imported: {type(error).__name__}: {error}; mend or uninstall that package"
        ) from error
    if missing := [attribute for attribute in KINDS[kind].attributes if not hasattr(module, attribute)]:
        raise UserError(f"{whose} has no {missing[0]}; docs/extending.md says what a {kind} needs")
    return module


def files_of_others() -> list[Path]:
    """The source files of the models, formats and engines that other packages bring, unimported."""
    origins = set[str]()
    for kind in CHOSEN:
        for location in _locations(kind).values():
            if isinstance(location, EntryPoint) and (spec := find_spec(location.module)) and spec.origin:
                origins.add(spec.origin)
    return sorted(map(Path, origins))


def _distribution(point: EntryPoint) -> str:
    """The package that brings an entry point."""
    return point.dist.name if point.dist else "an unknown package"
