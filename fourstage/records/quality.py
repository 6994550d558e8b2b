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
    scored = [record for record in records if record.ok and record.reference.strip()]
    if not scored:
        return {}
    found: dict[str, float] = {}
    for record in scored:
        for name, score in scores(record).items():
            found[name] = found.get(name, 0.0) + score
    means = {f"quality.{name}": total / len(scored) for name, total in found.items()}
    return means | {"quality.references": float(len(scored))}


def scores(record: SampleRecord) -> dict[str, float]:
    """Each metric's score of one answer, under its plugin's name; nothing where it failed or has no reference."""
    if not (record.ok and record.reference.strip()):
        return {}
    return {
        name: float(plugins.find("quality", name).score(record.output or "", record.reference))
        for name in plugins.names("quality")
    }
