"""Texts side by side: what each run answered to the same sample, how far it agrees with the baseline, and where not.

Works on whole records of some samples, which the caller chooses. Left out: how it is shown and escaped, and whether
an answer is right (`quality.py` scores against references).

    rows = compare_texts([("eventgpt", records), ("videollava", others)])
    rows[0].answers[1].spans    # (Span("A red ", "same"), Span("car", "removed"), Span("truck", "added"), ...)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from fourstage.stages import SampleRecord

Kind = Literal["same", "added", "removed"]


@dataclass(frozen=True)
class Span:
    """A piece of text: in both answers, in the target's alone, or in the baseline's alone."""

    text: str
    kind: Kind


@dataclass(frozen=True)
class Agreement:
    """How far an answer is the baseline's."""

    exact: bool  # the same text
    prefix_tokens: int  # ids that both begin with
    prefix_share: float  # of the longer one's ids; 1.0 of two empty ones
    chrf: float  # 0 to 100, the baseline's answer as reference; 100.0 of two equal ones


@dataclass(frozen=True)
class Answer:
    """One run's answer to a sample."""

    run: str  # its name
    prompt: str  # the whole text around the question, with the model's own template
    text: str
    tokens: int | None
    finish_reason: str | None  # "length": cut
    error: str | None  # instead of an answer
    agreement: Agreement | None  # None of the baseline itself, and where one of the two has no answer
    spans: tuple[Span, ...]  # against the baseline's answer; the plain text where there is none


@dataclass(frozen=True)
class TextRow:
    """A sample and what each run made of it, in the order of the runs; None where a run did not measure it."""

    key: str
    question: str
    reference: str  # "": none
    answers: tuple[Answer | None, ...]


def compare_texts(runs: Sequence[tuple[str, Sequence[SampleRecord]]]) -> tuple[TextRow, ...]:
    """Answers of named runs to each sample that the first run, the baseline, measured, in its order.

    Of each sample a run has one record. Token ids are compared as they are: a shared prefix means something only
    between runs with one tokenizer.
    """
    by_key = [{record.key: record for record in records} for _, records in runs]
    names = [name for name, _ in runs]
    rows = []
    for key, base in by_key[0].items():
        found = [records.get(key) for records in by_key]
        answers = tuple(
            None if record is None else _answer(name, record, base if i else None)
            for i, (name, record) in enumerate(zip(names, found, strict=True))
        )
        rows.append(TextRow(key, base.question or "", base.reference, answers))
    return tuple(rows)


def agreement(baseline: SampleRecord, target: SampleRecord) -> Agreement:
    """Of two successful records' outputs."""
    one, other = baseline.output or "", target.output or ""
    ids = [baseline.output_ids, target.output_ids]
    prefix = next((i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b), min(map(len, ids)))
    longest = max(map(len, ids))
    return Agreement(
        exact=one == other,
        prefix_tokens=prefix,
        prefix_share=prefix / longest if longest else 1.0,
        chrf=100.0 if one == other else _chrf(other, one),
    )


def mark(baseline: str, target: str) -> tuple[Span, ...]:
    """The differences by words: `same` and `added` spans make up the target, `same` and `removed` the baseline."""
    one, other = (re.findall(r"\s*(?:\w+|[^\w\s])|\s+", text) for text in (baseline, target))
    spans: list[Span] = []
    for operation, a, b, c, d in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if operation == "equal":
            spans.append(Span("".join(one[a:b]), "same"))
            continue
        if b > a:
            spans.append(Span("".join(one[a:b]), "removed"))
        if d > c:
            spans.append(Span("".join(other[c:d]), "added"))
    return tuple(spans)


def _answer(name: str, record: SampleRecord, base: SampleRecord | None) -> Answer:
    text = record.output or ""
    both = base is not None and base.ok and record.ok
    return Answer(
        run=name,
        prompt=record.prompt or "",
        text=text,
        tokens=record.output_tokens,
        finish_reason=record.finish_reason,
        error=record.error,
        agreement=agreement(base, record) if base is not None and both else None,
        spans=mark(base.output or "", text) if base is not None and both else ((Span(text, "same"),) if text else ()),
    )


def _chrf(output: str, reference: str) -> float:
    from sacrebleu.metrics import CHRF

    return float(CHRF().sentence_score(output, [reference]).score)
