"""Checks of times: are the stages closed, stable, possible, and not disturbed by the measurement?"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from fourstage.records.columns import Columns, Floats, Ints
from fourstage.records.units import seconds as seconds_text
from fourstage.stages import STAGES
from fourstage.stats.outliers import outliers
from fourstage.stats.trends import Drift, drift, regression
from fourstage.trust.audits import APART, CACHED_BELOW, OBSERVED_ABOVE
from fourstage.trust.check import Check, Faults, Relation, Verdict, any_fault, key_of, keys_of, not_possible, present
from fourstage.trust.evidence import Evidence

UNACCOUNTED_LIMIT = 0.03  # share of end to end that no stage accounts for, median
DRIFT_LIMIT = 0.03  # change of time from first to last sample
OUTLIER_LIMIT = 0.05  # share of samples far outside
DRIFT_CERTAIN, DRIFT_LIKELY = 0.999, 0.95  # levels at which a drift fails and warns
OBSERVER_WARN = 0.01  # what measuring may cost of the end-to-end time; OBSERVED_ABOVE fails
FLOOR_LIMIT = 1.10  # the peaks are measured too, within some percent
BUSY_LIMIT = 0.20  # share of all processors that others used meanwhile
TOO_BUSY = "the machine is too busy to tell"
EXPLAINED_CERTAIN = 0.999  # level of the interval that has to be outside
EXPLAINED_LIMIT = 0.25  # token count's price by regression against the steps' own


def stages_measured(evidence: Evidence) -> Check:
    """No stage is 0 s: it was measured, or it is null."""
    done = evidence.done

    def named(stage: str) -> Callable[[int], str]:
        return lambda i: f"{key_of(done, i)} {stage}"

    zero = [Faults(~(getattr(done, f"{stage}_s") > 0), named(stage)) for stage in STAGES]
    return any_fault(evidence, "stages_measured", "every stage of a successful sample took measurable time", zero)


def stages_close(evidence: Evidence) -> Check:
    """The four stages account for the end-to-end time."""
    sentence = "the four stages account for the end-to-end time"
    done = evidence.done
    both = (done.end_to_end_s != 0) & ~np.isnan(done.end_to_end_s) & ~np.isnan(done.total_s)
    if not both.any():
        return not_possible("stages_close", sentence, "no sample has both times")
    median = float(np.median(np.abs(done.end_to_end_s - done.total_s)[both] / done.end_to_end_s[both]))
    verdict: Verdict = "pass" if median <= UNACCOUNTED_LIMIT else "fail"
    detail = "" if verdict == "pass" else f"{median:.1%} of the end-to-end time is in no stage"
    what = "unaccounted for"
    return Check("stages_close", sentence, verdict, median, UNACCOUNTED_LIMIT, detail, what, "at most", "share")


def tokens_explain_time(evidence: Evidence) -> Check:
    """Decode time rises with the token count by what a decode step takes."""
    sentence = "the time of stage 4 is explained by the number of tokens"
    done = evidence.done
    steps = present(done.tpot_ms) / 1000
    tokens, seconds, prefill, own = _decode_calls(done)
    several = tokens > 1
    if not len(steps) or not several.any():
        return not_possible("tokens_explain_time", sentence, "no sample has two tokens")
    if not (price := float(np.median(steps))):
        return not_possible("tokens_explain_time", sentence, "the median decode step took 0 s")
    counts, error = np.unique(tokens), 0.0
    if len(counts) < 3 or counts[-1] < 1.5 * counts[0]:
        # one length only: then a token's price is compared directly
        implied = float(np.median((seconds - prefill)[several] / (tokens[several] - 1)))
    else:
        from scipy.stats import t

        # what an answer's own steps leave: one long answer on a busy machine has another price than the short ones
        line = regression(tokens, seconds - own)
        implied, error = price + line.slope, float(line.slope_se * t.ppf((1 + EXPLAINED_CERTAIN) / 2, len(tokens) - 2))
    off = implied / price - 1
    verdict: Verdict = "pass" if abs(off) <= EXPLAINED_LIMIT else "fail"
    if verdict == "fail" and abs(off) - error / price <= EXPLAINED_LIMIT:
        either = f"{off:+.0%} ± {error / price:.0%} from a token's price by its steps, {len(tokens)} calls"
        return not_possible("tokens_explain_time", sentence, f"{TOO_BUSY}: {either}")
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
        return not_possible("nothing_impossible", sentence, evidence.no_shares)
    fastest = {kind: found for kind, found in evidence.shares.fastest.items() if found is not None}
    if not fastest:
        return not_possible("nothing_impossible", sentence, "no stage has both a time and a floor")
    kind, found = max(fastest.items(), key=lambda item: item[1].share)
    verdict: Verdict = "pass" if found.share <= FLOOR_LIMIT else "fail"
    detail = f"{kind} of {found.key} took {seconds_text(found.seconds)}, its floor is {seconds_text(found.floor_s)}"
    what = "as fast as the device's limit"
    return Check(
        "nothing_impossible", sentence, verdict, found.share, FLOOR_LIMIT, detail, what, "at most", unit="times"
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
        return not_possible("no_drift", sentence, f"{len(order)} samples, at least 8 are needed")
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
        return not_possible("no_caching", sentence, evidence.no_audits)
    asked = evidence.expected.cached_stages
    found = evidence.audits.repeat_against_perturbed
    ratios = {stage: ratio for stage, ratio in found.items() if stage not in asked}
    if not ratios:
        return not_possible("no_caching", sentence, "no sample could be repeated")
    cached = {stage: ratio for stage, ratio in ratios.items() if ratio.side == "below"}
    open_ = {stage: ratio for stage, ratio in ratios.items() if ratio.side is None}
    stage, ratio = min((cached or open_ or ratios).items(), key=lambda item: item[1].interval.high)
    share = ratio.interval
    detail = f"{stage}: {share.estimate:.0%} [{share.low:.0%}, {share.high:.0%}], {share.n} pairs"
    detail += f"; {' and '.join(asked)} cached, as asked" if asked else ""
    if open_ and not cached:
        return not_possible("no_caching", sentence, f"{TOO_BUSY}: {detail}")
    verdict: Verdict = "fail" if cached else "pass"
    what = "of a fresh copy's time, at the upper end of the interval"
    return Check("no_caching", sentence, verdict, share.high, CACHED_BELOW, detail, what, "at least", "share")


def little_observed(evidence: Evidence) -> Check:
    """Reading the clock at each border and token does not slow the sample down."""
    sentence = "measuring does not slow the measured"
    if evidence.audits is None:
        return not_possible("little_observed", sentence, evidence.no_audits)
    ratio = evidence.audits.instrumented_against_bare
    if ratio is None:
        return not_possible("little_observed", sentence, "no sample could be run both ways")
    longer = ratio.interval
    detail = f"{longer.estimate - 1:+.1%} [{longer.low - 1:+.1%}, {longer.high - 1:+.1%}], {longer.n} pairs"
    if ratio.side is None:
        return not_possible("little_observed", sentence, f"{TOO_BUSY}: {detail}")
    sure = longer.low - 1
    verdict: Verdict = "fail" if ratio.side == "above" else "warn" if sure > OBSERVER_WARN else "pass"
    limit = OBSERVED_ABOVE - 1 if verdict == "fail" else OBSERVER_WARN
    what = "longer, at the lower end of the interval"
    return Check("little_observed", sentence, verdict, sure, limit, detail, what, "at most", "share")


def stages_apart(evidence: Evidence) -> Check:
    """Preprocess and encode take on the record what they take by themselves, by another clock."""
    sentence = "preprocess and encode take as long by themselves, by another clock"
    if evidence.audits is None:
        return not_possible("stages_apart", sentence, evidence.no_audits)
    asked = evidence.expected.cached_stages
    found = [
        (stage, ratio, ratio.side == side)
        for side, ratios in evidence.audits.recorded_against_apart.items()
        for stage, ratio in ratios.items()
        if stage not in asked
    ]
    if not found:
        return not_possible("stages_apart", sentence, "no sample could be timed both ways")
    wrong = [(stage, ratio) for stage, ratio, fault in found if fault]
    open_ = [(stage, ratio) for stage, ratio, _ in found if ratio.side is None]
    chosen = wrong or open_ or [(stage, ratio) for stage, ratio, _ in found]
    stage, ratio = max(chosen, key=lambda item: abs(math.log(max(item[1].interval.estimate, 1e-9))))
    share = ratio.interval
    detail = f"{stage}: {share.estimate - 1:+.0%} [{share.low - 1:+.0%}, {share.high - 1:+.0%}], {share.n} pairs"
    if open_ and not wrong:
        return not_possible("stages_apart", sentence, f"{TOO_BUSY}: {detail}")
    verdict: Verdict = "fail" if wrong else "pass"
    what = "on the record from the time by itself"
    return Check("stages_apart", sentence, verdict, share.estimate - 1, APART - 1, detail, what, "within", "share")


def outliers_named(evidence: Evidence) -> Check:
    """Samples far outside the others are kept, and named."""
    sentence = "few samples lie far outside the others"
    work = _without_length(evidence.done)
    known = np.flatnonzero(~np.isnan(work))
    if len(known) < 8:
        return not_possible("outliers_named", sentence, f"{len(known)} samples, at least 8 are needed")
    far = known[outliers(work[known]).severe]
    share = len(far) / len(known)
    verdict: Verdict = "pass" if share <= OUTLIER_LIMIT else "warn"
    named, what = keys_of(evidence.done, far), "of samples do"
    return Check("outliers_named", sentence, verdict, share, OUTLIER_LIMIT, named, what, "at most", "share")


def warmed_up(evidence: Evidence) -> Check:
    """Times were stable before the measurement began."""
    sentence = "times were stable before the measurement began"
    if not evidence.warm_up or not any(found.rounds for found in evidence.warm_up.values()):
        return not_possible("warmed_up", sentence, "no warm-up was made (protocol.warmup=0, or no sample worked)")
    unstable = [shape for shape, found in evidence.warm_up.items() if not found.stable]
    rounds = max(found.rounds for found in evidence.warm_up.values())
    verdict: Verdict = "warn" if unstable else "pass"
    detail = f"still changing after {rounds} rounds: {unstable[0]}; raise protocol.warmup" if unstable else ""
    return Check("warmed_up", sentence, verdict, f"{rounds} rounds", None, detail)


def machine_quiet(evidence: Evidence) -> Check:
    """What other processes did is in the times too."""
    sentence = "other processes left the processors alone during the measurement"
    if evidence.busy is None:
        return not_possible("machine_quiet", sentence, "the processors' use was not read")
    verdict: Verdict = "pass" if evidence.busy <= BUSY_LIMIT else "warn"
    detail = "" if verdict == "pass" else "times are those of a busy machine: measure again when it is quiet"
    what = "of all processors were used by others"
    return Check("machine_quiet", sentence, verdict, evidence.busy, BUSY_LIMIT, detail, what, "at most", "share")


def _without_length(run: Columns) -> Floats:
    """Seconds of a sample's call with its answer's length taken out: the stages before, prefill, and one mean step.

    NaN for a batch smaller than the others, such as the last one: it costs something else.
    """
    before = (run.load_s + run.preprocess_s + run.encode_s) * run.batch_size  # a record holds its share
    parts = before + run.prefill_s
    seconds = np.where(np.isnan(parts), run.total_s * run.batch_size, parts + np.nan_to_num(run.tpot_ms) / 1000)
    return np.where(run.batch_size == run.batch_size.max(initial=1), seconds, np.nan)


def _decode_calls(run: Columns) -> tuple[Floats, Floats, Floats, Floats]:
    """Of each call of stage 4: tokens of its longest answer, its seconds, those of prefill (0 where unknown), and those
    of its decode steps."""
    timed = run.where((run.output_tokens > 0) & ~np.isnan(run.decode_s))
    _, first, call = np.unique(timed.calls, return_index=True, return_inverse=True)
    tokens = np.zeros(len(first))
    np.maximum.at(tokens, call, timed.output_tokens)
    whole = timed.decode_s * timed.batch_size  # a record holds its share
    own = np.zeros(len(first))
    np.maximum.at(own, call, timed.token_sum_s)
    return tokens, whole[first], np.nan_to_num(timed.prefill_s)[first], own
