"""The commands beside `run`: their help, their `key=value` settings, their errors in one line.

parse_words(["sweep=night"], {"sweep": "", "uri": "sqlite:///mlruns/mlflow.db"})
# {"sweep": "night", "uri": "sqlite:///mlruns/mlflow.db"}
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from fourstage.config.values import SettingError, suggest
from fourstage.credentials import take_out
from fourstage.exit_codes import FAILED, UNUSABLE
from fourstage.paths import shortened
from fourstage.stages import UserError
from fourstage.text import is_storable, prepare_output, say, say_traceback


def run_command(help: str | None, argv: Sequence[str] | None, command: Callable[[Sequence[str]], int]) -> int:
    """Run a command, or print its help. Gives the exit code: 2 for what the user can mend, 1 for a bug."""
    prepare_output()
    arguments = sys.argv[1:] if argv is None else argv
    if any(argument in ("-h", "--help") for argument in arguments):
        print(help)
        return 0
    try:
        return command(take_out(arguments))
    except UserError as error:
        say(f"error: {error}")
        return UNUSABLE
    except Exception:  # a fault of ours is shown in full
        say_traceback()
        return FAILED


def parse_words(argv: Sequence[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The settings given, over their defaults. Raises SettingError for an argument without `=` or an unknown key."""
    settings = dict(defaults)
    for argument in argv:
        key, equals, value = argument.partition("=")
        if not equals:
            expected = f"expected key=value with one of {', '.join(defaults)}"
            raise SettingError(f"{shortened(argument)!r} is not a setting: {expected}")
        if key not in settings:
            raise SettingError(f"unknown setting {shortened(key)!r}; {suggest(key, list(defaults))}")
        if not is_storable(value):
            raise SettingError(f"{key}={shortened(value)!r}: expected text in UTF-8")
        settings[key] = value
    return settings
