"""Every check from both sides: it passes on the honest run and fails on the planted fault."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from fourstage.measure.loop import measure
from fourstage.measure.warm_up import WarmUp
from fourstage.records.table import write_records
from fourstage.stages import SampleRecord, Sampling
from fourstage.stats.intervals import Interval
from fourstage.trust.anew import Again
from fourstage.trust.audits import Audits, Ratio, perturbed, run_audits
from fourstage.trust.check import Check, as_dict, not_finished, valid
from fourstage.trust.checks import CHECKS, check_run
from fourstage.trust.evidence import SAMPLED, Evidence, Expected
from fourstage.trust.finite import Finite
from fourstage.trust.operations import Operations
from fourstage.trust.roofline import Fastest, Shares
from tests.fakes import fake, plan, samples

GREEDY = Sampling(0, 1, 0, max_new_tokens=100)
EXPECTED = Expected("fp32", "float32", ("png",), 1, 1, 100, "natural", 1, 2048)
LONGER = Ratio(Interval(1.2, 1.4, 1.3, 0.998, 10), "above")
POSSIBLE = Shares(0.5, 0.5, 0.6, 0.55, {"decode": Fastest("s0", 0.05, 0.03)})


def evidence(n: int = 20, audited: bool = True, **costs: Any) -> Evidence:
    """What a run of the fake pipeline leaves."""
    pipeline, timing = fake(**costs)
    planned = plan(samples(n), ["why?"] * n, repeats=1, seed=0)
    records = list(measure(pipeline, planned, GREEDY, timing))
    return Evidence.of(
        records,
        planned=[(item.sample.key, item.repeat) for item in planned],
        expected=EXPECTED,
        detokenise=lambda ids: "text",
        audits=replace(
            run_audits(pipeline, planned, GREEDY, timing),
            finite=Finite(1),
            again=Again(2, images=2),
            operations=Operations(3),
        )
        if audited
        else None,
        shares=POSSIBLE,
        busy=0.02,
        listed=tuple(dict.fromkeys(item.sample.key for item in planned)),
        warm_up={"1 samples": WarmUp(3, True)},
    )


def verdicts(found: Evidence) -> dict[str, str]:
    return {check.id: check.verdict for check in check_run(found)}


def verdict(found: Evidence, name: str) -> Check:
    return next(check for check in check_run(found) if check.id == name)


def changed(found: Evidence, **fields: Any) -> Evidence:
    """The same run with these fields on every record."""
    return on(found, [replace(record, **fields) for record in found.sampled])


def on(found: Evidence, records: Sequence[SampleRecord]) -> Evidence:
    """The same run with other records."""
    other = Evidence.of(records, planned=found.planned, expected=found.expected)
    return replace(found, columns=other.columns, sampled=other.sampled)


def test_an_honest_run_passes_every_check() -> None:
    assert set(verdicts(evidence()).values()) == {"pass"}
    assert valid(check_run(evidence()))


@pytest.mark.parametrize("lengths", [{}, {f"s{i}": 5 + 3 * (i // 3) for i in range(20)}])
def test_an_honest_run_in_batches_passes_every_check(lengths: dict[str, int]) -> None:
    pipeline, timing = fake(tokens_of=lengths)
    planned = plan(samples(20), ["why?"] * 20, repeats=1, seed=0)
    ticking = iter(range(1000))
    timing = replace(timing, wall_clock=lambda: 1.7e9 + next(ticking))
    found = Evidence.of(
        list(measure(pipeline, planned, GREEDY, timing, batch_size=3)),
        planned=[(item.sample.key, item.repeat) for item in planned],
        expected=replace(EXPECTED, batch_size=3),
        detokenise=lambda ids: "text",
        audits=replace(
            run_audits(pipeline, planned, GREEDY, timing),
            finite=Finite(1),
            again=Again(2, images=2),
            operations=Operations(3),
        ),
        shares=POSSIBLE,
        busy=0.02,
        listed=tuple(dict.fromkeys(item.sample.key for item in planned)),
        warm_up={"1 samples": WarmUp(3, True)},
    )
    assert set(verdicts(found).values()) == {"pass"}


def test_an_honest_run_of_different_lengths_passes_every_check() -> None:
    lengths = {f"s{i}": 5 + 3 * i for i in range(20)}
    assert set(verdicts(evidence(tokens_of=lengths)).values()) == {"pass"}


@pytest.mark.parametrize(
    ("plant", "caught_by"),
    [
        ({"encodes_again": True}, "vision_runs_once"),
        ({"encode_s": 0.0}, "stages_measured"),
        ({"counts_prompt": True}, "counts_are_the_ids"),
        ({"gap_s": 0.05 * 0.2}, "stages_close"),  # 5 % of 200 ms
        ({"drift": 0.04 / 20}, "no_drift"),
        ({"caches": True}, "no_caching"),
        ({"own_differs": True}, "staged_equals_own"),
        ({"per_token_read_s": 0.001}, "little_observed"),  # a fifth of a token
        ({"faulty": {f"s{i}": "load" for i in range(20)}}, "something_succeeded"),
    ],
)
def test_a_planted_fault_fails_its_check(plant: dict[str, Any], caught_by: str) -> None:
    found = evidence(**plant)
    assert verdict(found, caught_by).verdict == "fail"
    assert not valid(check_run(found))


def test_a_drift_below_the_limit_and_a_small_gap_pass() -> None:
    assert verdict(evidence(drift=0.02 / 20), "no_drift").verdict == "pass"
    assert verdict(evidence(gap_s=0.02 * 0.2), "stages_close").verdict == "pass"


def test_samples_dropped_in_silence_are_caught() -> None:
    found = evidence()
    assert verdict(on(found, found.sampled[:-2]), "as_planned").verdict == "fail"
    assert "s18; s19" in verdict(on(found, found.sampled[:-2]), "as_planned").detail


def test_a_sample_measured_twice_is_caught() -> None:
    found = evidence()
    assert verdict(on(found, [*found.sampled, found.sampled[0]]), "as_planned").verdict == "fail"


def test_failed_samples_are_counted_and_named_not_dropped() -> None:
    check = verdict(evidence(faulty={"s3": "load"}), "as_planned")
    assert check.verdict == "warn"
    assert "s3" in check.detail
    assert check.value == "20 records, 1 failed"


def test_a_speed_that_the_device_does_not_allow_is_caught() -> None:
    found = replace(evidence(), shares=replace(POSSIBLE, fastest={"decode": Fastest("s4", 0.01, 0.03)}))
    check = verdict(found, "nothing_impossible")
    assert check.verdict == "fail"
    assert "decode of s4" in check.detail


@pytest.mark.parametrize(
    ("fields", "caught_by"),
    [
        ({"output_tokens": 71}, "counts_are_the_ids"),
        ({"output": "other text"}, "counts_are_the_ids"),
        ({"output": "why? text", "prompt": "why?"}, "counts_are_the_ids"),
        ({"decode_s": 0.5}, "tokens_explain_time"),
        ({"text_tokens": 2048}, "context_held"),
        ({"source": "npy"}, "config_used"),
        ({"images": 3}, "config_used"),
        ({"output_tokens": 101}, "config_used"),
        ({"batch_size": 2}, "config_used"),
        ({"load_s": None}, "stages_measured"),
    ],
)
def test_records_that_do_not_fit_together_are_caught(fields: dict[str, Any], caught_by: str) -> None:
    assert verdict(changed(evidence(), **fields), caught_by).verdict == "fail"


def test_the_price_of_a_token_by_count_must_be_the_steps_own() -> None:
    lengths = {f"s{i}": 5 + 3 * i for i in range(20)}
    honest = evidence(tokens_of=lengths)
    assert verdict(honest, "tokens_explain_time").verdict == "pass"
    wrong = on(
        honest,
        [replace(record, decode_s=(record.decode_s or 0) + 0.005 * len(record.token_s)) for record in honest.sampled],
    )
    assert verdict(wrong, "tokens_explain_time").verdict == "fail"


def test_one_long_answer_that_met_a_busy_moment_fails_no_honest_run() -> None:
    """Its tokens cost twice as much as those of the short ones, and its own steps say so."""
    honest = evidence(n=8, tokens_of={f"s{i}": 100 if i == 7 else 6 + i % 3 for i in range(8)})
    busy = [
        replace(
            record, decode_s=(record.decode_s or 0) + sum(record.token_s), token_s=tuple(2 * s for s in record.token_s)
        )
        if record.key == "s7"
        else record
        for record in honest.sampled
    ]
    assert verdict(on(honest, busy), "tokens_explain_time").verdict == "pass"
    hidden = [
        replace(record, decode_s=(record.decode_s or 0) + sum(record.token_s)) if record.key == "s7" else record
        for record in honest.sampled
    ]
    assert verdict(on(honest, hidden), "tokens_explain_time").verdict == "fail"


def test_the_file_gives_the_evidence_of_the_records(tmp_path: Path) -> None:
    found = evidence(n=50, faulty={"s3": "load"}, counts_prompt=True)
    records = [*found.sampled, replace(found.sampled[0], role="sentinel")]
    write_records(records, tmp_path / "records.parquet")
    rest = {
        field: getattr(found, field)
        for field in ("planned", "expected", "detokenise", "audits", "shares", "busy", "warm_up", "listed")
    }
    read = Evidence.read(tmp_path / "records.parquet", **rest)
    assert read.sampled == found.sampled
    assert check_run(read) == check_run(found) == check_run(Evidence.of(records, **rest))


def test_of_many_records_all_numbers_and_some_texts_are_looked_at(tmp_path: Path) -> None:
    found = evidence(n=2 * SAMPLED + 500, audited=False)
    assert [len(found.sampled), found.sampled[0].key, found.sampled[-1].key] == [SAMPLED, "s0", "s2499"]
    gaps = {b.position - a.position for a, b in zip(found.sampled, found.sampled[1:], strict=False)}
    assert gaps == {2, 3}
    check = verdict(found, "counts_are_the_ids")
    assert (check.verdict, check.detail) == ("pass", "texts on 1,000 of 2,500 records")

    unseen = next(i for i in range(2500) if i not in {record.position for record in found.sampled})
    pipeline, timing = fake()
    records = list(measure(pipeline, plan(samples(2500), ["why?"] * 2500, 1, 0), GREEDY, timing))
    records[unseen] = replace(records[unseen], output_tokens=71)
    check = verdict(on(found, records), "counts_are_the_ids")
    assert (check.verdict, check.detail) == (
        "fail", f"s{unseen}: 71 tokens told, 11 ids; texts on 1,000 of 2,500 records",
    )  # fmt: skip
    texts = verdict(changed(found, output="other"), "counts_are_the_ids")
    assert (texts.verdict, texts.value) == ("fail", SAMPLED)


def test_a_long_run_in_batches_is_sampled_by_whole_batches() -> None:
    (one,) = evidence(n=1, audited=False).sampled
    records = [
        replace(one, key=f"s{i}", position=i, batch_size=4, started_unix_s=float(i // 4)) for i in range(4 * SAMPLED)
    ]
    sampled = Evidence.of(records, planned=[], expected=EXPECTED).sampled
    assert len(sampled) == SAMPLED
    starts = [record.started_unix_s for record in sampled]
    assert all(starts.count(start) == 4 for start in starts)


def test_a_large_run_is_checked_in_seconds_and_bounded_memory(tmp_path: Path) -> None:
    n = 200_000
    report.write_synthetic(tmp_path / "records.parquet", n)
    planned = [(f"clip {i % report.KEYS}", i // report.KEYS) for i in range(n)]
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    found = Evidence.read(tmp_path / "records.parquet", planned=planned, expected=report.EXPECTED)
    checks = check_run(found)
    assert time.monotonic() - began < 8  # 1 s on two cores
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300e3  # kB
    assert valid(checks)
    assert {check.verdict for check in checks} == {"pass", "not possible"}

    dropped = verdict(replace(found, planned=[*planned, ("clip 7", 900)]), "as_planned")
    assert (dropped.verdict, dropped.detail) == ("fail", "missing clip 7")


def test_faults_of_many_records_are_counted_and_a_few_are_named() -> None:
    check = verdict(changed(evidence(), load_s=None), "stages_measured")
    assert (check.value, check.detail) == (20, "s0 load; s1 load; s2 load; s3 load; s4 load and 15 more")


@pytest.mark.parametrize(
    ("io", "share", "word"),
    [
        ("cold", 0.0, "pass"),
        ("cold", 0.5, "fail"),
        ("cold", None, "not possible"),
        ("warm", 1.0, "pass"),
        ("warm", 0.2, "fail"),
        ("warm", None, "not possible"),
    ],
)
def test_the_page_cache_was_what_was_asked_for(io: str, share: float | None, word: str) -> None:
    found = replace(changed(evidence(), cached_share=share), expected=replace(EXPECTED, io=io))
    assert verdict(found, "io_held").verdict == word


@pytest.mark.parametrize(
    ("warmed", "word"), [({}, "not possible"), ({"x": WarmUp(3, True)}, "pass"), ({"x": WarmUp(9, False)}, "warn")]
)
def test_a_warm_up_that_never_became_stable_is_told(warmed: dict[str, WarmUp], word: str) -> None:
    assert verdict(replace(evidence(), warm_up=warmed), "warmed_up").verdict == word


def test_precision_is_that_of_measuring_these_samples_not_of_what_they_differ() -> None:
    import random

    noise = random.Random(0)
    base = evidence().sampled
    rounds = [
        replace(record, repeat=repeat, total_s=(1 + i) * noise.gauss(1, 0.01))
        for repeat in range(5)
        for i, record in enumerate(base)
    ]
    found = on(evidence(), rounds)
    for target, word in ((0.02, "pass"), (0.0001, "warn")):
        asked = replace(found, expected=replace(EXPECTED, target_half_width=target))
        assert verdict(asked, "precise_enough").verdict == word


def test_other_precision_than_composed_is_caught() -> None:
    found = replace(evidence(), expected=replace(EXPECTED, dtype="bfloat16"))
    assert verdict(found, "config_used").verdict == "fail"


def test_a_fixed_length_that_was_not_kept_is_caught() -> None:
    found = replace(evidence(), expected=replace(EXPECTED, stop="fixed"))
    assert verdict(found, "config_used").verdict == "fail"
    kept = replace(evidence(), expected=replace(EXPECTED, stop="fixed", max_new_tokens=11))
    assert verdict(kept, "config_used").verdict == "pass"


def test_answers_cut_by_the_limit_are_warned_of() -> None:
    found = changed(evidence(), finish_reason="length")
    assert verdict(found, "not_truncated").verdict == "warn"
    assert verdict(replace(found, expected=replace(EXPECTED, stop="fixed")), "not_truncated").verdict == "pass"


def test_outliers_are_named_and_kept() -> None:
    found = evidence()
    slow = [
        replace(record, preprocess_s=2.0 if i in (3, 7) else record.preprocess_s)
        for i, record in enumerate(found.sampled)
    ]
    check = verdict(on(found, slow), "outliers_named")
    assert check.verdict == "warn"
    assert "s3" in check.detail
    assert "s7" in check.detail


def test_a_check_that_cannot_be_made_does_not_pass() -> None:
    nothing = Evidence.of([], planned=[("s0", 0)], expected=EXPECTED)
    found = verdicts(nothing)
    assert found["something_succeeded"] == "fail"
    assert found["as_planned"] == "fail"
    rest = {name: word for name, word in found.items() if name not in ("something_succeeded", "as_planned")}
    assert set(rest.values()) == {"not possible"}
    for check in check_run(nothing):
        assert check.detail or check.verdict == "fail"


def test_without_audits_what_they_answer_is_not_possible() -> None:
    found = verdicts(evidence(audited=False))
    assert {found[name] for name in ("staged_equals_own", "no_caching", "little_observed")} == {"not possible"}


def test_a_busy_machine_is_warned_of() -> None:
    assert verdict(replace(evidence(), busy=0.45), "machine_quiet").verdict == "warn"


def test_few_samples_cannot_show_a_drift() -> None:
    assert verdict(evidence(n=4), "no_drift").verdict == "not possible"


def test_every_check_has_an_id_of_its_own_and_says_a_sentence() -> None:
    checks = check_run(evidence())
    assert len({check.id for check in checks}) == len(CHECKS) == len(checks)
    assert all(check.id == made.__name__ for check, made in zip(checks, CHECKS, strict=True))
    assert as_dict(checks)["valid"] is True


def test_a_stopped_run_is_invalid() -> None:
    assert not valid([not_finished("KILLED", 3)])


def test_audits_pass_over_a_faulty_sample() -> None:
    pipeline, timing = fake(faulty={"s0": "load"})
    planned = plan(samples(3), ["why?"] * 3, repeats=1, seed=0)
    audits = run_audits(pipeline, planned, GREEDY, timing)
    assert (audits.compared_samples, audits.equal_samples) == (2, 2)
    check = verdict(replace(evidence(), audits=audits), "staged_equals_own")
    assert (check.verdict, check.detail) == ("pass", "left out: s0: SampleError: s0 is not there")


def test_audits_without_a_working_sample_say_nothing() -> None:
    pipeline, timing = fake(faulty={"s0": "load"})
    audits = run_audits(pipeline, plan(samples(1), ["why?"], 1, 0), GREEDY, timing)
    assert audits == Audits(0, 0, {}, None, failed=("s0: SampleError: s0 is not there",))
    check = verdict(replace(evidence(), audits=audits), "staged_equals_own")
    assert (check.verdict, check.detail) == ("not possible", "left out: s0: SampleError: s0 is not there")


def test_perturbed_copies_have_other_pixels_and_leave_the_original_alone() -> None:
    pipeline, _ = fake()
    media = pipeline.load(samples(1)[0])
    before = media.images[0].copy()
    copies = [perturbed(media, number).images[0] for number in range(4)]
    assert len({copy.tobytes() for copy in copies}) == 4
    assert (media.images[0] == before).all()


def test_the_line_of_each_check_says_how_its_value_relates_to_its_limit_as_its_verdict_does() -> None:
    ended = changed(evidence(), finish_reason="length")
    every = [
        evidence(), evidence(gap_s=0.02), evidence(encodes_again=True), evidence(counts_prompt=True),
        evidence(drift=0.04 / 20), evidence(caches=True), evidence(own_differs=True), evidence(per_token_read_s=0.001),
        evidence(per_token_read_s=0.00015), evidence(faulty={"s3": "load"}),
        evidence(faulty={f"s{i}": "load" for i in range(20)}), ended,
        changed(evidence(), load_s=0.0), on(evidence(), evidence().sampled[:-2]),
        on(evidence(), [*evidence().sampled, evidence().sampled[0]]),
        on(evidence(), [*evidence().sampled[:-1], evidence().sampled[0]]),
        on(evidence(), [replace(one, load_s=5.0 if one.position > 15 else 0.01) for one in evidence().sampled]),
        replace(evidence(), shares=replace(POSSIBLE, fastest={"decode": Fastest("s4", 0.01, 0.03)})),
        replace(evidence(), audits=Audits(1, 1, {}, None, Finite(1, ("s0: features are not finite",)))),
        replace(evidence(), audits=Audits(1, 1, {}, None, again=Again(1, ("s0: token 1 of 2 is 3",)))),
        replace(evidence(), audits=Audits(1, 1, {}, None, again=Again(1, images=1, other_images=("s0: 2 images",)))),
        replace(evidence(), audits=Audits(1, 1, {}, None, recorded_against_apart={"above": {"encode": LONGER}})),
        replace(evidence(), listed=("s0",)),
        replace(evidence(), audits=Audits(1, 1, {}, None, operations=Operations(3, ("s0: encode does 2 operations",)))),
        replace(evidence(), busy=0.5), replace(evidence(), warm_up={"x": WarmUp(9, False)}),
        changed(replace(evidence(), expected=replace(EXPECTED, io="cold")), cached_share=1.0),
        replace(evidence(), expected=replace(EXPECTED, target_half_width=0.001)),
        replace(evidence(), expected=replace(EXPECTED, precision="bf16", context=3)),
    ]  # fmt: skip
    seen: dict[str, set[str]] = {}
    for check in [check for found in every for check in check_run(found)]:
        assert_reads_right(check)
        seen.setdefault(check.id, set()).add(check.verdict)
    assert {name for name, verdicts in seen.items() if not verdicts & {"fail", "warn"}} == set()
    assert {name for name, verdicts in seen.items() if "pass" not in verdicts} == set()
    assert verdict(ended, "not_truncated").line == (
        "not_truncated: answers ended by themselves, not by max_new_tokens: 100 % of answers were ended by "
        "max_new_tokens (at most 10 %); token counts and totals of these samples are the limit's: raise max_new_tokens"
    )


def assert_reads_right(check: Check) -> None:
    """The relation holds where the check passed and nowhere else; the line has the value and the limit as it has."""
    if check.verdict == "not possible" or check.limit is None or not check.relation:
        assert check.verdict in ("pass", "not possible") or check.limit is None, check
        return
    value, limit = check.value, check.limit
    if isinstance(value, str):
        found, _, of = value.partition(" of ")
        holds = found == of if limit == "all" else value == f"{limit}, 0 failed"
        holds = int(found) >= int(str(limit)) if check.relation == "at least" else holds
    else:
        assert value is not None
        assert not isinstance(limit, str)
        holds = {
            "at most": value <= limit,
            "at least": value >= limit,
            "within": abs(value) <= limit,
            "exactly": value == limit,
        }[check.relation]
    assert holds == (check.verdict == "pass"), check.line
    shown = {"at most": "at most", "at least": "at least", "within": "within ±", "exactly": "expected"}[check.relation]
    assert f"({shown}" in check.line or (limit == 0 and "(none allowed)" in check.line), check.line
    assert check.unit != "share" or check.line.count(" %") >= 1
