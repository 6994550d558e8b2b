"""Is a hand-made result file believable? The checks of a new run where the file allows them, and some of its own.

Every check of `checks.py` is there under its name: as it is, in a form for what a file says, or not possible with
the reason. Four more look for what hand-made files are known to get wrong: values that are no measurement, rows
that are there twice, answers cut at one length, a time per token that is not its own quotient.

    checks = check_legacy(run)
    valid(checks)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from fourstage.legacy.file_checks import FILE_CHECKS, faults_check, first_few, is_quotient, successful
from fourstage.legacy.reader import LegacyRun
from fourstage.legacy.samples import FileFacts
from fourstage.legacy.weights import FASTEST_BYTES_PER_S, seconds_per_token, weights_of
from fourstage.records.columns import Floats
from fourstage.stages import SampleRecord
from fourstage.stats.trends import Slope, theil_sen
from fourstage.trust.check import Check, Verdict
from fourstage.trust.checks import CHECKS
from fourstage.trust.checks.times import (
    EXPLAINED_LIMIT,
    OUTLIER_LIMIT,
    UNACCOUNTED_LIMIT,
    nothing_impossible,
    stages_close,
)
from fourstage.trust.evidence import Evidence, Expected
from fourstage.trust.roofline import Fastest, Shares

FEWEST_ANSWERS = 8  # samples without which nothing is said of a trend

LEAST_SPREAD_TOKENS = 10  # tokens between the shortest and the longest answer, likewise

FLAT_SLOPE = 0.1  # of a token's price by dividing: a line that rises by less does not rise

AS_IT_IS = ("something_succeeded", "not_truncated", "outliers_named", "no_drift")

NOT_IN_A_FILE = {
    "vision_runs_once": "the file does not count calls of the tower",
    "staged_equals_own": "the model is not here to ask",
    "context_held": "the file does not name the model's context",
    "no_caching": "the model is not here to repeat a sample",
    "little_observed": "the model is not here to be run without a clock",
    "config_used": "the file does not show what ran",
    "io_held": "the file does not say what the page cache held",
    "warmed_up": "the file does not say whether there was a warm-up",
    "precise_enough": "nothing was asked for",
    "machine_quiet": "the file does not say what else ran",
    "answers_repeat": "the model is not here to answer again",
    "images_are_the_files": "the media are not here to be read again",
    "stages_apart": "the model is not here to be timed by another clock",
    "plan_is_dataset": "the file does not say which dataset it is of",
    "operations_counted": "the model is not here to count",
    "values_finite": "the model is not here to look into",
}

# what a run would have been composed of; the checks that look at it are not possible on a file
NOTHING_EXPECTED = Expected("fp32", "float32", (), 0, 1, 0, "natural", 1, 0)


def check_legacy(run: LegacyRun) -> list[Check]:
    """Every check of a new run, in the same order, then those of a file alone."""
    evidence = _evidence(run)
    checks = []
    for check in CHECKS:
        name = check.__name__
        if name in OWN:
            checks.append(OWN[name](run, evidence))
        elif name in AS_IT_IS:
            checks.append(check(evidence))
        else:
            checks.append(_not_in_a_file(check(evidence), NOT_IN_A_FILE.get(name, "a file does not show it")))
    return [*checks, *(check(run) for check in FILE_CHECKS)]


def _not_in_a_file(check: Check, why: str) -> Check:
    """The check with its own sentence, less the limit that some name at its end: nothing was composed here."""
    sentence = check.sentence.removesuffix(f" of {NOTHING_EXPECTED.context}")
    return Check(check.id, sentence, "not possible", None, None, why)


def _evidence(run: LegacyRun) -> Evidence:
    planned = [(record.key, record.repeat) for record in run.records]
    evidence = Evidence.of(run.records, planned=planned, expected=NOTHING_EXPECTED)
    if not _unseparated(run):
        return evidence
    # of such a file only the whole time is known: a token's price is taken out of it, so that lengths are no drift
    columns = evidence.columns
    timed = ~np.isnan(columns.total_s) & ~np.isnan(columns.output_tokens)
    line = _line(columns.output_tokens[timed], columns.total_s[timed])
    if line is None:
        return evidence
    of_length = np.where(timed, line.slope * (columns.output_tokens - np.median(columns.output_tokens[timed])), 0.0)
    return replace(evidence, columns=replace(columns, total_s=columns.total_s - of_length))


def _unseparated(run: LegacyRun) -> bool:
    return "generate" in run.stage_of.values()


def _line(tokens: Floats, seconds: Floats) -> Slope | None:
    """Seconds over tokens; None where answers are too few, or too much alike."""
    counts = np.unique(tokens)
    if len(tokens) < FEWEST_ANSWERS or len(counts) < 3 or counts[-1] - counts[0] < LEAST_SPREAD_TOKENS:
        return None
    return theil_sen(tokens, seconds)


def as_planned(run: LegacyRun, evidence: Evidence) -> Check:
    """Every sample of which the file speaks has a result."""
    failed = [record.key for record in run.records if not record.ok]
    count, sentence = len(run.records), "every planned sample has exactly one record, failed samples included"
    claimed = run.claimed_samples if run.claimed_samples is not None else count
    keys = len({record.key for record in run.records})
    verdict: Verdict = "fail" if claimed not in (count, keys) else "warn" if failed else "pass"
    detail = f"failed: {first_few(failed)}" if failed else ""
    if verdict == "fail":
        detail = f"the file speaks of {claimed} samples and has {count}" + (f"; {detail}" if detail else "")
    found, limit = f"{count} records, {len(failed)} failed", f"{claimed} records"
    if claimed != count and verdict != "fail":  # the file counts its samples, not what was measured of each
        found, limit = f"{keys} samples in {found}", f"{claimed} samples"
    return Check("as_planned", sentence, verdict, found, limit, detail, relation="exactly")


def stages_measured(run: LegacyRun, evidence: Evidence) -> Check:
    """No stage of the file is exactly 0: that is a stage which did not run, or whose time went elsewhere."""
    names = list(run.stage_of.values())
    zero = [
        f"{record.key} {names[i]}"
        for record, facts in successful(run)
        for i, seconds in enumerate(facts.stage_s)
        if seconds == 0
    ]
    apart = "the file does not time encode and decode apart" if _unseparated(run) else ""
    return faults_check(run, "stages_measured", "every stage of a successful sample took measurable time", zero, apart)


def closes(run: LegacyRun, evidence: Evidence) -> Check:
    """The median as in a new run; a single sample that does not close is named."""
    check = stages_close(_evidence_as_read(run))
    if check.verdict != "pass":
        return check
    off = [
        f"{record.key}: stages sum to {record.total_s:.3g} s, the file's total is {record.end_to_end_s:.3g} s"
        for record, _ in successful(run)
        if record.total_s is not None
        and record.end_to_end_s is not None
        and abs(record.end_to_end_s - record.total_s) > UNACCOUNTED_LIMIT * record.end_to_end_s
    ]
    if not off:
        return check
    what = f"of the samples leave more than {UNACCOUNTED_LIMIT:.0%} of their time in no stage"
    return replace(
        check, verdict="warn", value=len(off) / len(successful(run)), limit=0.0, detail=first_few(off), what=what
    )


def _evidence_as_read(run: LegacyRun) -> Evidence:
    return Evidence.of(run.records, planned=(), expected=NOTHING_EXPECTED)


def counts_are_the_ids(run: LegacyRun, evidence: Evidence) -> Check:
    """The count is the ids', without the prompt, and the text can be made of so many tokens."""
    faults = [f"{record.key}: {fault}" for record, facts in successful(run) if (fault := _count_fault(record, facts))]
    counted = any(record.output_tokens is not None for record, _ in successful(run))
    name, sentence = "counts_are_the_ids", "token counts, ids and text agree, without the prompt"
    if not counted and any(record.ok for record in run.records):
        return Check(name, sentence, "not possible", None, None, "the file has neither token counts nor ids")
    return faults_check(run, name, sentence, faults)


def _count_fault(record: SampleRecord, facts: FileFacts) -> str:
    """What is wrong with a sample's count; "" where nothing is."""
    count, ids, prompt = record.output_tokens, len(record.output_ids), facts.prefill_length
    if count is None:
        return ""
    if record.output and record.question and record.output.startswith(record.question):
        return "the output begins with the question"
    if ids and count != ids:
        with_prompt = prompt is not None and count == ids + prompt
        return f"{count} tokens stated, {ids} ids" + (
            f": it includes the {prompt} of the prompt" if with_prompt else ""
        )
    if record.output is not None:
        # LLaMA's tokens hold no inner space, so a word is at least one; a token is at least a byte, of which the
        # begin and end tokens have none
        words, most = len(record.output.split()), len(record.output.encode()) + 2
        if count < words:
            return f"{count} tokens for a text of {words} words"
        if count > most:
            return f"{count} tokens for a text of {most - 2} bytes{_of_prompt(count, prompt)}"
    steps_s = facts.stage_s[-1] if len(facts.stage_s) == 5 else None
    if prompt and steps_s and facts.mean_token_s and count > prompt:
        quotient = is_quotient(facts.mean_token_s, steps_s, count)
        if not quotient and is_quotient(facts.mean_token_s, steps_s, count - prompt):
            return f"{count} tokens{_of_prompt(count, prompt)}, as the file's time per token shows"
    return ""


def _of_prompt(count: int, prompt: int | None) -> str:
    return f": it includes the {prompt} of the prompt" if prompt and count > prompt else ""


def explains(run: LegacyRun, evidence: Evidence) -> Check:
    """The last stage's seconds over its tokens are a line, which rises, and by what a token takes where that is known.

    A prompt in the counts moves the line away from the origin: then a token costs more by the line than by quotient.
    """
    name, sentence = "tokens_explain_time", "the time of the last stage is explained by the number of tokens"
    known = [(record, facts.stage_s[-1]) for record, facts in successful(run) if record.output_tokens is not None]
    tokens = np.array([record.output_tokens for record, _ in known], dtype=np.float64)
    seconds = np.array([time for _, time in known])
    if (line := _line(tokens, seconds)) is None:
        why = f"{len(known)} answers, at least {FEWEST_ANSWERS} of several lengths are needed"
        return Check(name, sentence, "not possible", None, None, why)
    by_count = f"{1000 * line.slope:.3g} ms a token by the line through all answers"
    price = float(np.median(seconds / np.maximum(tokens, 1)))
    if line.high < FLAT_SLOPE * price:
        flat = f"more tokens do not take longer: {by_count}"
        return Check(name, sentence, "fail", 1000 * line.slope, None, flat, "more for each token", unit="ms")
    if line.low <= 0:
        return Check(name, sentence, "not possible", None, None, f"too noisy: {by_count}")
    apart = "prefill" in run.stage_of.values()  # then the last stage is nothing but tokens
    if apart and (line.high < (1 - EXPLAINED_LIMIT) * price or line.low > (1 + EXPLAINED_LIMIT) * price):
        detail = f"{by_count}, {1000 * price:.3g} ms by dividing"
        what, off = "from a token's price by dividing to that by the line", line.slope / price - 1
        return Check(name, sentence, "fail", off, EXPLAINED_LIMIT, detail, what, "within", "share")
    expected = line.intercept + line.slope * tokens
    far = np.abs(seconds - expected) > EXPLAINED_LIMIT * np.abs(expected)
    share = float(far.mean())
    verdict: Verdict = "fail" if share > OUTLIER_LIMIT else "warn" if share else "pass"
    outlying = [
        f"{known[i][0].key}: {tokens[i]:.0f} tokens in {seconds[i]:.3g} s, the others tell {expected[i]:.3g} s"
        for i in np.flatnonzero(far)
    ]
    what, limit = f"of answers are more than {EXPLAINED_LIMIT:.0%} off the line through all", OUTLIER_LIMIT
    if verdict == "warn":
        limit = 0.0  # fewer than those that fail, and still to be looked at
    return Check(name, sentence, verdict, share, limit, first_few(outlying), what, "at most", "share")


def possible(run: LegacyRun, evidence: Evidence) -> Check:
    """A token needs every weight once, and no memory is faster than the fastest on sale."""
    billions, width, why = weights_of(run)
    if why:
        return nothing_impossible(replace(evidence, shares=None, no_shares=why))
    floor_s = billions * 1e9 * width / FASTEST_BYTES_PER_S
    prices = {
        record.key: price
        for record, facts in successful(run)
        if (price := seconds_per_token(record, facts)) is not None
    }
    fastest = min(prices.items(), key=lambda item: item[1], default=None)
    found = {"decode": Fastest(fastest[0], fastest[1], floor_s)} if fastest else {}
    check = nothing_impossible(replace(evidence, shares=Shares(None, None, None, None, found)))
    if not found:
        return replace(check, detail="no sample has both a time and two tokens")
    assumed = (
        f"a token, if {billions:g}e9 parameters of {width:g} bytes are read once for each at "
        f"{FASTEST_BYTES_PER_S / 1e12:g} TB/s"
    )
    return replace(check, detail=f"{check.detail} {assumed}")


OWN: Mapping[str, Callable[[LegacyRun, Evidence], Check]] = {
    "as_planned": as_planned,
    "stages_measured": stages_measured,
    "stages_close": closes,
    "counts_are_the_ids": counts_are_the_ids,
    "tokens_explain_time": explains,
    "nothing_impossible": possible,
}
