"""The `fourstage` command: one name for everything.

    fourstage model=videollava temperature=0.2       # a run, the same as `fourstage run …`
    fourstage ls model=eventgpt                      # runs and sweeps, newest first
    fourstage ui                                     # MLflow's UI on the store

Each subcommand is a module of this package with `main(argv) -> exit code`, imported when it is asked for, so that
`--help` and completion answer at once. Left out: what the subcommands do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from fourstage.exit_codes import UNUSABLE
from fourstage.text import say
from fourstage.version import __version__

COMMANDS = {  # name → module, what it does
    "run": ("fourstage.cli.run", "measure one configuration, or with -m a sweep of them"),
    "compare": ("fourstage.cli.compare", "compare runs, and write report.html"),
    "aa": ("fourstage.cli.aa", "measure how far processes of one configuration differ"),
    "plan": ("fourstage.cli.plan", "how many replicates and samples will show an effect"),
    "ls": ("fourstage.cli.ls", "list runs and sweeps, newest first"),
    "ui": ("fourstage.cli.ui", "open MLflow's UI on the store"),
    "inspect": ("fourstage.cli.inspect", "show every tensor of one sample, stage by stage"),
    "prepare": ("fourstage.cli.prepare", "make a dataset from DSEC's raw recordings"),
    "ingest": ("fourstage.cli.ingest", "read an old result file into the store"),
    "sync": ("fourstage.cli.sync", "send what the store did not take"),
}
WITH_SETTINGS = ("run", "aa", "plan", "inspect")  # take all settings of a run
QUERY = "query="  # of Hydra's completion: what a shell asks at each Tab


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    first = words[0] if words else ""
    if first == "--version":
        print(f"fourstage {__version__}")
        return 0
    if first in ("-h", "--help", "help"):
        print(overview())
        return 0
    if first in ("-sc", "--shell-completion") and any(word.startswith(QUERY) for word in words):
        return _complete(words)
    if first in COMMANDS:
        return _call(first, words[1:])
    if first and "=" not in first and not first.startswith(("-", "+", "~")):
        from fourstage.config.values import suggest

        say(f"error: unknown command {first!r}; {suggest(first, list(COMMANDS))}")
        return UNUSABLE
    return _call("run", words)


def overview() -> str:
    """The help: every subcommand with what it does."""
    listed = "\n".join(f"  {name:<9}{what}" for name, (_, what) in COMMANDS.items())
    return (
        "fourstage: where does the time of a multimodal model go?\n\n"
        "  fourstage model=videollava temperature=0.2          a run: choices and settings as key=value\n"
        "  fourstage -m model=eventgpt,videollava              a sweep: every combination\n"
        "  fourstage <command> …\n\n"
        f"{listed}\n\n"
        "fourstage <command> --help explains a command; fourstage run --help lists every choice and setting.\n"
        'Completion for this shell: eval "$(fourstage -sc install=bash)"'
    )


def _call(command: str, words: Sequence[str]) -> int:
    code: int = import_module(COMMANDS[command][0]).main(words)
    return code


def _complete(words: Sequence[str]) -> int:
    """Print what can stand at the cursor. Hydra knows a run's settings; the names of the rest are known here."""
    line = os.environ.get("COMP_LINE", "")
    typed = line.split()
    position = len(typed) if line.endswith(" ") else len(typed) - 1  # of the word at the cursor
    command = typed[1] if len(typed) > 1 and position > 1 and typed[1] in COMMANDS else ""
    if command and command != "run":
        module = import_module(COMMANDS[command][0])
        known = getattr(module, "COMPLETED", None) or getattr(module, "WORDS", {})
        print(" ".join(f"{key}=" for key in known))
        if command not in WITH_SETTINGS:
            return 0
    if position <= 1:
        print(" ".join(COMMANDS))
    elif command in WITH_SETTINGS:  # Hydra completes what follows the program's name
        os.environ["COMP_LINE"] = line.replace(f" {command}", "", 1)
    return _call("run", words)
