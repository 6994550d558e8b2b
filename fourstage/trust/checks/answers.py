"""Checks of answers: do the stages compute what the model computes, once, on the sample's own data?"""

from __future__ import annotations

import numpy as np

from fourstage.records.units import first_few
from fourstage.trust.check import (
    NAMED,
    Check,
    Faults,
    Verdict,
    any_fault,
    count_of,
    faults_found,
    key_of,
    names_of,
    not_possible,
    present,
)
from fourstage.trust.evidence import Evidence

TRUNCATED_LIMIT = 0.10  # share of answers that max_new_tokens ended


def vision_runs_once(evidence: Evidence) -> Check:
    """The vision tower ran once for each sample or batch."""
    sentence = "the vision tower ran once for each sample or batch"
    counts = present(evidence.done.vision_calls)
    if not len(counts):
        return not_possible("vision_runs_once", sentence, "calls of the tower were not counted")
    most, least = int(counts.max()), int(counts.min())
    verdict: Verdict = "pass" if most == least == 1 else "fail"
    found = most if most != 1 else least
    what = f"call{'s' if found != 1 else ''} of the tower for one sample or batch"
    return Check("vision_runs_once", sentence, verdict, found, 1, what=what, relation="exactly")


def staged_equals_own(evidence: Evidence) -> Check:
    """The staged path computes what the model's own generate() computes."""
    sentence = "greedy token ids of the stages equal those of the model's own generate()"
    if evidence.audits is None:
        return not_possible("staged_equals_own", sentence, evidence.no_audits)
    audits = evidence.audits
    same, tried = audits.equal_samples, audits.compared_samples
    failed = f"left out: {first_few(audits.failed, NAMED, separator='; ')}" if audits.failed else ""
    if not tried:
        return not_possible("staged_equals_own", sentence, failed or "no sample could be answered both ways")
    near = len(audits.near_ties)
    verdict: Verdict = "pass" if same + near == tried else "fail"
    found = f"{same} of {tried}" + (f", {near} up to a near-tie," if near else "")
    detail = "; ".join(filter(None, (names_of((*audits.apart, *audits.near_ties)), failed)))
    what = "samples have the same ids"
    return Check("staged_equals_own", sentence, verdict, found, "all", detail, what, "exactly")


def answers_repeat(evidence: Evidence) -> Check:
    """Measured answers are those of the model's own generate(), on files read anew by other code."""
    sentence = "measured answers are the model's own, on their sample's files read anew"
    if evidence.audits is None:
        return not_possible("answers_repeat", sentence, evidence.no_audits)
    found = evidence.audits.again
    left_out = first_few(found.left_out, NAMED, separator="; ")
    if not found.answers and not found.faults:
        return not_possible("answers_repeat", sentence, left_out or "no measured answer could be made again")
    detail = "; ".join(filter(None, (names_of(found.faults), left_out and f"left out: {left_out}")))
    return faults_found("answers_repeat", sentence, len(found.faults), detail or f"{found.answers} answers")


def images_are_the_files(evidence: Evidence) -> Check:
    """Stage 1 reads the images that the files hold, at the indices that the record names."""
    sentence = "images and their indices are those that separate code reads from the files"
    if evidence.audits is None:
        return not_possible("images_are_the_files", sentence, evidence.no_audits)
    found = evidence.audits.again
    if not found.images:
        left_out = first_few(found.left_out, NAMED, separator="; ")
        return not_possible("images_are_the_files", sentence, left_out or "no sample could be read by separate code")
    detail = names_of(found.other_images) or f"{found.images} samples"
    return faults_found("images_are_the_files", sentence, len(found.other_images), detail)


def operations_counted(evidence: Evidence) -> Check:
    """What torch counts in a sample's stages is what the model's shapes and the sample's sizes ask for."""
    sentence = "encode, prefill and a decode step do the operations that the model's shapes ask for"
    if evidence.audits is None:
        return not_possible("operations_counted", sentence, evidence.no_audits)
    found = evidence.audits.operations
    if not found.counted:
        return not_possible("operations_counted", sentence, found.why_not)
    return faults_found("operations_counted", sentence, len(found.faults), names_of(found.faults))


def counts_are_the_ids(evidence: Evidence) -> Check:
    """Output tokens are the new ids, one decode step each after the first, and the text is theirs alone."""
    done, ids = evidence.done, evidence.done.ids
    told = done.output_tokens != ids
    stepped = ~told & (evidence.expected.num_beams == 1) & (done.steps != np.maximum(ids - 1, 0))
    faults = [
        Faults(told, lambda i: f"{key_of(done, i)}: {count_of(done.output_tokens[i])} tokens told, {ids[i]} ids"),
        Faults(stepped, lambda i: f"{key_of(done, i)}: {ids[i]} ids, {done.steps[i]} decode steps"),
    ]
    texts = []
    for record in evidence.sampled:
        if not record.ok or record.output_tokens != len(record.output_ids):
            continue
        if record.output and record.prompt and record.output.startswith(record.prompt):
            texts.append(f"{record.key}: the output begins with the prompt")
        elif evidence.detokenise is not None and record.output != evidence.detokenise(record.output_ids):
            texts.append(f"{record.key}: the text is not that of the ids")
    faults.append(Faults(np.ones(len(texts), dtype=np.bool_), lambda i: texts[i]))
    seen, every = len(evidence.sampled), len(evidence.columns)
    return any_fault(
        evidence,
        "counts_are_the_ids",
        "token counts, ids, steps and text agree, without the prompt",
        faults,
        f"texts on {seen:,} of {every:,} records" if seen < every else "",
    )


def not_truncated(evidence: Evidence) -> Check:
    """Answers ended by themselves, not by max_new_tokens."""
    sentence = "answers ended by themselves, not by max_new_tokens"
    if evidence.expected.stop == "fixed":
        return Check("not_truncated", sentence, "pass", "fixed length asked for", None)
    done = evidence.done
    ended = done.finish_reason_codes[done.finish_reason_codes >= 0]
    if not len(ended):
        return not_possible("not_truncated", sentence, "no sample has a finish reason")
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
    over = [Faults(rows > evidence.expected.context, lambda i: f"{key_of(done, i)}: {count_of(rows[i])} rows")]
    return any_fault(
        evidence,
        "context_held",
        f"prompt, media and answer fit into the model's context of {evidence.expected.context}",
        over,
    )


def values_finite(evidence: Evidence) -> Check:
    """No features or logits are NaN or infinite, in samples with suspicious answers first."""
    sentence = "features, first and last logits of audited samples are finite"
    if evidence.audits is None:
        return not_possible("values_finite", sentence, evidence.no_audits)
    found = evidence.audits.finite
    if not found.samples:
        return not_possible("values_finite", sentence, "no audited sample has features or logits that can be seen")
    detail = "; ".join((*found.faults[:NAMED], *found.suspicious[:NAMED]))
    return faults_found("values_finite", sentence, len(found.faults), detail)
