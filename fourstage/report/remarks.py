"""Remarks: what a reader must know before believing a comparison's figures, from its runs and its samples.

Left out: notes on how the runs were chosen (`notes.py`).

    remarks(comparison)[0]      # Remark("bad", "The baseline eventgpt is invalid, so do not rely on anything below.")
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fourstage.comparison.effects import Comparison, Pairwise, Unpaired
from fourstage.config.schema import DemoWeights
from fourstage.records.units import first_few, plural, seconds

MOST_REMARKS = 12  # of one kind
Kind = Literal["bad", "warned", "note"]


@dataclass(frozen=True)
class Remark:
    """Something that a reader must know before believing a figure."""

    kind: Kind
    text: str


def remarks(comparison: Comparison) -> tuple[Remark, ...]:
    """What speaks against the figures: runs that are invalid or warned, failures, samples without a partner."""
    base = comparison.runs[comparison.baseline]
    found: list[Remark] = []
    if not base.valid:
        found.append(Remark("bad", f"The baseline {base.name} is invalid, so do not rely on anything below."))
    failed = _by_check((run.name, run.checks_failed or ("never checked",)) for run in comparison.runs if not run.valid)
    warned = _by_check((run.name, run.checks_warned) for run in comparison.runs)
    of = f"of {len(comparison.runs)} runs"
    found += _limited(
        [Remark("bad", f"{check} failed in {len(names)} {of}: {first_few(names)}") for check, names in failed.items()]
    )
    found += _limited(
        [
            Remark("warned", f"{check} warned in {len(names)} {of}: {first_few(names)}")
            for check, names in warned.items()
        ]
    )
    lost: list[Remark] = []
    if comparison.pairs and (of_baseline := comparison.pairs[0].failed_baseline).count:
        lost.append(Remark("warned", f"Failed in {base.name}: {_keys(of_baseline)}"))
    for pair in comparison.pairs:
        if pair.n == 0:
            lost.append(Remark("bad", f"No sample succeeded in both {pair.baseline_name} and {pair.target_name}"))
        if pair.failed_target.count:
            lost.append(Remark("warned", f"Failed in {pair.target_name}: {_keys(pair.failed_target)}"))
        for only, name, other in (
            (pair.only_baseline, pair.baseline_name, pair.target_name),
            (pair.only_target, pair.target_name, pair.baseline_name),
        ):
            if only.count:
                lost.append(Remark("warned", f"Succeeded in {name} and not in {other}: {_keys(only)}; in no figure"))
    found += _limited(lost)
    found += _limited([remark for pair in comparison.pairs for remark in _cache_remarks(pair)])
    if any(run.params.get("weights.name") == "demo" for run in comparison.runs):
        found.append(Remark("note", DemoWeights.note))
    return tuple(found)


def _by_check(runs: Iterable[tuple[str, Sequence[str]]]) -> dict[str, list[str]]:
    """The runs that each check concerns."""
    found: dict[str, list[str]] = {}
    for name, checks in runs:
        for check in checks:
            found.setdefault(check, []).append(name)
    return found


def _cache_remarks(pair: Pairwise) -> list[Remark]:
    found = []
    for side, name, stages, fill in (
        ("baseline", pair.baseline_name, pair.cached_baseline, pair.cache_fill_baseline_s),
        ("target", pair.target_name, pair.cached_target, pair.cache_fill_target_s),
    ):
        if stages:
            cost = (
                f"filling it took {seconds(fill)}, which is in no stage"
                if fill is not None
                else "what filling it took is not known"
            )
            uneven = pair.cached_baseline != pair.cached_target
            so = "; its total and TTFT are without that work" if uneven else ""
            found.append(Remark("note", f"Cached in {name} (the {side}): {', '.join(stages)}; {cost}{so}"))
    return found


def _keys(unpaired: Unpaired) -> str:
    return f"{unpaired.count} {plural('sample', unpaired.count)} ({first_few(unpaired.first, 5, unpaired.count)})"


def _limited(found: list[Remark]) -> list[Remark]:
    if len(found) <= MOST_REMARKS:
        return found
    return [*found[:MOST_REMARKS], Remark(found[0].kind, f"and {len(found) - MOST_REMARKS} more of this kind")]
