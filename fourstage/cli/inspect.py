"""Show what flows between the stages, read from the tensors of one real sample.

    fourstage inspect model=eventgpt sample=demo_day_00/000000.npy out=tensors.npz
    fourstage inspect model=videollava media=clip.mp4 prompt="How many cars?" format=markdown

Beside the settings of a run it takes `sample` (id or key; the first one by default), `media` (a file in place of
a dataset), `out` (an .npz file for the tensors) and `format` (table, markdown). Times come from a pass without
hooks, after a warm-up; the inner tensors from one more pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fourstage.cli.command import run_command
from fourstage.config.schema import check
from fourstage.config.values import SettingError, suggest
from fourstage.paths import path_of

WORDS = {"sample": "", "media": "", "out": "", "format": "table"}
FORMATS = ("table", "markdown")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""

    def command(given: Sequence[str]) -> int:
        from fourstage.config.compose import compose
        from fourstage.runs.inspection import inspect, print_markdown, print_table, save_tensors

        own, overrides = _divided(given)
        out = _file_to_write(own["out"]) if own["out"] else None
        inspection = inspect(check(compose(overrides)), own["sample"], own["media"])
        print_markdown(inspection) if own["format"] == "markdown" else print_table(inspection)
        if out is not None:
            save_tensors(out, inspection.tensors)
        return 0

    return run_command(__doc__, argv, command)


def _divided(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """This command's own settings, and those of a run. Raises SettingError for an unknown format."""
    own, overrides = dict(WORDS), []
    for text in argv:
        key, _, value = text.partition("=")
        if key in own:
            own[key] = value
        else:
            overrides.append(text)
    if own["format"] not in FORMATS:
        raise SettingError(f"unknown format {own['format']!r}; {suggest(own['format'], list(FORMATS))}")
    return own, overrides


def _file_to_write(out: str) -> Path:
    path = path_of(out, "out")
    if path.suffix != ".npz" or path.is_dir():
        raise SettingError(f"out={out}: expected a name that ends in .npz")
    return path
