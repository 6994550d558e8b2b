"""How good the answers are; texts alone, whatever model wrote them.

Each metric is a file of `fourstage/quality/`, or of another package (`plugins.py`). A metric that compares with a
reference has `score(output, reference)`; one that needs more of the sample has `score_record(record)`. A sample without
what a metric needs is left out of it, never 0.

    quality(records)         # {"quality.chrf": 41.2, "quality.accuracy": 93.1, "quality.references": 60}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fourstage import plugins
from fourstage.records.figures import QUALITY
from fourstage.stages import SampleRecord

STORED = {figure.name.removeprefix("quality."): figure.field for figure in QUALITY}  # metric → field of a record


def quality(records: Iterable[SampleRecord]) -> dict[str, float]:
    """Each metric's mean over the successful samples that it scores, the accuracy of each fact, and the number of
    references; nothing where no sample is scored."""
    found: dict[str, list[float]] = {}
    references = 0
    for record in records:
        references += record.ok and bool(record.reference.strip())
        for name, score in (scores(record) | fact_scores(record)).items():
            found.setdefault(name, []).append(score)
    means = {f"quality.{name}": sum(values) / len(values) for name, values in found.items()}
    return means | ({"quality.references": float(references)} if references else {})


def scores(record: SampleRecord) -> dict[str, float]:
    """Each metric's score of one answer, under its plugin's name; nothing where it failed or cannot be scored."""
    if not record.ok:
        return {}
    found: dict[str, float] = {}
    for name in plugins.names("quality"):
        if name in STORED and (stored := getattr(record, STORED[name])) is not None:
            found[name] = stored
            continue
        metric = plugins.find("quality", name)
        if hasattr(metric, "score_record"):
            if (score := metric.score_record(record)) is not None:
                found[name] = float(score)
        elif record.reference.strip():
            found[name] = float(metric.score(record.output or "", record.reference))
    return found


def stored_scores(record: SampleRecord) -> Mapping[str, float]:
    """The scores that a record has fields for, by their names."""
    if not (record.ok and (record.reference.strip() or record.attributes or record.options)):
        return {}
    return {STORED[name]: score for name, score in scores(record).items() if name in STORED}


def fact_scores(record: SampleRecord) -> dict[str, float]:
    """`accuracy.<fact>`: 100 or 0 for each fact that an answer about a demo scene was asked for, or states."""
    if not (record.ok and record.attributes):
        return {}
    from fourstage.quality.accuracy import facts_of

    return {f"accuracy.{fact}": 100.0 * true for fact, true in facts_of(record).items()}
