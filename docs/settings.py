"""Write docs/settings.md: every setting of conf/ with its meaning and its value in each option.

    python docs/settings.py

The meanings are the comments of conf/. A key without a comment is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONF, PAGE = ROOT / "conf", ROOT / "docs" / "settings.md"
GLOBAL = "# @package _global_"  # a file with this line sets top-level keys: temperature, not generation.temperature
LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?P<value>[^#]*)(?:#(?P<meaning>.*))?$")

HEAD = """\
# Settings

Every setting of a run: `key=value` on the command line of `fourstage run`. Quotes, free text and paths are explained in
[Running](running.md). `fourstage run --help` prints the choices and defaults, `--cfg job` what a command composes.

A *choice* is `group=option` and selects a file of `conf/`: `model=videollava`, `protocol=strict`. Its keys can be set:
`model.frames=16`, `protocol.repeats=3`. The options of a choice are the columns below.
`???` has no default and must be given; `null` is explained with the key.

<!-- Written by docs/settings.py from the comments in conf/: change those. -->
"""


@dataclass(frozen=True)
class Setting:
    """One key of a file of conf/: its dotted name, its value as written, and its comment."""

    key: str
    value: str
    meaning: str


def settings_of(path: Path, prefix: str = "") -> Iterator[Setting]:
    """The settings in a file of conf/. Raises ValueError for a key without a comment."""
    outer = prefix
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found = LINE.match(line)
        if not found:
            if re.match(r"^\S", line):
                outer = prefix
            continue
        key, value, meaning = found["key"], found["value"].strip(), (found["meaning"] or "").strip()
        if not found["indent"]:
            outer = prefix
        elif outer in ("defaults.", "hydra."):
            continue
        if not value:  # a mapping
            outer = f"{key}."
            continue
        if key == "name" and prefix:  # the option itself
            continue
        if not meaning:
            raise ValueError(f"{path}:{number}: {key} has no comment; say its unit and meaning")
        yield Setting(outer + key, value, meaning)


def groups() -> list[str]:
    """The choices, in the order of the defaults list."""
    text = (CONF / "config.yaml").read_text(encoding="utf-8")
    return [group for group in re.findall(r"^  - (\w+):", text, re.MULTILINE) if (CONF / group).is_dir()]


def options(group: str) -> list[Path]:
    """The files of a group."""
    return sorted((CONF / group).glob("*.yaml"))


def all_settings() -> Iterator[Setting]:
    """Every setting of every option."""
    yield from settings_of(CONF / "config.yaml")
    for group in groups():
        for path in options(group):
            yield from settings_of(path, _prefix(path))


def page() -> str:
    """The text of docs/settings.md."""
    parts = [HEAD, "## Top level\n", _table(["default"], [list(settings_of(CONF / "config.yaml"))])]
    for group in groups():
        found = options(group)
        parts.append(f"## {group}\n")
        parts.append("\n".join(f"- `{group}={path.stem}`: {_title(path)}" for path in found) + "\n")
        columns = [list(settings_of(path, _prefix(path))) for path in found]
        parts.append(_table([f"`{path.stem}`" for path in found] if len(found) > 1 else ["default"], columns))
    return "\n".join(parts)


def _prefix(path: Path) -> str:
    return "" if GLOBAL in path.read_text(encoding="utf-8").splitlines() else f"{path.parent.name}."


def _title(path: Path) -> str:
    """The comment at the top of a file of conf/."""
    lines = [line.removeprefix("#").strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return next(line for line in lines if not line.startswith("@package"))


def _table(headings: Sequence[str], columns: Sequence[Sequence[Setting]]) -> str:
    """Keys in rows, options in columns; a key that an option lacks is empty there."""
    meanings: dict[str, dict[str, list[str]]] = {}  # key → meaning → options that state it
    for heading, column in zip(headings, columns, strict=True):
        for setting in column:
            meanings.setdefault(setting.key, {}).setdefault(setting.meaning, []).append(heading)
    values = [{setting.key: f"`{setting.value}`" for setting in column} for column in columns]
    lines = [f"| setting | {' | '.join(headings)} | meaning |", "|---|" + "---|" * len(headings) + "---|"]
    for key, stated in meanings.items():
        shown = " | ".join(column.get(key, "") for column in values)
        meaning = "<br>".join(
            text if len(stated) == 1 else f"{', '.join(where)}: {text}" for text, where in stated.items()
        )
        lines.append(f"| `{key}` | {shown} | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
