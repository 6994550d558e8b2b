"""Put an old result file into the store: one run for each model of the file, with the checks of a new run.

fourstage ingest file=results.json              # then fourstage compare
fourstage ingest file=results.json unit=ms      # where the file does not show the unit of its times
fourstage ingest file=results.json uri=http://host:5000 experiment=old name=march

fourstage/legacy/layouts.py lists the layouts that can be read. `name` replaces the file's in the names of the runs. A
file that is in the store already is left alone, unless `again=true`. Exit codes: 0 the runs are there; 1 a model of
the file has no result, or recording failed; 2 the command or the file cannot be used; 130 after Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Sequence

from fourstage.cli.command import parse_words, run_command
from fourstage.exit_codes import FAILED, INTERRUPTED
from fourstage.text import say

WORDS = {
    "file": "",
    "unit": "",
    "uri": "sqlite:///mlruns/mlflow.db",
    "experiment": "fourstage",
    "name": "",
    "again": "false",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""

    def command(words: Sequence[str]) -> int:
        from fourstage.legacy.ingest import ingest
        from fourstage.legacy.layouts import NoResultsError

        try:
            return ingest(parse_words(words, WORDS))
        except NoResultsError as error:
            say(f"error: {error}")
            return FAILED
        except KeyboardInterrupt:
            say("error: interrupted")
            return INTERRUPTED

    return run_command(__doc__, argv, command)
