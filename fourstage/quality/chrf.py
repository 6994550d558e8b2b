"""chrF (Popović 2015, sacrebleu's implementation), 0 to 100: the F-score of character n-grams.

It has no tokenizer of its own to disagree about.

    score("A red car.", "A red van.")     # 28.5
"""

from __future__ import annotations

from functools import cache
from typing import Any

from fourstage.lazy import lazy

metrics = lazy("sacrebleu.metrics")


def score(output: str, reference: str) -> float:
    """How near one answer is to its reference; 100: the same."""
    found: float = _metric().sentence_score(output, [reference]).score
    return found


@cache
def _metric() -> Any:
    return metrics.CHRF()
