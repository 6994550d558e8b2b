"""A comparison as `compare.json`: every figure for machines, the same bytes for the same runs.

What is not a number, or has no limit, is null: JSON has no NaN. docs/compare.md says what each key holds. Left out:
texts, which records.parquet has, and files.

    text = as_json(document("night", [("", comparison)]))
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fourstage.comparison.answer import Answer
from fourstage.comparison.attribution import Attribution
from fourstage.comparison.effects import Comparison, Pairwise, Row, Unpaired
from fourstage.comparison.findings import Finding
from fourstage.comparison.gate import Gate
from fourstage.comparison.run_data import RunData, StageFacts
from fourstage.report.wording import pair_sentence
from fourstage.stats.intervals import Interval

SCHEMA = "fourstage.compare/1"  # a change that breaks a reader gets a new number


def document(
    name: str,
    comparisons: Sequence[tuple[str, Comparison]],
    findings: Sequence[Finding] = (),
    left_out: Sequence[Mapping[str, str]] = (),
    notes: Sequence[str] = (),
    question: str = "",
    command: str = "",
    excluded: Sequence[str] = (),
    gate: Gate | None = None,
    answers: Sequence[Answer] = (),
) -> dict[str, Any]:
    """All of it as plain values; comparisons with the label of their group, and their answer from `answers`."""
    judged = gate or Gate()
    said: list[dict[str, Any] | None] = [_answer(one) for one in answers] or [None] * len(comparisons)
    return {
        "schema": SCHEMA,
        "name": name,
        "question": question,
        "command": command,
        "comparisons": [
            {"label": label, **_comparison(found), "answer": one}
            for (label, found), one in zip(comparisons, said, strict=True)
        ],
        "findings": [
            {"question": item.question, "answer": item.answer, "measured": item.measured} for item in findings
        ],
        "left_out": [dict(item) for item in left_out],
        "excluded": list(excluded),
        "notes": list(notes),
        "gate": {
            "fail_on": judged.fail_on,
            "failed": judged.failed,
            "reasons": judged.reasons,
            "unjudged": judged.unjudged,
        },
    }


def as_json(found: Mapping[str, Any]) -> str:
    """One line of strict JSON."""
    return json.dumps(_finite(found), allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    return value


def _comparison(found: Comparison) -> dict[str, Any]:
    return {
        "baseline": found.runs[found.baseline].run_id,
        "margin": found.margin,
        "alpha": found.alpha,
        "level": found.level,
        "resamples": found.resamples,
        "runs": [_run(run, facts) for run, facts in zip(found.runs, found.facts, strict=True)],
        "settings": [{"name": item.name, "values": item.values} for item in found.settings],
        "pairs": [compared(pair) for pair in found.pairs],
    }


def _answer(found: Answer) -> dict[str, Any]:
    return {
        "settings": found.settings,
        "skipped": found.skipped,
        "factors": [
            {
                "setting": one.effect.name,
                "level": one.effect.level,
                "reference": one.effect.reference,
                "ratio": {
                    "estimate": one.effect.effect.ratio,
                    "low": one.effect.effect.low,
                    "high": one.effect.effect.high,
                },
                "text": one.judgement.text,
                "verdict": str(one.judgement.verdict),
                "p_value": one.judgement.p_value,
                "detectable_ratio": one.judgement.detectable_ratio,
                "matches": one.effect.matches,
                "depends_on": one.effect.depends_on,
            }
            for one in found.factors
        ],
        "ranking": [
            {
                "run_id": place.run.run_id,
                "label": place.label,
                "ratio_to_fastest": place.ranked.ratio,
                "rank": place.ranked.rank if place.shown else None,
                "letters": place.ranked.letters if place.shown else None,
            }
            for place in found.ranking
        ],
        "invalid": [run.run_id for run in found.invalid],
    }


def _run(run: RunData, facts: Sequence[StageFacts]) -> dict[str, Any]:
    measured = run.columns.measured
    return {
        "run_id": run.run_id,
        "name": run.logged_name or run.name,
        "label": run.name,
        "valid": run.valid,
        "checks_failed": run.checks_failed,
        "checks_warned": run.checks_warned,
        "records": len(measured),
        "records_failed": len(measured) - len(measured.done),
        "dataset_hash": run.tags.get("fourstage.dataset_hash"),
        "code_hash": run.tags.get("fourstage.code_hash"),
        "machine": run.tags.get("fourstage.machine"),
        "stages": {
            item.stage: {
                "operation": item.operation,
                "sources": item.sources,
                "images": item.images,
                "bytes_read": item.bytes_read,
                "visual_tokens": item.visual_tokens,
                "cached": item.cached,
            }
            for item in facts
        },
    }


def compared(pair: Pairwise) -> dict[str, Any]:
    """A pair of runs as JSON: figures with intervals, and which samples did not pair."""
    return {
        "baseline": pair.baseline_id,
        "target": pair.target_id,
        "target_name": pair.target_name,
        "n": pair.n,
        "clusters": pair.clusters,
        "replicates": {"baseline": pair.replicates[0], "target": pair.replicates[1]},
        "unpaired": {
            "only_baseline": _unpaired(pair.only_baseline),
            "only_target": _unpaired(pair.only_target),
            "failed_baseline": _unpaired(pair.failed_baseline),
            "failed_target": _unpaired(pair.failed_target),
        },
        "verdict": str(pair.verdict),
        "detectable_ratio": pair.detectable_ratio,
        "rows": [_row(row) for row in pair.rows],
        "shares": {share.stage: {"baseline": share.baseline, "target": share.target} for share in pair.shares},
        "bottleneck": {"baseline": pair.bottleneck_baseline, "target": pair.bottleneck_target},
        "cached": {"baseline": pair.cached_baseline, "target": pair.cached_target},
        "cache_fill_s": {"baseline": pair.cache_fill_baseline_s, "target": pair.cache_fill_target_s},
        "settings": [item.name for item in pair.settings],
        "sentence": pair_sentence(pair),
        "attribution": _attribution(pair.attribution),
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "unit": row.unit,
        "n": row.n,
        "baseline": {"median": row.baseline_median, "mean": row.baseline_mean, "cached": row.baseline_cached},
        "target": {"median": row.target_median, "mean": row.target_mean, "cached": row.target_cached},
        "difference": _interval(row.difference),
        "ratio": _interval(row.ratio),
        "text": row.text,
        "verdict": str(row.verdict) if row.verdict is not None else None,
        "p_value": row.p_value,
        "detectable_ratio": row.detectable_ratio,
    }


def _attribution(found: Attribution | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "n": found.n,
        "left_out": found.left_out,
        "baseline_s": found.baseline_s,
        "target_s": found.target_s,
        "gap_s": _interval(found.gap),
        "ratio": _interval(found.ratio),
        "factors": [
            {
                "name": factor.name,
                "contribution_s": _interval(factor.contribution),
                "share": factor.share,
                "log_share": factor.log_share,
                "cached": factor.cached,
            }
            for factor in found.factors
        ],
        "missing": found.missing,
    }


def _interval(found: Interval) -> dict[str, float]:
    return {"estimate": found.estimate, "low": found.low, "high": found.high}


def _unpaired(found: Unpaired) -> dict[str, Any]:
    return {"count": found.count, "first": found.first}
