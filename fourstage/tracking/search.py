"""MLflow's search language with dotted names as people write them, and texts quoted for it.

    params.model.name = "videollava" and metrics.total_s.median < 2
    params.`model.name` = "videollava" and metrics.`total_s.median` < 2     # what MLflow reads
    equals("attributes.run_name", "it's")                                   # attributes.run_name = "it's"

Left out: the search (`reader.py`), and whether what is asked for makes sense, which MLflow says.
"""

from __future__ import annotations

import re

# what is in quotes stays; else an entity and the name behind it, up to a space or an operator
_TOKENS = re.compile(
    r"""'[^']*'|"[^"]*"|`[^`]*`|\b(?P<entity>params?|parameters?|metrics?|tags?)\.(?P<name>[^\s=!<>`'"(),]+)""",
    re.IGNORECASE,
)


def quote_names(filter: str) -> str:
    """The filter with every name behind `params.`, `metrics.` and `tags.` in the backquotes that MLflow needs."""

    def quoted(match: re.Match[str]) -> str:
        return match[0] if match["name"] is None else f"{match['entity']}.`{match['name']}`"

    return _TOKENS.sub(quoted, filter)


def equals(field: str, text: str) -> str:
    """The condition that a field is `text`. MLflow's language has no escape: a text with both kinds of quotes becomes a
    pattern that finds others too, so compare what it finds (`reader.find_equal` does)."""
    if "'" not in text:
        return f"{field} = '{text}'"
    if '"' not in text:
        return f'{field} = "{text}"'
    pattern = re.sub(r"['\\]", "_", text)  # one character, whichever; databases differ on what a backslash means
    return f"{field} LIKE '{pattern}'"
