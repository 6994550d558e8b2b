"""Which option of a multiple choice an answer takes: by its letter, or by the option's own words.

chosen("B) two", ("one", "two", "three"))                # "B"
chosen("There are two.", ("one", "two", "three"))        # "B"
chosen("A or B", ("one", "two", "three"))                # "": more than one is none
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def chosen(answer: str, options: Sequence[str]) -> str:
    """The letter of the option that an answer takes; "" where it takes none, or more than one."""
    letters = LETTERS[: len(options)]
    text = answer.strip()
    if not text:
        return ""
    found = set(re.findall(rf"(?:^|[\s(])([{letters}])[).:]", text))
    if alone := re.fullmatch(rf"\(?([{letters}])[).:]?", text):
        found.add(alone[1])
    if len(found) == 1:
        return str(found.pop())
    if found:
        return ""
    said = _words(text)
    named = [letter for letter, option in zip(letters, options, strict=False) if _words(option) in said]
    return named[0] if len(named) == 1 else ""


def _words(text: str) -> str:
    """The words of a text in lower case, a space on both sides."""
    return f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "
