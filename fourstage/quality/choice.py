"""Multiple choice, 0 or 100: does an answer take the right option?

Of samples whose dataset gives `options`, a list of texts, and `answer`, the letter of the right one.
"""

from __future__ import annotations

from fourstage.answers.options import LETTERS, chosen
from fourstage.stages import SampleRecord


def score_record(record: SampleRecord) -> float | None:
    """100 for the right option; None where the sample has no options, or none of them is the right one."""
    letter = record.answer.strip().upper()
    if not record.options or letter not in LETTERS[: len(record.options)] or len(letter) != 1:
        return None
    return 100.0 * (chosen(record.output or "", record.options) == letter)
