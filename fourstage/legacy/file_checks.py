"""Checks that only a result file needs, for what hand-made files are known to get wrong.

Values that are no measurement, rows that are there twice, answers cut at one length, a time per token that is not its
own quotient.
"""

from __future__ import annotations

from collections.abc import Callable

from fourstage.legacy.reader import LegacyRun
from fourstage.legacy.samples import END_TOKEN, FileFacts
from fourstage.stages import SampleRecord
from fourstage.trust.check import NAMED, Check, Verdict, faults_found
from fourstage.trust.checks.answers import TRUNCATED_LIMIT

QUOTIENT_LIMIT = 0.02  # by how much a file's time per token may differ from its stage by its tokens

SUSPICIOUS_ANSWERS = 3  # this many answers at the maximum length suggest truncation


def successful(run: LegacyRun) -> list[tuple[SampleRecord, FileFacts]]:
    """The records that succeeded, each with its facts."""
    return [(record, facts) for record, facts in zip(run.records, run.facts, strict=True) if record.ok]


def is_quotient(mean_s: float, steps_s: float, tokens: int) -> bool:
    """Whether this is the stage by its tokens, or by its steps, which are one fewer; the unit may be another."""
    return any(
        abs(mean_s * factor * divisor / steps_s - 1) <= QUOTIENT_LIMIT
        for factor in (1.0, 1000.0, 0.001)
        for divisor in (tokens, tokens - 1)
    )


def values_usable(run: LegacyRun) -> Check:
    """Nulls are reported. What no measurement can give, such as a time below 0, shows that the writer is broken."""
    sentence = "no value of the file is missing, and each can be one"
    rows = list(zip(run.records, run.facts, strict=True))
    faults = [f"{record.key}: {record.error}" for record, facts in rows if facts.fault == "value"]
    missing = [f"{record.key}: {record.error}" for record, facts in rows if facts.fault == "missing"]
    verdict: Verdict = "fail" if faults else "warn" if missing else "pass"
    count, what = len(faults) + len(missing), "missing or unusable values"
    return Check("values_usable", sentence, verdict, count, 0, first_few([*faults, *missing]), what, "at most")


def rows_once(run: LegacyRun) -> Check:
    """A measurement made twice has other times; with the same ones it is one, counted twice."""
    sentence = "no measurement is in the file twice"
    seen: set[tuple[str, tuple[float, ...]]] = set()
    twice = []
    for record, facts in successful(run):
        if (record.key, facts.stage_s) in seen:
            twice.append(record.key)
        seen.add((record.key, facts.stage_s))
    return faults_check(run, "rows_once", sentence, twice)


def lengths_differ(run: LegacyRun) -> Check:
    """Many answers of one length, the largest, were cut there: their counts and times are the limit's."""
    name, sentence = "lengths_differ", "answers are not cut at one length"
    counted = [record for record, _ in successful(run) if record.output_tokens is not None]
    if not counted:
        return Check(name, sentence, "not possible", None, None, "no sample has a token count")
    most = max(record.output_tokens or 0 for record in counted)
    cut = [record for record in counted if record.output_tokens == most and not _ended(record)]
    share = len(cut) / len(counted) if len(cut) >= SUSPICIOUS_ANSWERS else 0.0
    verdict: Verdict = "warn" if share > TRUNCATED_LIMIT else "pass"
    detail = f"{len(cut)} of {len(counted)} end at {most} tokens, in the middle of a text" if verdict == "warn" else ""
    what = "of answers end at the largest length, in the middle of a text"
    return Check(name, sentence, verdict, share, TRUNCATED_LIMIT, detail, what, "at most", "share")


def _ended(record: SampleRecord) -> bool:
    """By its end token; without ids, by the end of a sentence."""
    if record.output_ids:
        return record.output_ids[-1] == END_TOKEN
    return record.output is not None and record.output.rstrip().endswith((".", "!", "?", '"', "。"))


def own_quotient(run: LegacyRun) -> Check:
    """A file's time per token is its stage by its tokens."""
    name, sentence = "own_quotient", "the file's time per token is its last stage by its tokens"
    stated = [
        (record, facts, facts.mean_token_s)
        for record, facts in successful(run)
        if facts.mean_token_s is not None and facts.stage_s and record.output_tokens
    ]
    if not stated:
        return Check(name, sentence, "not possible", None, None, "the file has no time per token")
    off = [
        f"{record.key}: {1000 * mean_s:.3g} ms stated, {facts.stage_s[-1]:.3g} s by {record.output_tokens} tokens"
        for record, facts, mean_s in stated
        if not (facts.stage_s[-1] and is_quotient(mean_s, facts.stage_s[-1], record.output_tokens or 0))
    ]
    return faults_check(run, name, sentence, off)


FILE_CHECKS: tuple[Callable[[LegacyRun], Check], ...] = (values_usable, rows_once, lengths_differ, own_quotient)


def faults_check(run: LegacyRun, name: str, sentence: str, faults: list[str], seen: str = "") -> Check:
    """Fails on any fault; without a successful sample it cannot be made."""
    if not any(record.ok for record in run.records):
        return Check(name, sentence, "not possible", None, None, "no sample succeeded")
    return faults_found(name, sentence, len(faults), "; ".join(filter(None, (first_few(faults), seen))))


def first_few(found: list[str]) -> str:
    """The first few, each once, and how many more."""
    distinct = list(dict.fromkeys(found))
    return "; ".join(distinct[:NAMED]) + (f" and {len(distinct) - NAMED} more" if len(distinct) > NAMED else "")
