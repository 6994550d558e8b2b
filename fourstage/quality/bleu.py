"""BLEU of one sentence (Papineni et al. 2002, sacrebleu's implementation, effective order), 0 to 100.

score("A red car.", "A red van.")     # 42.7
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
    return metrics.BLEU(effective_order=True)
