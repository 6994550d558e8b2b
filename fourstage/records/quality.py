"""How near the answers are to their references; texts alone, whatever model wrote them.

Each metric is a file of `fourstage/quality/`, or of another package (`plugins.py`). Samples without a reference are
left out and counted.

    quality(records)         # {"quality.chrf": 41.2, "quality.references": 60}
"""

from __future__ import annotations

from collections.abc import Iterable

from fourstage import plugins
from fourstage.stages import SampleRecord


def quality(records: Iterable[SampleRecord]) -> dict[str, float]:
    """Each metric's mean over successful samples with a reference, and their number; nothing where there is none."""
    pairs = [(record.output or "", record.reference) for record in records if record.ok and record.reference.strip()]
    if not pairs:
        return {}
    found = {}
    for name in plugins.names("quality"):
        score = plugins.find("quality", name).score
        found[f"quality.{name}"] = sum(score(output, reference) for output, reference in pairs) / len(pairs)
    return found | {"quality.references": float(len(pairs))}
