"""ROUGE-L (Lin 2004, Google's rouge-score), 0 to 100: the F-measure of the longest common subsequence of words.

score("A red car.", "A red van.")     # 66.7
"""

from __future__ import annotations

from functools import cache
from typing import Any

from fourstage.lazy import lazy

rouge = lazy("rouge_score.rouge_scorer")


def score(output: str, reference: str) -> float:
    """How near one answer is to its reference; 100: the same words in the same order."""
    return 100 * float(_metric().score(reference, output)["rougeL"].fmeasure)


@cache
def _metric() -> Any:
    return rouge.RougeScorer(["rougeL"])
