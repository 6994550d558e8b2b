"""Studies: named sweeps in `experiments/`, each one YAML file that opens with its question and its command.

A study file is a part of the composition (`+experiments=NAME`) that carries its own sweep under
`hydra.sweeper.params`. Here it is found and read, not run: shipped ones lie in `conf/experiments`, a user's own in
`experiments/` of the folder that he is in.

    study = find_study("event_vs_video", [conf_folder() / "experiments"])
    study.question, study.command, study.params["model"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourstage.config.values import SettingError, suggest

GROUP = "experiments"


@dataclass(frozen=True)
class Study:
    """A named sweep."""

    name: str
    path: Path
    question: str  # the comment that the file opens with, in one line
    command: str
    params: Mapping[str, str]  # what it sweeps: setting → its values as on the command line


def find_study(name: str, folders: Sequence[Path]) -> Study:
    """The study of that name in one of the folders. Raises SettingError where none has it, or two have."""
    found = {path.resolve(): path for folder in folders if (path := folder / f"{name}.yaml").is_file()}
    if len(found) > 1:  # Hydra would silently take the first
        first, second, *_ = found.values()
        raise SettingError(f"two studies are called {name!r}: {first} and {second}; rename the second, your own")
    if not found:
        known = list_studies(folders)
        raise SettingError(f"unknown experiment {name!r}; {suggest(name, known) if known else 'there are none'}")
    (path,) = found.values()
    return read_study(path)


def list_studies(folders: Sequence[Path]) -> list[str]:
    """The names of all studies, sorted."""
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def read_study(path: Path) -> Study:
    """The study in a file. Raises SettingError where its name, its package line or what it sweeps is missing."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    text = path.read_text(encoding="utf-8")
    try:
        tree = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except YAMLError as error:
        raise SettingError(f"{path} is no YAML: {' '.join(str(error).split())}; mend it") from error
    if not text.startswith("# @package _global_\n"):
        raise SettingError(f"{path}: expected '# @package _global_' as its first line, so that its keys are settings")
    if not isinstance(tree, dict) or tree.get("study") != path.stem:
        raise SettingError(f"{path}: expected the line 'study: {path.stem}', so that its runs say what they belong to")
    params = _params(tree)
    if not params:
        raise SettingError(f"{path}: expected what it sweeps under hydra: sweeper: params:, such as 'model: a,b'")
    lines = []
    for line in text.splitlines()[1:]:
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return Study(
        name=path.stem,
        path=path,
        question=" ".join(line for line in lines if line and not line.startswith("python ")),
        command=next((line for line in lines if line.startswith("python ")), command(path.stem)),
        params=params,
    )


def command(name: str) -> str:
    """What runs a study."""
    return f"fourstage run -m +{GROUP}={name}"


def _params(tree: Mapping[Any, Any]) -> dict[str, str]:
    """`hydra.sweeper.params`, each value as the command line writes it."""
    found: Any = tree
    for key in ("hydra", "sweeper", "params"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return {str(key): _written(value) for key, value in found.items()} if isinstance(found, Mapping) else {}


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
