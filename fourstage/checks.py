"""Is this run believable? Each check is a sentence with a verdict, the value that was found, and its limit.

A check passes, warns, fails, or could not be made, and then says why: what was not checked never passes. A run
with a failed check is kept and shown as invalid. The rows of checks name the ways in which real benchmarks of
these models went wrong.

    checks = check_run(evidence)
    valid(checks)                # False if any failed
"""

from __future__ import annotations

import math
import statistics as stats
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fourstage.analysis.roofline import Shares
from fourstage.analysis.statistics import drift, outliers, regression
from fourstage.audits import Audits
from fourstage.stages import STAGES, SampleRecord

Verdict = Literal["pass", "warn", "fail", "not possible"]

UNACCOUNTED_LIMIT = 0.03  # share of end to end that no stage accounts for, median
DRIFT_LIMIT = 0.03  # change of time from first to last sample
TRUNCATED_LIMIT = 0.10  # share of answers that max_new_tokens ended
OUTLIER_LIMIT = 0.05  # share of samples far outside
OBSERVER_WARN, OBSERVER_FAIL = 0.01, 0.05  # what measuring may cost of the end-to-end time
CACHING_LIMIT = 0.80  # a repeated sample's time against a perturbed copy's
FLOOR_LIMIT = 1.10  # the peaks are measured too, within some percent
EXPLAINED_LIMIT = 0.25  # token count's price by regression against the steps' own


@dataclass(frozen=True)
class Check:
    """One sentence about a run, and whether it holds."""

    id: str
    sentence: str
    verdict: Verdict
    value: float | str | None
    limit: float | str | None
    detail: str = ""  # why not possible, which samples, what to do


@dataclass(frozen=True)
class Expected:
    """What the composed configuration asked for, as far as records can show it."""

    precision: str
    dtype: str  # of the loaded parameters
    sources: tuple[str, ...]  # that may have been read
    images: int  # that reach the model from a sample
    batch_size: int
    max_new_tokens: int
    stop: str
    num_beams: int
    context: int  # rows of the model


@dataclass(frozen=True)
class Evidence:
    """Everything that the checks look at."""

    records: Sequence[SampleRecord]  # measured samples, without sentinels
    planned: Sequence[tuple[str, int]]  # key and repeat of each measurement that was to be made
    expected: Expected
    detokenise: Callable[[tuple[int, ...]], str] | None = None
    audits: Audits | None = None
    no_audits: str = "audits are off (protocol.audit=false)"
    shares: Shares | None = None
    no_shares: str = "the device's peaks were not measured"

    @property
    def done(self) -> list[SampleRecord]:
        return [record for record in self.records if record.ok]


def check_run(evidence: Evidence) -> list[Check]:
    """Every check, in the order in which a reader would ask."""
    return [check(evidence) for check in CHECKS]


def valid(checks: Sequence[Check]) -> bool:
    """No check failed."""
    return not any(check.verdict == "fail" for check in checks)


def as_dict(checks: Sequence[Check]) -> dict[str, Any]:
    """What `checks.json` holds."""
    return {"valid": valid(checks), "checks": [asdict(check) for check in checks]}


def not_finished(status: str, records: int) -> Check:
    """The one check of a run that ended before its checks: it is invalid."""
    return Check(
        "as_planned",
        "the records are those of the planned samples, each once, failures among them",
        "fail",
        f"{records} records",
        "all that were planned",
        f"the run is {status}: it ended before its samples were all measured",
    )


def something_succeeded(evidence: Evidence) -> Check:
    done, all_of_them = len(evidence.done), len(evidence.planned)
    return Check(
        "something_succeeded",
        "at least one sample went through all four stages",
        "pass" if done else "fail",
        f"{done} of {all_of_them}",
        "1",
    )


def as_planned(evidence: Evidence) -> Check:
    """Every planned measurement has one record, failed ones counted; nothing dropped in silence."""
    found = Counter((record.key, record.repeat) for record in evidence.records)
    planned = Counter(evidence.planned)
    missing, extra = planned - found, found - planned
    failed = sum(not record.ok for record in evidence.records)
    wrong = missing.total() + extra.total()
    verdict: Verdict = "fail" if wrong else "warn" if failed else "pass"
    detail = f"missing {_names(key for key, _ in missing)}" if missing else ""
    detail += f"not planned {_names(key for key, _ in extra)}" if extra else ""
    if failed and not wrong:
        detail = f"failed: {_names(record.key for record in evidence.records if not record.ok)}"
    return Check(
        "as_planned",
        "the records are those of the planned samples, each once, failures among them",
        verdict,
        f"{len(evidence.records)} records, {failed} failed",
        f"{len(evidence.planned)} records",
        detail,
    )


def stages_measured(evidence: Evidence) -> Check:
    """No stage is 0 s: it was measured, or it is null."""
    zero = [
        f"{record.key} {stage}"
        for record in evidence.done
        for stage in STAGES
        if (seconds := getattr(record, f"{stage}_s")) is None or seconds <= 0 or math.isnan(seconds)
    ]
    return _any_fault(evidence, "stages_measured", "every stage of a successful sample took measurable time", zero)


def stages_close(evidence: Evidence) -> Check:
    sentence = "the four stages account for the end-to-end time"
    shares = [
        abs(record.end_to_end_s - record.total_s) / record.end_to_end_s
        for record in evidence.done
        if record.end_to_end_s and record.total_s is not None
    ]
    if not shares:
        return _not_possible("stages_close", sentence, "no sample has both times")
    median = stats.median(shares)
    verdict: Verdict = "pass" if median <= UNACCOUNTED_LIMIT else "fail"
    detail = "" if verdict == "pass" else f"{median:.1%} of the end-to-end time is in no stage"
    return Check("stages_close", sentence, verdict, median, UNACCOUNTED_LIMIT, detail)


def vision_runs_once(evidence: Evidence) -> Check:
    sentence = "the vision tower ran once for each sample or batch"
    counts = [record.vision_calls for record in evidence.done if record.vision_calls is not None]
    if not counts:
        return _not_possible("vision_runs_once", sentence, "calls of the tower were not counted")
    most, least = max(counts), min(counts)
    verdict: Verdict = "pass" if most == least == 1 else "fail"
    return Check("vision_runs_once", sentence, verdict, most if most != 1 else least, 1)


def staged_equals_own(evidence: Evidence) -> Check:
    """The staged path computes what the model's own generate() computes (PITFALLS: adaptor applied twice)."""
    sentence = "greedy token ids of the stages equal those of the model's own generate()"
    if evidence.audits is None:
        return _not_possible("staged_equals_own", sentence, evidence.no_audits)
    same, tried = evidence.audits.equal_samples, evidence.audits.compared_samples
    if not tried:
        return _not_possible("staged_equals_own", sentence, "no sample could be answered both ways")
    return Check("staged_equals_own", sentence, "pass" if same == tried else "fail", f"{same} of {tried}", "all")


def counts_are_the_ids(evidence: Evidence) -> Check:
    """Output tokens are the new ids, one decode step each after the first, and the text is theirs alone."""
    faults = []
    for record in evidence.done:
        if record.output_tokens != len(record.output_ids):
            faults.append(f"{record.key}: {record.output_tokens} tokens told, {len(record.output_ids)} ids")
        elif evidence.expected.num_beams == 1 and len(record.token_s) != max(0, len(record.output_ids) - 1):
            faults.append(f"{record.key}: {len(record.output_ids)} ids, {len(record.token_s)} decode steps")
        elif record.output and record.prompt and record.output.startswith(record.prompt):
            faults.append(f"{record.key}: the output begins with the prompt")
        elif evidence.detokenise is not None and record.output != evidence.detokenise(record.output_ids):
            faults.append(f"{record.key}: the text is not that of the ids")
    return _any_fault(
        evidence, "counts_are_the_ids", "token counts, ids, steps and text agree, without the prompt", faults
    )


def tokens_explain_time(evidence: Evidence) -> Check:
    """Decode time rises with the token count by what a decode step takes."""
    sentence = "the time of stage 4 is explained by the number of tokens"
    pairs = [
        (record.output_tokens, record.decode_s)
        for record in evidence.done
        if record.output_tokens and record.decode_s is not None
    ]
    counts = {tokens for tokens, _ in pairs}
    steps = [record.tpot_ms / 1000 for record in evidence.done if record.tpot_ms is not None]
    if not steps:
        return _not_possible("tokens_explain_time", sentence, "no sample has two tokens")
    if len(counts) < 3 or max(counts) < 1.5 * min(counts):
        # one length only: then a token's price is compared directly
        implied = stats.median(
            (record.decode_s - (record.prefill_s or 0)) / (record.output_tokens - 1)
            for record in evidence.done
            if record.decode_s is not None and record.output_tokens and record.output_tokens > 1
        )
    else:
        implied = regression([tokens for tokens, _ in pairs], [seconds for _, seconds in pairs]).slope
    price = stats.median(steps)
    off = implied / price - 1
    verdict: Verdict = "pass" if abs(off) <= EXPLAINED_LIMIT else "fail"
    detail = (
        "" if verdict == "pass" else f"{1000 * implied:.3g} ms a token by count, {1000 * price:.3g} ms by its steps"
    )
    return Check("tokens_explain_time", sentence, verdict, off, EXPLAINED_LIMIT, detail)


def nothing_impossible(evidence: Evidence) -> Check:
    """Nothing is faster than the device can move the bytes and do the operations."""
    sentence = "no sample was faster than the device allows"
    if evidence.shares is None:
        return _not_possible("nothing_impossible", sentence, evidence.no_shares)
    fastest = {kind: found for kind, found in evidence.shares.fastest.items() if found is not None}
    if not fastest:
        return _not_possible("nothing_impossible", sentence, "no stage has both a time and a floor")
    kind, found = max(fastest.items(), key=lambda item: item[1].share)
    verdict: Verdict = "pass" if found.share <= FLOOR_LIMIT else "fail"
    detail = f"{kind} of {found.key} took {found.seconds:.3g} s, its floor is {found.floor_s:.3g} s"
    return Check("nothing_impossible", sentence, verdict, found.share, FLOOR_LIMIT, detail)


def not_truncated(evidence: Evidence) -> Check:
    sentence = "answers ended by themselves, not by max_new_tokens"
    if evidence.expected.stop == "fixed":
        return Check("not_truncated", sentence, "pass", "fixed length asked for", None)
    reasons = [record.finish_reason for record in evidence.done if record.finish_reason]
    if not reasons:
        return _not_possible("not_truncated", sentence, "no sample has a finish reason")
    share = reasons.count("length") / len(reasons)
    verdict: Verdict = "pass" if share <= TRUNCATED_LIMIT else "warn"
    detail = (
        "" if verdict == "pass" else "token counts and totals of these samples are the limit's: raise max_new_tokens"
    )
    return Check("not_truncated", sentence, verdict, share, TRUNCATED_LIMIT, detail)


def context_held(evidence: Evidence) -> Check:
    over = [
        f"{record.key}: {rows} rows"
        for record in evidence.done
        if record.input_tokens is not None
        and (rows := record.input_tokens + (record.output_tokens or 0)) > evidence.expected.context
    ]
    return _any_fault(
        evidence,
        "context_held",
        f"prompt, media and answer fit into the model's context of {evidence.expected.context}",
        over,
    )


def no_drift(evidence: Evidence) -> Check:
    """Neither the robust slope over position nor one half against the other shows a change over the run."""
    sentence = "times do not drift over the run"
    rows = sorted(evidence.done, key=lambda record: record.position)
    work = [_without_length(record) for record in rows]
    pairs = [(record.position, value) for record, value in zip(rows, work, strict=True) if value is not None]
    if len(pairs) < 8:
        return _not_possible("no_drift", sentence, f"{len(pairs)} samples, at least 8 are needed")
    keys = [record.key for record, value in zip(rows, work, strict=True) if value is not None]
    found = drift([position for position, _ in pairs], [value for _, value in pairs], clusters=keys)
    # a change is believed where its interval is clear of zero: chance alone slopes too
    low, high, change = found.low, found.high, found.change
    beyond = change if low > 0 or high < 0 else 0.0
    verdict: Verdict = "pass" if abs(beyond) <= DRIFT_LIMIT else "fail"
    halves = f"second half / first half {found.halves.estimate:.3f}"
    detail = f"change over the run {change:+.1%} [{low:+.1%}, {high:+.1%}], {halves}"
    return Check("no_drift", sentence, verdict, change, DRIFT_LIMIT, detail)


def no_caching(evidence: Evidence) -> Check:
    sentence = "a repeated sample costs what a fresh one costs"
    if evidence.audits is None:
        return _not_possible("no_caching", sentence, evidence.no_audits)
    ratios = evidence.audits.repeat_against_perturbed
    if not ratios:
        return _not_possible("no_caching", sentence, "no sample could be repeated")
    stage, ratio = min(ratios.items(), key=lambda item: item[1].high)
    verdict: Verdict = "pass" if ratio.high >= CACHING_LIMIT else "fail"
    detail = f"{stage}: [{ratio.low:.2f}, {ratio.high:.2f}] of a fresh copy's time"
    return Check("no_caching", sentence, verdict, ratio.estimate, CACHING_LIMIT, detail)


def little_observed(evidence: Evidence) -> Check:
    """Reading the clock at each border and token does not slow the sample down."""
    sentence = "measuring does not slow the measured"
    if evidence.audits is None:
        return _not_possible("little_observed", sentence, evidence.no_audits)
    ratio = evidence.audits.instrumented_against_bare
    if ratio is None:
        return _not_possible("little_observed", sentence, "no sample could be run both ways")
    sure = ratio.low - 1
    verdict: Verdict = "fail" if sure > OBSERVER_FAIL else "warn" if sure > OBSERVER_WARN else "pass"
    detail = f"[{ratio.low - 1:+.1%}, {ratio.high - 1:+.1%}]"
    return Check("little_observed", sentence, verdict, ratio.estimate - 1, OBSERVER_FAIL, detail)


def outliers_named(evidence: Evidence) -> Check:
    """Samples far outside the others are kept, and named."""
    sentence = "few samples lie far outside the others"
    rows = [(record, value) for record in evidence.done if (value := _without_length(record)) is not None]
    if len(rows) < 8:
        return _not_possible("outliers_named", sentence, f"{len(rows)} samples, at least 8 are needed")
    far = [rows[i][0].key for i in outliers([value for _, value in rows]).severe]
    share = len(far) / len(rows)
    verdict: Verdict = "pass" if share <= OUTLIER_LIMIT else "warn"
    return Check("outliers_named", sentence, verdict, share, OUTLIER_LIMIT, _names(far) if far else "")


def config_used(evidence: Evidence) -> Check:
    """What was composed is what ran: precision, source, images, batch, limits."""
    expected = evidence.expected
    faults = []
    if {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[expected.precision] != expected.dtype:
        faults.append(f"precision={expected.precision}, the model is {expected.dtype}")
    for record in evidence.done:
        if record.source not in expected.sources:
            faults.append(f"{record.key}: read from {record.source}")
        if record.images != expected.images and not record.notes:
            faults.append(f"{record.key}: {record.images} images, {expected.images} asked for")
        if record.batch_size > expected.batch_size:
            faults.append(f"{record.key}: batch of {record.batch_size}")
        if (record.output_tokens or 0) > expected.max_new_tokens:
            faults.append(f"{record.key}: {record.output_tokens} tokens")
        if expected.stop == "fixed" and record.output_tokens != expected.max_new_tokens:
            faults.append(f"{record.key}: {record.output_tokens} tokens, exactly {expected.max_new_tokens} asked for")
    return _any_fault(evidence, "config_used", "the settings that were composed are those that ran", faults)


CHECKS: tuple[Callable[[Evidence], Check], ...] = (
    something_succeeded,
    as_planned,
    stages_measured,
    stages_close,
    vision_runs_once,
    staged_equals_own,
    counts_are_the_ids,
    tokens_explain_time,
    nothing_impossible,
    not_truncated,
    context_held,
    no_drift,
    no_caching,
    little_observed,
    outliers_named,
    config_used,
)


def _without_length(record: SampleRecord) -> float | None:
    """Seconds of a sample with its answer's length taken out: the stages before, prefill, and one mean step."""
    parts = (record.load_s, record.preprocess_s, record.encode_s, record.prefill_s)
    if any(part is None for part in parts):
        return record.total_s
    step = (record.tpot_ms or 0.0) / 1000
    return sum(part for part in parts if part is not None) + step


def _any_fault(evidence: Evidence, name: str, sentence: str, faults: Sequence[str]) -> Check:
    """Fails on any fault; without a successful sample it cannot be made."""
    if not evidence.done:
        return _not_possible(name, sentence, "no sample succeeded")
    return Check(name, sentence, "fail" if faults else "pass", len(faults), 0, _names(faults))


def _not_possible(name: str, sentence: str, why: str) -> Check:
    return Check(name, sentence, "not possible", None, None, why)


def _names(found: Any, most: int = 5) -> str:
    """The first few, and how many more."""
    listed = list(dict.fromkeys(found))
    return "; ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
