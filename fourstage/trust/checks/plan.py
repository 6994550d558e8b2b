"""Checks of the plan: was everything measured that was to be measured, and nothing else?"""

from __future__ import annotations

import numpy as np

from fourstage.stats.intervals import measurement_half_width
from fourstage.trust.check import Check, Verdict, faults_found, keys_of, names_of, not_possible
from fourstage.trust.evidence import Evidence


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
            detail += f"{word} {names_of([names[code] for code in np.unique(pairs[these] // radix)])}"
    if failed and not wrong:
        detail = f"failed: {keys_of(run, ~run.ok)}"
    return Check(
        "as_planned",
        "every planned sample has exactly one record, failed samples included",
        verdict,
        counted,
        f"{len(evidence.planned)} records",
        detail,
        relation="exactly",
    )


def plan_is_dataset(evidence: Evidence) -> Check:
    """The samples that were planned are those of the dataset's own file, none left out or replaced."""
    sentence = "the samples that were planned are those that the dataset lists"
    if evidence.listed is None:
        return not_possible("plan_is_dataset", sentence, evidence.no_listed)
    planned, listed = dict.fromkeys(key for key, _ in evidence.planned), dict.fromkeys(evidence.listed)
    missing, other = [key for key in listed if key not in planned], [key for key in planned if key not in listed]
    detail = "; ".join(
        f"{word} {names_of(keys)}" for word, keys in (("not planned", missing), ("not in the dataset", other)) if keys
    )
    return faults_found("plan_is_dataset", sentence, len(missing) + len(other), detail)


def precise_enough(evidence: Evidence) -> Check:
    """The noise of the mean total, as repeats show it, is within the protocol's target."""
    sentence = "the mean was repeated until it was as precise as asked for"
    target, done = evidence.expected.target_half_width, evidence.done
    if not len(done):
        return not_possible("precise_enough", sentence, "no sample succeeded")
    if target is None:
        return Check("precise_enough", sentence, "pass", "no target asked for", None)
    found = measurement_half_width(done.total_s, done.key_codes.tolist())
    verdict: Verdict = "pass" if found <= target else "warn"
    detail = "" if verdict == "pass" else "raise protocol.max_repeats, or measure on a quieter machine"
    what = "noise of the mean total, either way"
    return Check("precise_enough", sentence, verdict, found, target, detail, what, "at most", "share")
