"""The commands beside `run`: their help, their `key=value` words, their errors in one line.

parse_words(["sweep=night"], {"sweep": "", "uri": "sqlite:///mlruns/mlflow.db"})
# {"sweep": "night", "uri": "sqlite:///mlruns/mlflow.db"}
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from fourstage.config.schema import SettingError, suggest
from fourstage.credentials import take_out
from fourstage.paths import shortened
from fourstage.stages import UserError
from fourstage.text import is_storable, prepare_output, say, say_traceback

FAILED, UNUSABLE = 1, 2


def run_command(help: str | None, argv: Sequence[str] | None, command: Callable[[Sequence[str]], int]) -> int:
    """The exit code of a command on its words: its help where asked; 2 for what the user can mend, 1 for the rest."""
    prepare_output()
    words = sys.argv[1:] if argv is None else argv
    if any(word in ("-h", "--help") for word in words):
        print(help)
        return 0
    try:
        return command(take_out(words))
    except UserError as error:
        say(f"error: {error}")
        return UNUSABLE
    except Exception:  # a fault of ours is told whole
        say_traceback()
        return FAILED


def parse_words(argv: Sequence[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The words over their defaults. Raises SettingError for a word without `=` or an unknown key."""
    words = dict(defaults)
    for word in argv:
        key, equals, value = word.partition("=")
        if not equals:
            expected = f"expected key=value with one of {', '.join(defaults)}"
            raise SettingError(f"{shortened(word)!r} is no setting: {expected}")
        if key not in words:
            raise SettingError(f"unknown setting {shortened(key)!r}; {suggest(key, list(defaults))}")
        if not is_storable(value):
            raise SettingError(f"{key}={shortened(value)!r}: expected text in UTF-8")
        words[key] = value
    return words
