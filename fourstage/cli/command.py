"""The commands beside `run`: their help, their `key=value` words, their errors in one line.

parse_words(["sweep=night"], {"sweep": "", "uri": "sqlite:///mlruns/mlflow.db"})
# {"sweep": "night", "uri": "sqlite:///mlruns/mlflow.db"}
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from fourstage.config.schema import SettingError, suggest
from fourstage.stages import UserError

UNUSABLE = 2


def run_command(help: str | None, argv: Sequence[str] | None, command: Callable[[Sequence[str]], int]) -> int:
    """The exit code of a command on its words: its help where that is asked for; 2 for what the user can mend."""
    words = sys.argv[1:] if argv is None else argv
    if any(word in ("-h", "--help") for word in words):
        print(help)
        return 0
    try:
        return command(words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return UNUSABLE


def parse_words(argv: Sequence[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The words over their defaults. Raises SettingError for a word without `=` or an unknown key."""
    words = dict(defaults)
    for word in argv:
        key, equals, value = word.partition("=")
        if not equals:
            raise SettingError(f"{word!r} is no setting: expected key=value with one of {', '.join(defaults)}")
        if key not in words:
            raise SettingError(f"unknown setting {key!r}; {suggest(key, list(defaults))}")
        words[key] = value
    return words
