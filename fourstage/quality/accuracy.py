"""Attribute accuracy, 0 to 100: the share of the facts that an answer was asked for, or states, that are true.

Of samples whose dataset gives `attributes` as the demo's scenes have them; `answers/facts.py` has the rules. It needs
no reference. An empty answer, a repeated one and a copy of the question score 0.
"""

from __future__ import annotations

from fourstage.answers.facts import check
from fourstage.json_text import parse_json
from fourstage.stages import SampleRecord, UserError

KEYS = {"time", "road", "vehicles", "people", "light"}  # of a demo scene's attributes


def score_record(record: SampleRecord) -> float | None:
    """The accuracy of one answer; None where its sample has no such attributes or no rule knows the question."""
    found = facts_of(record)
    return 100 * sum(found.values()) / len(found) if found else None


def facts_of(record: SampleRecord) -> dict[str, bool]:
    """Each fact that was asked or stated, and whether the answer has it right."""
    if not record.attributes:
        return {}
    try:
        attributes = parse_json(record.attributes)
        if not isinstance(attributes, dict) or attributes.keys() < KEYS:
            return {}
        return check(record.question or "", record.output or "", attributes)
    except (UserError, KeyError, TypeError, AttributeError):  # another dataset's attributes
        return {}
