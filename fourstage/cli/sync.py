"""Deliver the runs that the store did not take, and end those whose process died.

    fourstage sync                          # every run below mlruns/hydra
    fourstage sync folder=mlruns/hydra/2026-11-24
    fourstage sync tracking.uri=http://me:secret@host      # only what goes there, with this password

Each run is sent from its folder, complete and once, however often this is called. A run whose process was killed is
sent as KILLED with the samples that it had finished; one that still runs is left alone.
Exit codes: 0 everything is delivered; 2 the command cannot be used; 3 the store did not take something.
"""

from __future__ import annotations

from collections.abc import Sequence

from fourstage.cli.command import parse_words, run_command
from fourstage.paths import path_of
from fourstage.stages import UserError

WORDS = {"folder": "mlruns/hydra", "tracking.uri": ""}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""

    def command(words: Sequence[str]) -> int:
        from fourstage.runs.sync import sync

        given = parse_words(words, WORDS)  # a password in tracking.uri is remembered for its store, and taken out
        root = path_of(given["folder"], "folder")
        if not root.is_dir():
            raise UserError(f"no folder {root}: run from the folder in which the runs were made, or give folder=<path>")
        return sync(root, given["tracking.uri"])

    return run_command(__doc__, argv, command)
