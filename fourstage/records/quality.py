"""How near the answers are to their references; texts alone, whatever model wrote them.

chrF (Popović 2015, sacrebleu's implementation) is 0 to 100: the F-score of character n-grams, with no tokenizer of
its own to disagree about. Samples without a reference are left out and counted.

    quality(records)         # {"quality.chrf": 41.2, "quality.references": 60}
"""

from __future__ import annotations

from collections.abc import Iterable

from fourstage.stages import SampleRecord


def quality(records: Iterable[SampleRecord]) -> dict[str, float]:
    """Mean chrF over successful samples with a reference, and their number; nothing where there is none."""
    pairs = [(record.output or "", record.reference) for record in records if record.ok and record.reference.strip()]
    if not pairs:
        return {}
    from sacrebleu.metrics import CHRF

    score = CHRF().sentence_score
    scores = [score(output, [reference]).score for output, reference in pairs]
    return {"quality.chrf": sum(scores) / len(scores), "quality.references": float(len(pairs))}
