"""What a sweep answers: the effect of each swept setting over the others, and a ranking of all configurations.

Settings that follow from others (a model's own sampling with `model`) are no factors of their own. Left out: the
statistics (`stats/factors.py`), and pairs of runs (`effects.py`).

    found = answer(runs, floors={})
    found.factors[0].effect.ratio            # of the first level of the first setting, over all matching runs
    [place.rank for place in found.ranking]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fourstage.comparison.cells import cells, sequence_of
from fourstage.comparison.effects import Floors, processes_of
from fourstage.comparison.run_data import RunData, differing_settings
from fourstage.records.figures import COMPARISON, TOTAL
from fourstage.stats.factors import Cell, FactorEffect, Ranked, factor_effects, ranking
from fourstage.stats.replicates import Floor, Measured
from fourstage.stats.verdicts import Judgement, judge

MOST_RUNS = 40  # of which every two are compared
FIRST = ("model.name", "precision", "engine.name", "weights.name", "dataset.name")  # settings that are named first


@dataclass(frozen=True, eq=False)
class Factor:
    """One level of a swept setting against its reference, judged."""

    effect: FactorEffect
    judgement: Judgement


@dataclass(frozen=True, eq=False)
class Place:
    """A configuration in the ranking."""

    run: RunData
    ranked: Ranked
    label: str  # its values of the swept settings: "videollava · bf16 · temperature=0.2"
    shown: bool  # whether ranks can be claimed: every run has replicates, or a floor is known


@dataclass(frozen=True, eq=False)
class Answer:
    """The factors of a sweep, the ranking, fastest first, and the runs that are in neither."""

    settings: tuple[str, ...]  # that are factors
    factors: tuple[Factor, ...]
    ranking: tuple[Place, ...]
    invalid: tuple[RunData, ...]
    skipped: str = ""  # why there is no answer


def swept(runs: Sequence[RunData]) -> tuple[str, ...]:
    """The settings that distinguish the runs, without those that follow from the ones before; `seed` is pooled."""
    differing = [one.name for one in differing_settings(runs) if one.name != "seed"]
    order = [name for name in FIRST if name in differing] + [name for name in differing if name not in FIRST]
    chosen: list[str] = []
    values = [()] * len(runs)
    for name in order:
        wider = [(*value, run.params.get(name, "-")) for value, run in zip(values, runs, strict=True)]
        if len(set(wider)) > len(set(values)):
            chosen.append(name)
            values = wider  # type: ignore[assignment]
    return tuple(name for name in chosen if not _follows(name, [one for one in chosen if one != name], runs))


def _follows(name: str, others: Sequence[str], runs: Sequence[RunData]) -> bool:
    """Whether the other settings tell the runs apart without this one."""
    without = [tuple(run.params.get(other, "-") for other in others) for run in runs]
    return len(set(zip(without, [run.params.get(name, "-") for run in runs], strict=True))) == len(set(without))


def answer(runs: Sequence[RunData], floors: Floors | None = None, margin: float = 0.02) -> Answer:
    """The answer of runs that are valid, on the total time of a sample; `floors` as in `effects.compare`."""
    valid = [run for run in runs if run.valid]
    invalid = tuple(run for run in runs if not run.valid)
    settings = swept(valid) if len(valid) > 1 else ()

    def nothing(why: str) -> Answer:
        return Answer(settings, (), (), invalid, why)

    if len(valid) < 2:
        return nothing("fewer than two runs are valid")
    if len(valid) > MOST_RUNS:
        return nothing(f"more than {MOST_RUNS} runs are not ranked; choose fewer, or by=")
    places = [tuple(run.params.get(name, "-") for name in settings) for run in valid]
    if not settings or len(set(places)) < len(places):
        return nothing("the runs do not differ in a setting")
    measured = _measured(valid)
    if measured is None:
        return nothing("the runs have no sample in common")
    known = _known(valid, floors or {})
    found = [Cell(dict(zip(settings, place, strict=True)), one) for place, one in zip(places, measured, strict=True)]
    try:
        effects = factor_effects(found, margin=margin, known=known)
        ranked = ranking(found, known=known)
    except ValueError as error:  # processes without a sample in common, after failures
        return nothing(str(error))
    judged = judge([one.effect for one in effects]) if effects else ()
    labels = labels_of(valid, settings)
    shown = all(one.replicated for one in ranked)
    return Answer(
        settings,
        tuple(Factor(one, judgement) for one, judgement in zip(effects, judged, strict=True)),
        tuple(Place(valid[one.cell], one, labels[one.cell], shown) for one in ranked),
        invalid,
    )


def named(runs: Sequence[RunData]) -> list[RunData]:
    """The runs under names that say what differs; as they are where settings do not tell them apart."""
    labels = labels_of(runs, swept(runs))
    if len(set(labels)) < len(runs) or not all(labels):
        return list(runs)
    return [replace(run, name=label, logged_name=run.name) for run, label in zip(runs, labels, strict=True)]


def labels_of(runs: Sequence[RunData], settings: Sequence[str]) -> list[str]:
    """What tells the runs apart: `videollava · bf16 · T=0.7`; names of well-known settings are left out."""
    return [" · ".join(_said(name, run.params.get(name, "-")) for name in settings) for run in runs]


def _said(name: str, value: str) -> str:
    if name in ("model.name", "precision", "weights.name", "engine.name"):
        return value
    if name == "temperature":
        return "greedy" if value in ("0", "0.0") else f"T={float(value):g}" if _is_number(value) else f"T={value}"
    return f"{name.rpartition('.')[2]}={value}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _measured(runs: Sequence[RunData]) -> list[Measured] | None:
    of_runs = [cells(run.columns) for run in runs]
    common = set(of_runs[0].keys).intersection(*(one.keys for one in of_runs[1:]))
    clusters = {key: sequence_of(key) for key in of_runs[0].keys if key in common}
    if len(set(clusters.values())) == 1:  # one sequence: each of its clips counts for itself
        clusters = {key: key for key in clusters}
    found = [one.measured(COMPARISON.index(TOTAL), clusters) for one in of_runs]
    if any(one is None for one in found):
        return None
    shared = set[object]().union(*(one.names for one in found if one))
    for one in found:
        shared &= set(one.names) if one else set()
    return [one for one in found if one] if shared else None


def _known(runs: Sequence[RunData], floors: Mapping[str, Mapping[str, Floor]]) -> Floor | None:
    single = [floors.get(run.run_id, {}).get(TOTAL.field) for run in runs if processes_of(run) == 1]
    known = [floor for floor in single if floor is not None]
    return max(known, key=lambda floor: floor.sd) if known and len(known) == len(single) else None
