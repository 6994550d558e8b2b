"""MLflow's search language with dotted names as people write them, and texts quoted for it.

    params.model.name = "videollava" and metrics.total_s.median < 2
    params.`model.name` = "videollava" and metrics.`total_s.median` < 2     # what MLflow reads

Left out: the search (`reader.py`), and whether what is asked for makes sense, which MLflow says.
"""

from __future__ import annotations

import re

from fourstage.stages import UserError

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


def quote_text(text: str) -> str:
    """A text as a filter holds it. Raises UserError for one that has both kinds of quotes, which MLflow cannot."""
    if "'" not in text:
        return f"'{text}'"
    if '"' not in text:
        return f'"{text}"'
    raise UserError(f"{text!r} has both kinds of quotes, which MLflow cannot search for; use the run's id")
