"""Checks of settings: is what was composed what ran?"""

from __future__ import annotations

import numpy as np

from fourstage.measure.plan import sample_seed
from fourstage.trust.check import Check, Faults, any_fault, count_of, every_fault, key_of, not_possible
from fourstage.trust.evidence import DTYPES, Evidence

COLD_LIMIT = 0.01  # share of a sample's files that may be left in the page cache, or out of it


def config_used(evidence: Evidence) -> Check:
    """What was composed is what ran: precision, source, images, batch, limits."""
    expected, done = evidence.expected, evidence.done
    sources: tuple[str | None, ...] = (*done.sources, None)  # none: -1, the last
    asked = np.array([source in expected.sources for source in sources])
    tokens, images = done.output_tokens, done.images
    served = len(expected.cached_stages)
    fixed = expected.stop == "fixed"
    faults = [
        Faults(~asked[done.source_codes], lambda i: f"{key_of(done, i)}: read from {sources[done.source_codes[i]]}"),
        Faults(
            (images != expected.images) & ~done.noted,
            lambda i: f"{key_of(done, i)}: {count_of(images[i])} images, {expected.images} asked for",
        ),
        Faults(
            done.cached != served,
            lambda i: f"{key_of(done, i)}: {done.cached[i]} stages served from the cache, {served} asked for",
        ),
        Faults(done.batch_size > expected.batch_size, lambda i: f"{key_of(done, i)}: batch of {done.batch_size[i]}"),
        Faults(tokens > expected.max_new_tokens, lambda i: f"{key_of(done, i)}: {count_of(tokens[i])} tokens"),
        Faults(
            fixed & (tokens != expected.max_new_tokens),
            lambda i: f"{key_of(done, i)}: {count_of(tokens[i])} tokens, exactly {expected.max_new_tokens} asked for",
        ),
        *_ended_early(evidence),
        *map(every_fault, (_wrong_ends(evidence), _wrong_seeds(evidence), list(expected.parameters))),
    ]
    if DTYPES[expected.precision] != expected.dtype:
        other = f"precision={expected.precision}, the model is {expected.dtype}"
        faults.insert(0, Faults(np.ones(1, dtype=np.bool_), lambda _: other))
    return any_fault(evidence, "config_used", "the settings that were composed are those that ran", faults)


def _ended_early(evidence: Evidence) -> list[Faults]:
    """Answers that are said to have met the limit, and have fewer tokens; beams may have left some out."""
    expected, done = evidence.expected, evidence.done
    codes = [code for code, reason in enumerate(done.finish_reasons) if reason == "length"]
    tokens = done.output_tokens
    early = np.isin(done.finish_reason_codes, codes) & (tokens < expected.max_new_tokens)
    if expected.stop == "fixed":  # any other number of tokens is a fault already
        return []
    return [
        Faults(
            early,
            lambda i: (
                f"{key_of(done, i)}: ended by length at {count_of(tokens[i])} of {expected.max_new_tokens} tokens"
            ),
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


def io_held(evidence: Evidence) -> Check:
    """Cold files were cold, warm ones warm, just before they were read: by `load`, or into the run's cache."""
    sentence = "the page cache held what the protocol asked for"
    asked, done = evidence.expected.io, evidence.done
    if not len(done):
        return not_possible("io_held", sentence, "no sample succeeded")
    if asked == "as_is":
        return Check("io_held", sentence, "pass", "as_is: nothing asked for", None)
    share = done.cached_share
    if evidence.expected.cached_stages:
        sentence += " when the cache was filled"
    if np.isnan(share).any():
        return not_possible("io_held", sentence, "this system, or this dataset's owner, does not let it be read")
    wrong = share > COLD_LIMIT if asked == "cold" else share < 1 - COLD_LIMIT
    fault = Faults(wrong, lambda i: f"{key_of(done, i)}: {share[i]:.0%} of its files cached, io={asked} asked for")
    return any_fault(evidence, "io_held", sentence, [fault])
