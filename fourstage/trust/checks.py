"""Is this run believable? Each check is a sentence with a verdict, the value that was found, and its limit.

A check passes, warns, fails, or could not be made, and then says why: what was not checked never passes. A run
with a failed check is kept and shown as invalid. The rows of checks name the ways in which real benchmarks of
these models went wrong. Numbers are looked at in every record; texts in a sample of at most SAMPLED of them.

    checks = check_run(evidence)
    valid(checks)                # False if any failed
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fourstage.measure.plan import sample_seed
from fourstage.measure.warm_up import WarmUp
from fourstage.records.columns import Columns, Floats, Ints
from fourstage.records.table import read_rows
from fourstage.records.units import first_few, plain
from fourstage.records.units import seconds as seconds_text
from fourstage.stages import STAGES, SampleRecord
from fourstage.stats.intervals import measurement_half_width
from fourstage.stats.outliers import outliers
from fourstage.stats.trends import Drift, drift, regression
from fourstage.trust.audits import CACHED_BELOW, OBSERVED_ABOVE, Audits
from fourstage.trust.roofline import Shares

Mask = NDArray[np.bool_]
Verdict = Literal["pass", "warn", "fail", "not possible"]
Relation = Literal["at most", "at least", "within", "exactly", ""]  # of the value to its limit, where it passes

SAMPLED = 1000  # records that are looked at with their texts and ids
NAMED = 5  # faults that a detail names
UNACCOUNTED_LIMIT = 0.03  # share of end to end that no stage accounts for, median
DRIFT_LIMIT = 0.03  # change of time from first to last sample
TRUNCATED_LIMIT = 0.10  # share of answers that max_new_tokens ended
OUTLIER_LIMIT = 0.05  # share of samples far outside
DRIFT_CERTAIN, DRIFT_LIKELY = 0.999, 0.95  # levels at which a drift fails and warns
OBSERVER_WARN = 0.01  # what measuring may cost of the end-to-end time; OBSERVED_ABOVE fails
FLOOR_LIMIT = 1.10  # the peaks are measured too, within some percent
COLD_LIMIT = 0.01  # share of a sample's files that may be left in the page cache, or out of it
BUSY_LIMIT = 0.20  # share of all processors that others used just before
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
TOO_BUSY = "the machine is too busy to tell"
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
    what: str = ""  # of what the value is: "of answers were ended by max_new_tokens"
    relation: Relation = ""
    unit: str = ""  # "share": shown in percent; "times"

    @property
    def finding(self) -> str:
        """The value against its limit in words: `31 % of answers were ended by max_new_tokens (at most 10 %)`."""
        if self.value is None:
            return ""
        found = f"{self._amount(self.value)} {self.what}".rstrip()
        if self.limit is None or not self.relation:
            return found
        limit = self._amount(self.limit)
        if self.limit == 0 and self.relation == "at most":
            return f"{found} (none allowed)"
        relation = {"exactly": "expected ", "within": "within ±"}.get(self.relation, f"{self.relation} ")
        return f"{found} ({relation}{limit})"

    @property
    def line(self) -> str:
        """The check as one line: its name, its claim, what was found against the limit, and which samples."""
        found = f": {self.finding}" if self.finding else ""
        return f"{self.id}: {self.sentence}{found}" + (f"; {self.detail}" if self.detail else "")

    def _amount(self, value: float | str) -> str:
        if isinstance(value, str):
            return value
        if not math.isfinite(value):
            return "unknown"
        return (
            f"{plain(round(100 * value, 4) + 0.0)} %"
            if self.unit == "share"
            else f"{plain(value)} {self.unit}".rstrip()
        )


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
    io: str = "as_is"  # what the page cache was to hold: "cold", "warm"
    target_half_width: float | None = None  # of the mean total, as a share
    cached_stages: tuple[str, ...] = ()  # that the run's cache was to serve
    seed: int | None = None  # of the run, from which each sample's is derived; None: not known
    end_ids: tuple[int, ...] = ()  # tokens that end an answer; none: not known
    parameters: tuple[str, ...] = ()  # how loaded parts differ from what was asked for, before and after the run


@dataclass(frozen=True)
class Evidence:
    """Everything that the checks look at.

    Evidence.read(Path("records.parquet"), planned=planned, expected=expected)
    """

    columns: Columns  # measured samples, without sentinels
    sampled: Sequence[SampleRecord]  # whole, at most SAMPLED of them, evenly spread over the run
    planned: Sequence[tuple[str, int]]  # key and repeat of each measurement that was to be made
    expected: Expected
    detokenise: Callable[[tuple[int, ...]], str] | None = None
    audits: Audits | None = None
    no_audits: str = "audits are off (protocol.audit=false)"
    shares: Shares | None = None
    warm_up: Mapping[str, WarmUp] = field(default_factory=dict)  # by shape of input
    busy: float | None = None  # share of all processors that others used just before the measurement
    listed: tuple[str, ...] | None = None  # keys of the dataset, read again; None: not read
    no_listed: str = "the dataset was not read again"
    no_shares: str = "the device's peaks were not measured"

    @classmethod
    def of(cls, records: Sequence[SampleRecord], **rest: Any) -> Evidence:
        """Evidence on records in memory; `rest` are the other fields."""
        every = Columns.of(records)
        return cls(every.measured, [records[row] for row in _spread(every)], **rest)

    @classmethod
    def read(cls, path: Path, **rest: Any) -> Evidence:
        """The same on a records.parquet, which may hold a million of them: numbers first, then the sampled rows."""
        every = Columns.read(path)
        return cls(every.measured, read_rows(path, _spread(every)), **rest)

    @cached_property
    def done(self) -> Columns:
        """The records that succeeded."""
        return self.columns.done


def check_run(evidence: Evidence) -> list[Check]:
    """Every check, in the order in which a reader would ask."""
    return [check(evidence) for check in CHECKS]


def valid(checks: Sequence[Check]) -> bool:
    """No check failed."""
    return not any(check.verdict == "fail" for check in checks)


def as_dict(checks: Sequence[Check]) -> dict[str, Any]:
    """What `checks.json` holds."""
    return {"valid": valid(checks), "checks": [asdict(check) for check in checks]}


def as_tags(checks: Sequence[Check]) -> dict[str, str]:
    """What a run's tags say of them: whether it is valid, and which failed and which warned."""
    named = {word: ",".join(check.id for check in checks if check.verdict == word) for word in ("fail", "warn")}
    return {
        "fourstage.valid": str(valid(checks)).lower(),
        "fourstage.checks_failed": named["fail"] or "none",
        "fourstage.checks_warned": named["warn"] or "none",
    }


def not_finished(status: str, records: int) -> Check:
    """The one check of a run that ended before its checks: it is invalid."""
    return Check(
        "as_planned",
        "every planned sample has exactly one record, failed samples included",
        "fail",
        f"{records} records",
        "one for each planned sample",
        f"the run is {status}: it ended before all its checks could be made",
        relation="exactly",
    )


def something_succeeded(evidence: Evidence) -> Check:
    """At least one sample was measured without an error."""
    done, all_of_them = int(evidence.columns.ok.sum()), len(evidence.planned)
    return Check(
        "something_succeeded",
        "at least one sample went through all four stages",
        "pass" if done else "fail",
        f"{done} of {all_of_them}",
        "1",
        what="samples did",
        relation="at least",
    )


def as_planned(evidence: Evidence) -> Check:
    """Every planned measurement has one record, failed ones counted; nothing dropped in silence."""
    run = evidence.columns
    known = {key: code for code, key in enumerate(run.keys)}
    keys = np.array([known.setdefault(key, len(known)) for key, _ in evidence.planned], dtype=np.int64)
    repeats = np.array([repeat for _, repeat in evidence.planned], dtype=np.int64)
    radix = 1 + max(run.repeat.max(initial=0), repeats.max(initial=0))  # so that one number stands for both
    pairs, which = np.unique(
        np.concatenate([run.key_codes * radix + run.repeat, keys * radix + repeats]), return_inverse=True
    )
    found, planned = (np.bincount(part, minlength=len(pairs)) for part in np.split(which, [len(run)]))
    wrong, failed = bool((found != planned).any()), int((~run.ok).sum())
    verdict: Verdict = "fail" if wrong else "warn" if failed else "pass"
    names, detail, counted = list(known), "", f"{len(run)} records, {failed} failed"
    for word, these in (("missing", found < planned), ("not planned", found > planned)):
        if these.any():
            counted += f", {int(these.sum())} {word}"
            detail += f"{word} {_names([names[code] for code in np.unique(pairs[these] // radix)])}"
    if failed and not wrong:
        detail = f"failed: {_keys(run, ~run.ok)}"
    return Check(
        "as_planned",
        "every planned sample has exactly one record, failed samples included",
        verdict,
        counted,
        f"{len(evidence.planned)} records",
        detail,
        relation="exactly",
    )


def stages_measured(evidence: Evidence) -> Check:
    """No stage is 0 s: it was measured, or it is null."""
    done = evidence.done

    def named(stage: str) -> Callable[[int], str]:
        return lambda i: f"{_key(done, i)} {stage}"

    zero = [_Faults(~(getattr(done, f"{stage}_s") > 0), named(stage)) for stage in STAGES]
    return _any_fault(evidence, "stages_measured", "every stage of a successful sample took measurable time", zero)


def stages_close(evidence: Evidence) -> Check:
    """The four stages account for the end-to-end time."""
    sentence = "the four stages account for the end-to-end time"
    done = evidence.done
    both = (done.end_to_end_s != 0) & ~np.isnan(done.end_to_end_s) & ~np.isnan(done.total_s)
    if not both.any():
        return _not_possible("stages_close", sentence, "no sample has both times")
    median = float(np.median(np.abs(done.end_to_end_s - done.total_s)[both] / done.end_to_end_s[both]))
    verdict: Verdict = "pass" if median <= UNACCOUNTED_LIMIT else "fail"
    detail = "" if verdict == "pass" else f"{median:.1%} of the end-to-end time is in no stage"
    what = "unaccounted for"
    return Check("stages_close", sentence, verdict, median, UNACCOUNTED_LIMIT, detail, what, "at most", "share")


def vision_runs_once(evidence: Evidence) -> Check:
    """The vision tower ran once for each sample or batch."""
    sentence = "the vision tower ran once for each sample or batch"
    counts = _present(evidence.done.vision_calls)
    if not len(counts):
        return _not_possible("vision_runs_once", sentence, "calls of the tower were not counted")
    most, least = int(counts.max()), int(counts.min())
    verdict: Verdict = "pass" if most == least == 1 else "fail"
    found = most if most != 1 else least
    what = f"call{'s' if found != 1 else ''} of the tower for one sample or batch"
    return Check("vision_runs_once", sentence, verdict, found, 1, what=what, relation="exactly")


def staged_equals_own(evidence: Evidence) -> Check:
    """The staged path computes what the model's own generate() computes."""
    sentence = "greedy token ids of the stages equal those of the model's own generate()"
    if evidence.audits is None:
        return _not_possible("staged_equals_own", sentence, evidence.no_audits)
    same, tried = evidence.audits.equal_samples, evidence.audits.compared_samples
    if not tried:
        return _not_possible("staged_equals_own", sentence, "no sample could be answered both ways")
    verdict: Verdict = "pass" if same == tried else "fail"
    found = f"{same} of {tried}"
    return Check(
        "staged_equals_own", sentence, verdict, found, "all", what="samples have the same ids", relation="exactly"
    )


def answers_repeat(evidence: Evidence) -> Check:
    """Measured answers are those of the model's own generate(), on files read anew by other code."""
    sentence = "measured answers are the model's own, on their sample's files read anew"
    if evidence.audits is None:
        return _not_possible("answers_repeat", sentence, evidence.no_audits)
    found = evidence.audits.again
    left_out = first_few(found.left_out, NAMED, separator="; ")
    if not found.answers and not found.faults:
        return _not_possible("answers_repeat", sentence, left_out or "no measured answer could be made again")
    detail = "; ".join(filter(None, (_names(found.faults), left_out and f"left out: {left_out}")))
    return faults_found("answers_repeat", sentence, len(found.faults), detail or f"{found.answers} answers")


def plan_is_dataset(evidence: Evidence) -> Check:
    """The samples that were planned are those of the dataset's own file, none left out or replaced."""
    sentence = "the samples that were planned are those that the dataset lists"
    if evidence.listed is None:
        return _not_possible("plan_is_dataset", sentence, evidence.no_listed)
    planned, listed = dict.fromkeys(key for key, _ in evidence.planned), dict.fromkeys(evidence.listed)
    missing, other = [key for key in listed if key not in planned], [key for key in planned if key not in listed]
    detail = "; ".join(
        f"{word} {_names(keys)}" for word, keys in (("not planned", missing), ("not in the dataset", other)) if keys
    )
    return faults_found("plan_is_dataset", sentence, len(missing) + len(other), detail)


def operations_counted(evidence: Evidence) -> Check:
    """What torch counts in a sample's stages is what the model's shapes and the sample's sizes ask for."""
    sentence = "encode, prefill and a decode step do the operations that the model's shapes ask for"
    if evidence.audits is None:
        return _not_possible("operations_counted", sentence, evidence.no_audits)
    found = evidence.audits.operations
    if not found.counted:
        return _not_possible("operations_counted", sentence, found.why_not)
    return faults_found("operations_counted", sentence, len(found.faults), _names(found.faults))


def counts_are_the_ids(evidence: Evidence) -> Check:
    """Output tokens are the new ids, one decode step each after the first, and the text is theirs alone."""
    done, ids = evidence.done, evidence.done.ids
    told = done.output_tokens != ids
    stepped = ~told & (evidence.expected.num_beams == 1) & (done.steps != np.maximum(ids - 1, 0))
    faults = [
        _Faults(told, lambda i: f"{_key(done, i)}: {_count(done.output_tokens[i])} tokens told, {ids[i]} ids"),
        _Faults(stepped, lambda i: f"{_key(done, i)}: {ids[i]} ids, {done.steps[i]} decode steps"),
    ]
    texts = []
    for record in evidence.sampled:
        if not record.ok or record.output_tokens != len(record.output_ids):
            continue
        if record.output and record.prompt and record.output.startswith(record.prompt):
            texts.append(f"{record.key}: the output begins with the prompt")
        elif evidence.detokenise is not None and record.output != evidence.detokenise(record.output_ids):
            texts.append(f"{record.key}: the text is not that of the ids")
    faults.append(_Faults(np.ones(len(texts), dtype=np.bool_), lambda i: texts[i]))
    seen, every = len(evidence.sampled), len(evidence.columns)
    return _any_fault(
        evidence,
        "counts_are_the_ids",
        "token counts, ids, steps and text agree, without the prompt",
        faults,
        f"texts on {seen:,} of {every:,} records" if seen < every else "",
    )


def tokens_explain_time(evidence: Evidence) -> Check:
    """Decode time rises with the token count by what a decode step takes."""
    sentence = "the time of stage 4 is explained by the number of tokens"
    done = evidence.done
    steps = _present(done.tpot_ms) / 1000
    tokens, seconds, prefill = _decode_calls(done)
    several = tokens > 1
    if not len(steps) or not several.any():
        return _not_possible("tokens_explain_time", sentence, "no sample has two tokens")
    counts = np.unique(tokens)
    if len(counts) < 3 or counts[-1] < 1.5 * counts[0]:
        # one length only: then a token's price is compared directly
        implied = float(np.median((seconds - prefill)[several] / (tokens[several] - 1)))
    else:
        implied = regression(tokens, seconds).slope
    if not (price := float(np.median(steps))):
        return _not_possible("tokens_explain_time", sentence, "the median decode step took 0 s")
    off = implied / price - 1
    verdict: Verdict = "pass" if abs(off) <= EXPLAINED_LIMIT else "fail"
    detail = (
        "" if verdict == "pass" else f"{seconds_text(implied)} a token by count, {seconds_text(price)} by its steps"
    )
    what = "from a token's price by its own steps to that by count"
    return Check(
        "tokens_explain_time", sentence, verdict, off, EXPLAINED_LIMIT, detail, what, relation="within", unit="share"
    )


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
    detail = f"{kind} of {found.key} took {seconds_text(found.seconds)}, its floor is {seconds_text(found.floor_s)}"
    what = "as fast as the device's limit"
    return Check(
        "nothing_impossible", sentence, verdict, found.share, FLOOR_LIMIT, detail, what, "at most", unit="times"
    )


def not_truncated(evidence: Evidence) -> Check:
    """Answers ended by themselves, not by max_new_tokens."""
    sentence = "answers ended by themselves, not by max_new_tokens"
    if evidence.expected.stop == "fixed":
        return Check("not_truncated", sentence, "pass", "fixed length asked for", None)
    done = evidence.done
    ended = done.finish_reason_codes[done.finish_reason_codes >= 0]
    if not len(ended):
        return _not_possible("not_truncated", sentence, "no sample has a finish reason")
    share = float(np.array([reason == "length" for reason in done.finish_reasons])[ended].mean())
    verdict: Verdict = "pass" if share <= TRUNCATED_LIMIT else "warn"
    detail = (
        "" if verdict == "pass" else "token counts and totals of these samples are the limit's: raise max_new_tokens"
    )
    what = "of answers were ended by max_new_tokens"
    return Check("not_truncated", sentence, verdict, share, TRUNCATED_LIMIT, detail, what, "at most", "share")


def context_held(evidence: Evidence) -> Check:
    """Prompt and answer fit in the model's context."""
    done = evidence.done
    rows = done.input_tokens + np.nan_to_num(done.output_tokens)
    over = [_Faults(rows > evidence.expected.context, lambda i: f"{_key(done, i)}: {_count(rows[i])} rows")]
    return _any_fault(
        evidence,
        "context_held",
        f"prompt, media and answer fit into the model's context of {evidence.expected.context}",
        over,
    )


def no_drift(evidence: Evidence) -> Check:
    """A change over the run counts where it is relevant and its interval excludes zero; it fails where that is certain.

    Noise that comes in bursts slopes by chance: the interval is widened by what neighbours have in common.
    """
    sentence = "times do not drift over the run"
    done = evidence.done
    work = _without_length(done)
    order = np.argsort(done.position, kind="stable")
    order = order[~np.isnan(work[order])]
    if len(order) < 8:
        return _not_possible("no_drift", sentence, f"{len(order)} samples, at least 8 are needed")
    position, seconds, keys = done.position[order], work[order], done.key_codes[order]
    found = drift(position, seconds, clusters=keys, level=_level(DRIFT_CERTAIN, position, seconds))
    change, relevant = found.change, abs(found.change) > DRIFT_LIMIT
    certain = relevant and _excludes_zero(found)
    if relevant and not certain:  # the interval of the next question
        found = drift(position, seconds, clusters=keys, level=_level(DRIFT_LIKELY, position, seconds))
    likely = relevant and not certain and _excludes_zero(found)
    verdict: Verdict = "fail" if certain else "warn" if likely else "pass"
    undetected = relevant and verdict == "pass"
    what = "from the first sample to the last" + (", which may be chance" if undetected else "")
    halves = f"second half / first half {found.halves.estimate:.3f}"
    detail = f"change over the run {change:+.1%} [{found.low:+.1%}, {found.high:+.1%}], {halves}"
    relation: Relation = "" if undetected else "within"
    return Check("no_drift", sentence, verdict, change, DRIFT_LIMIT, detail, what, relation, "share")


def _excludes_zero(found: Drift) -> bool:
    return found.low > 0 or found.high < 0


def _level(level: float, position: Ints, seconds: Floats) -> float:
    """The level at which an interval for independent noise is one of `level` for noise whose neighbours agree.

    The variance of a slope grows by 1 + 2 (r1 + r2 + r3), the correlations of neighbours about the line, of which
    those below zero are left out (Hamed and Rao, Journal of Hydrology 204, 1998).
    """
    off = seconds - np.polyval(np.polyfit(position, seconds, 1), position)
    off = np.clip(off, *np.percentile(off, [5, 95]))  # one outlier hides no correlation
    square = float((off**2).sum())
    near = [float((off[lag:] * off[:-lag]).sum()) / square for lag in (1, 2, 3)] if square > 0 else []
    growth = min(1 + 2 * sum(r for r in near if r > 0), 4.0)
    normal = NormalDist()
    return 2 * normal.cdf(normal.inv_cdf((1 + level) / 2) * math.sqrt(growth)) - 1


def no_caching(evidence: Evidence) -> Check:
    """Nothing is kept between samples but what the run was asked to keep."""
    sentence = "a repeated sample costs what a fresh one costs"
    if evidence.audits is None:
        return _not_possible("no_caching", sentence, evidence.no_audits)
    asked = evidence.expected.cached_stages
    found = evidence.audits.repeat_against_perturbed
    ratios = {stage: ratio for stage, ratio in found.items() if stage not in asked}
    if not ratios:
        return _not_possible("no_caching", sentence, "no sample could be repeated")
    cached = {stage: ratio for stage, ratio in ratios.items() if ratio.side == "below"}
    open_ = {stage: ratio for stage, ratio in ratios.items() if ratio.side is None}
    stage, ratio = min((cached or open_ or ratios).items(), key=lambda item: item[1].interval.high)
    share = ratio.interval
    detail = f"{stage}: {share.estimate:.0%} [{share.low:.0%}, {share.high:.0%}], {share.n} pairs"
    detail += f"; {' and '.join(asked)} cached, as asked" if asked else ""
    if open_ and not cached:
        return _not_possible("no_caching", sentence, f"{TOO_BUSY}: {detail}")
    verdict: Verdict = "fail" if cached else "pass"
    what = "of a fresh copy's time, at the upper end of the interval"
    return Check("no_caching", sentence, verdict, share.high, CACHED_BELOW, detail, what, "at least", "share")


def little_observed(evidence: Evidence) -> Check:
    """Reading the clock at each border and token does not slow the sample down."""
    sentence = "measuring does not slow the measured"
    if evidence.audits is None:
        return _not_possible("little_observed", sentence, evidence.no_audits)
    ratio = evidence.audits.instrumented_against_bare
    if ratio is None:
        return _not_possible("little_observed", sentence, "no sample could be run both ways")
    longer = ratio.interval
    detail = f"{longer.estimate - 1:+.1%} [{longer.low - 1:+.1%}, {longer.high - 1:+.1%}], {longer.n} pairs"
    if ratio.side is None:
        return _not_possible("little_observed", sentence, f"{TOO_BUSY}: {detail}")
    sure = longer.low - 1
    verdict: Verdict = "fail" if ratio.side == "above" else "warn" if sure > OBSERVER_WARN else "pass"
    limit = OBSERVED_ABOVE - 1 if verdict == "fail" else OBSERVER_WARN
    what = "longer, at the lower end of the interval"
    return Check("little_observed", sentence, verdict, sure, limit, detail, what, "at most", "share")


def outliers_named(evidence: Evidence) -> Check:
    """Samples far outside the others are kept, and named."""
    sentence = "few samples lie far outside the others"
    work = _without_length(evidence.done)
    known = np.flatnonzero(~np.isnan(work))
    if len(known) < 8:
        return _not_possible("outliers_named", sentence, f"{len(known)} samples, at least 8 are needed")
    far = known[outliers(work[known]).severe]
    share = len(far) / len(known)
    verdict: Verdict = "pass" if share <= OUTLIER_LIMIT else "warn"
    named, what = _keys(evidence.done, far), "of samples do"
    return Check("outliers_named", sentence, verdict, share, OUTLIER_LIMIT, named, what, "at most", "share")


def config_used(evidence: Evidence) -> Check:
    """What was composed is what ran: precision, source, images, batch, limits."""
    expected, done = evidence.expected, evidence.done
    sources: tuple[str | None, ...] = (*done.sources, None)  # none: -1, the last
    asked = np.array([source in expected.sources for source in sources])
    tokens, images = done.output_tokens, done.images
    served = len(expected.cached_stages)
    fixed = expected.stop == "fixed"
    faults = [
        _Faults(~asked[done.source_codes], lambda i: f"{_key(done, i)}: read from {sources[done.source_codes[i]]}"),
        _Faults(
            (images != expected.images) & ~done.noted,
            lambda i: f"{_key(done, i)}: {_count(images[i])} images, {expected.images} asked for",
        ),
        _Faults(
            done.cached != served,
            lambda i: f"{_key(done, i)}: {done.cached[i]} stages served from the cache, {served} asked for",
        ),
        _Faults(done.batch_size > expected.batch_size, lambda i: f"{_key(done, i)}: batch of {done.batch_size[i]}"),
        _Faults(tokens > expected.max_new_tokens, lambda i: f"{_key(done, i)}: {_count(tokens[i])} tokens"),
        _Faults(
            fixed & (tokens != expected.max_new_tokens),
            lambda i: f"{_key(done, i)}: {_count(tokens[i])} tokens, exactly {expected.max_new_tokens} asked for",
        ),
        *_ended_early(evidence),
        *map(_told, (_wrong_ends(evidence), _wrong_seeds(evidence), list(expected.parameters))),
    ]
    if DTYPES[expected.precision] != expected.dtype:
        other = f"precision={expected.precision}, the model is {expected.dtype}"
        faults.insert(0, _Faults(np.ones(1, dtype=np.bool_), lambda _: other))
    return _any_fault(evidence, "config_used", "the settings that were composed are those that ran", faults)


def _ended_early(evidence: Evidence) -> list[_Faults]:
    """Answers that are said to have met the limit, and have fewer tokens; beams may have left some out."""
    expected, done = evidence.expected, evidence.done
    codes = [code for code, reason in enumerate(done.finish_reasons) if reason == "length"]
    tokens = done.output_tokens
    early = np.isin(done.finish_reason_codes, codes) & (tokens < expected.max_new_tokens)
    if expected.stop == "fixed":  # any other number of tokens is a fault already
        return []
    return [
        _Faults(
            early,
            lambda i: f"{_key(done, i)}: length ended it at {_count(tokens[i])} of {expected.max_new_tokens} tokens",
        )
    ]


def _wrong_ends(evidence: Evidence) -> list[str]:
    """Answers that are said to have ended by themselves, and have no end token at their end."""
    ends = evidence.expected.end_ids
    return [
        f"{record.key}: finish reason stop, and its last token {record.output_ids[-1]} is no end token"
        for record in evidence.sampled
        if ends and record.ok and record.finish_reason == "stop" and record.output_ids
        if record.output_ids[-1] not in ends
    ]


def _wrong_seeds(evidence: Evidence) -> list[str]:
    """Records with another seed than the run's and the sample's give; a batch has that of one of its samples."""
    if (run := evidence.expected.seed) is None:
        return []
    sampled = [record for record in evidence.sampled if record.ok]
    own = [sample_seed(run, record.key, record.repeat) for record in sampled]
    every = set(own)
    return [
        f"{record.key}: seed {record.seed}, seed={run} gives {seed}"
        for record, seed in zip(sampled, own, strict=True)
        if record.seed != seed and (record.batch_size == 1 or record.seed not in every)
    ]


def values_finite(evidence: Evidence) -> Check:
    """No features or logits are NaN or infinite, in samples with suspicious answers first."""
    sentence = "features, first and last logits of audited samples are finite"
    if evidence.audits is None:
        return _not_possible("values_finite", sentence, evidence.no_audits)
    found = evidence.audits.finite
    if not found.samples:
        return _not_possible("values_finite", sentence, "no audited sample has features or logits that can be seen")
    detail = "; ".join((*found.faults[:NAMED], *found.suspicious[:NAMED]))
    return faults_found("values_finite", sentence, len(found.faults), detail)


def io_held(evidence: Evidence) -> Check:
    """Cold files were cold, warm ones warm, just before they were read: by `load`, or into the run's cache."""
    sentence = "the page cache held what the protocol asked for"
    asked, done = evidence.expected.io, evidence.done
    if not len(done):
        return _not_possible("io_held", sentence, "no sample succeeded")
    if asked == "as_is":
        return Check("io_held", sentence, "pass", "as_is: nothing asked for", None)
    share = done.cached_share
    if evidence.expected.cached_stages:
        sentence += " when the cache was filled"
    if np.isnan(share).any():
        return _not_possible("io_held", sentence, "this system, or this dataset's owner, does not let it be read")
    wrong = share > COLD_LIMIT if asked == "cold" else share < 1 - COLD_LIMIT
    fault = _Faults(wrong, lambda i: f"{_key(done, i)}: {share[i]:.0%} of its files cached, io={asked} asked for")
    return _any_fault(evidence, "io_held", sentence, [fault])


def warmed_up(evidence: Evidence) -> Check:
    """Times were stable before the measurement began."""
    sentence = "times were stable before the measurement began"
    if not evidence.warm_up or not any(found.rounds for found in evidence.warm_up.values()):
        return _not_possible("warmed_up", sentence, "no warm-up was made (protocol.warmup=0, or no sample worked)")
    unstable = [shape for shape, found in evidence.warm_up.items() if not found.stable]
    rounds = max(found.rounds for found in evidence.warm_up.values())
    verdict: Verdict = "warn" if unstable else "pass"
    detail = f"still changing after {rounds} rounds: {unstable[0]}; raise protocol.warmup" if unstable else ""
    return Check("warmed_up", sentence, verdict, f"{rounds} rounds", None, detail)


def precise_enough(evidence: Evidence) -> Check:
    """The noise of the mean total, as repeats show it, is within the protocol's target."""
    sentence = "the mean was repeated until it was as precise as asked for"
    target, done = evidence.expected.target_half_width, evidence.done
    if not len(done):
        return _not_possible("precise_enough", sentence, "no sample succeeded")
    if target is None:
        return Check("precise_enough", sentence, "pass", "no target asked for", None)
    found = measurement_half_width(done.total_s, done.key_codes.tolist())
    verdict: Verdict = "pass" if found <= target else "warn"
    detail = "" if verdict == "pass" else "raise protocol.max_repeats, or measure on a quieter machine"
    what = "noise of the mean total, either way"
    return Check("precise_enough", sentence, verdict, found, target, detail, what, "at most", "share")


def machine_quiet(evidence: Evidence) -> Check:
    """What other processes did is in the times too."""
    sentence = "other processes left the processors alone just before the measurement"
    if evidence.busy is None:
        return _not_possible("machine_quiet", sentence, "the processors' use was not read")
    verdict: Verdict = "pass" if evidence.busy <= BUSY_LIMIT else "warn"
    detail = "" if verdict == "pass" else "times are those of a busy machine: measure again when it is quiet"
    what = "of all processors were used by others"
    return Check("machine_quiet", sentence, verdict, evidence.busy, BUSY_LIMIT, detail, what, "at most", "share")


CHECKS: tuple[Callable[[Evidence], Check], ...] = (
    something_succeeded,
    as_planned,
    plan_is_dataset,
    stages_measured,
    stages_close,
    vision_runs_once,
    staged_equals_own,
    answers_repeat,
    operations_counted,
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
    values_finite,
    io_held,
    warmed_up,
    precise_enough,
    machine_quiet,
)


@dataclass(frozen=True)
class _Faults:
    """Where one kind of fault is, and how the one in a row is told."""

    where: Mask
    tell: Callable[[int], str]


def _told(texts: Sequence[str]) -> _Faults:
    return _Faults(np.ones(len(texts), dtype=np.bool_), lambda i: texts[i])


def _any_fault(evidence: Evidence, name: str, sentence: str, kinds: Sequence[_Faults], seen: str = "") -> Check:
    """Fails on any fault; without a successful sample it cannot be made."""
    if not len(evidence.done):
        return _not_possible(name, sentence, "no sample succeeded")
    count = sum(int(kind.where.sum()) for kind in kinds)
    told, passed = dict[str, None](), 0
    for text in (kind.tell(row) for kind in kinds for row in np.flatnonzero(kind.where).tolist()):
        if len(told) == NAMED and text not in told:
            break
        told[text] = None
        passed += 1
    named = first_few(list(told), NAMED, len(told) + count - passed, "; ")
    return faults_found(name, sentence, count, "; ".join(filter(None, (named, seen))))


def faults_found(name: str, sentence: str, count: int, detail: str) -> Check:
    """A check of which one fault is too many."""
    what = "fault" if count == 1 else "faults"
    return Check(name, sentence, "fail" if count else "pass", count, 0, detail, what, "at most")


def _spread(every: Columns) -> Ints:
    """Rows of at most SAMPLED measured records: whole calls of the model, evenly spread over the run."""
    run = np.flatnonzero(every.is_sample)
    if len(run) <= SAMPLED:
        return run
    calls, measured = every.measured.calls, every.measured
    number = max(1, SAMPLED // int(measured.batch_size.max()))
    chosen = np.linspace(0, calls[-1], min(number, int(calls[-1]) + 1)).round().astype(np.int64)
    return run[np.isin(calls, chosen)]


def _without_length(run: Columns) -> Floats:
    """Seconds of a sample's call with its answer's length taken out: the stages before, prefill, and one mean step.

    NaN for a batch smaller than the others, such as the last one: it costs something else.
    """
    before = (run.load_s + run.preprocess_s + run.encode_s) * run.batch_size  # a record holds its share
    parts = before + run.prefill_s
    seconds = np.where(np.isnan(parts), run.total_s * run.batch_size, parts + np.nan_to_num(run.tpot_ms) / 1000)
    return np.where(run.batch_size == run.batch_size.max(initial=1), seconds, np.nan)


def _decode_calls(run: Columns) -> tuple[Floats, Floats, Floats]:
    """Of each call of stage 4: tokens of its longest answer, its seconds, and those of prefill (0 where unknown)."""
    timed = run.where((run.output_tokens > 0) & ~np.isnan(run.decode_s))
    _, first, call = np.unique(timed.calls, return_index=True, return_inverse=True)
    tokens = np.zeros(len(first))
    np.maximum.at(tokens, call, timed.output_tokens)
    whole = timed.decode_s * timed.batch_size  # a record holds its share
    return tokens, whole[first], np.nan_to_num(timed.prefill_s)[first]


def _not_possible(name: str, sentence: str, why: str) -> Check:
    return Check(name, sentence, "not possible", None, None, why)


def _present(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _key(run: Columns, row: int) -> str:
    return run.keys[int(run.key_codes[row])]


def _keys(run: Columns, rows: Mask | Ints) -> str:
    """The keys of these rows, each once."""
    codes, first = np.unique(run.key_codes[rows], return_index=True)
    return _names([run.keys[code] for code in codes[np.argsort(first)]])


def _count(value: float) -> str:
    return "None" if np.isnan(value) else f"{value:.0f}"


def _names(found: Sequence[str]) -> str:
    """The first few, and how many more."""
    return first_few(found, NAMED, separator="; ")
