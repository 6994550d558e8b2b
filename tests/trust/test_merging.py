"""A run's check holds only where it holds for each replicate."""

from __future__ import annotations

from fourstage.trust.check import Check, Verdict, valid
from fourstage.trust.merging import merge_checks


def check(verdict: Verdict, detail: str = "", value: float = 1.0) -> Check:
    return Check("quiet", "nobody disturbed", verdict, value, 2.0, detail)


def test_a_run_is_valid_only_if_every_replicate_is() -> None:
    assert valid(merge_checks({0: [check("pass")], 1: [check("warn")]}, 2))
    assert not valid(merge_checks({0: [check("pass")], 1: [check("fail")]}, 2))
    assert not valid(merge_checks({0: [check("pass")]}, 2, {1: "its process ended with -9"}))


def test_a_check_is_its_worst_replicates_and_names_it() -> None:
    _, worst = merge_checks({0: [check("warn", "a bit")], 1: [check("pass")], 2: [check("fail", "much", 9.0)]}, 3)
    assert (worst.verdict, worst.value) == ("fail", 9.0)
    assert worst.detail == "in replicate 3: much"
    _, same = merge_checks({0: [check("warn")], 1: [check("warn")]}, 2)
    assert same.detail == "in every replicate"


def test_a_single_fresh_process_has_its_own_checks() -> None:
    assert merge_checks({0: [check("warn", "a bit")]}, 1) == [check("warn", "a bit")]
