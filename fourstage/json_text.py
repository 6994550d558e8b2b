"""JSON that somebody else wrote: each fault in one line, and nothing in it that could be read in two ways.

    parse_json('{"id": 1, "id": 2}')    # UserError: the key 'id' is twice in the same object, at the top; …

Left out: what the values mean, which the caller knows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from fourstage.stages import UserError
from fourstage.text import one_line


def parse_json(text: str) -> Any:
    """The value that the text holds; a byte order mark is passed over.

    Raises UserError for what is no JSON, for a key that an object holds twice, for a number of thousands of digits
    and for nesting that Python cannot follow.
    """
    twice: list[_Twice] = []

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        twice.append(_Twice(pairs))
        return twice[-1]

    try:
        value = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=table)
    except json.JSONDecodeError as error:
        raise UserError(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    except RecursionError as error:
        raise UserError("not JSON that can be read: it is nested too deep") from error
    except ValueError as error:  # Python converts no integer of more than 4,300 digits
        raise UserError("not JSON that can be read: a whole number has thousands of digits") from error
    if twice:
        where, key = next(_search(value, ""))  # the outermost is in the value; what an object lost is inside it
        name = one_line(key if len(key) <= 80 else f"{key[:79]}…")
        raise UserError(f"the key {name!r} is twice in the object at {where or 'the top'}; leave one of them")
    return value


class _Twice(dict[str, Any]):
    """An object that held a key twice."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        self.key = Counter(key for key, _ in pairs).most_common(1)[0][0]


def _search(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Where objects with a key twice are, as `entry 3, 'conversations'[0]`, and the key."""
    waiting = [(value, where)]
    while waiting:
        value, where = waiting.pop()
        if isinstance(value, _Twice):
            yield where, value.key
        if isinstance(value, dict):
            inner = [(item, f"{where}, {key!r}" if where else repr(key)) for key, item in value.items()]
        elif isinstance(value, list):
            inner = [(item, f"{where}[{i}]" if where else f"entry {i}") for i, item in enumerate(value)]
        else:
            continue
        waiting += reversed([(item, place) for item, place in inner if isinstance(item, dict | list)])
