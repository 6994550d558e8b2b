"""`key=value` words of the commands that Hydra does not compose.

parse_words(["sweep=night"], {"sweep": "", "uri": "sqlite:///mlruns/mlflow.db"})
# {"sweep": "night", "uri": "sqlite:///mlruns/mlflow.db"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fourstage.config import SettingError, suggest


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
