"""A sweep: the effect of each setting over the others, and a ranking of all configurations.

cells = [Cell({"model": "a", "precision": "bf16"}, measured), ...]
found = factor_effects(cells, {"model": "a", "precision": "bf16"})
found[0].name, found[0].level, found[0].effect.ratio          # "model", "b", 1.31
ranking(cells)[0].rank, ranking(cells)[0].letters             # (1, 2), "a"
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fourstage.stats.replicates import Effect, Floor, Measured, effect
from fourstage.stats.verdicts import holm

ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class Cell:
    """A configuration: its value of each swept setting, and what was measured."""

    settings: Mapping[str, Hashable]
    measured: Measured


@dataclass(frozen=True, eq=False)
class Interaction:
    """The effect of a factor at one value of another setting, divided by that at its reference."""

    other: str
    value: Hashable
    reference: Hashable
    effect: Effect  # a ratio of two ratios: 1 where the setting does not matter
    p_value: float  # Holm over all that were asked of this factor's level

    def found(self, alpha: float = ALPHA) -> bool:
        """It is there: replicated, beyond chance, and not known to lie within the margin."""
        return self.effect.replicated and self.p_value <= alpha and self.effect.p_equivalent > alpha


@dataclass(frozen=True, eq=False)
class FactorEffect:
    """A level of a setting against its reference, by the geometric mean over the cells that match otherwise."""

    name: str
    level: Hashable
    reference: Hashable
    effect: Effect
    matches: int  # pairs of cells that agree in every other setting
    unmatched: int  # cells of the level that have no partner
    interactions: tuple[Interaction, ...]  # all that were asked; `found` tells which are there

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The settings on which the effect was found to depend."""
        return tuple(dict.fromkeys(one.other for one in self.interactions if one.found()))


@dataclass(frozen=True)
class Ranked:
    """A configuration's place. See `ranking` for what ranks and letters say."""

    cell: int  # its index among those given
    ratio: float  # to the fastest; of geometric means over the samples that all have
    rank: tuple[int, int]  # best and worst that the data allow
    letters: str  # two that share one cannot be told apart
    replicated: bool


def factor_effects(
    cells: Sequence[Cell],
    references: Mapping[str, Hashable] | None = None,
    level: float = 0.95,
    margin: float = 0.02,
    known: Floor | None = None,
) -> tuple[FactorEffect, ...]:
    """The effect of each level of each setting that differs between the cells, against the setting's reference.

    Cells match that agree in every other setting; each pair counts the same. A pair's processes are its own, while all
    cells share the samples: the variance between processes sums over the pairs, that between samples is that of each
    sample's mean over the pairs. References are the first cell's values where none are given.

    An interaction is a contrast of four groups: the mean effect at one value of another setting less that at the
    setting's reference, over the matches that the two have in common otherwise, with the same two sources of
    variation. All of one factor's level are corrected together (Holm), so that one of twenty studies without any
    interaction names one.

    Only samples that all cells of a contrast have count. A level without a match is left out.
    Raises ValueError for fewer than two cells, settings that are not those of the first cell, two cells with the
    same settings (pool their replicates first), or a reference that no cell has.
    """
    names = _check(cells)
    given = dict(references or {})
    table = {_key(cell.settings, names): cell.measured for cell in cells}
    values = {name: list(dict.fromkeys(cell.settings[name] for cell in cells)) for name in names}
    base = {name: given.get(name, values[name][0]) for name in names}
    for name in names:
        if base[name] not in values[name]:
            raise ValueError(f"no cell has {name}={base[name]}, the reference; it has {values[name]}")
    found = []
    for name in names:
        place = names.index(name)
        for value in values[name]:
            if value == base[name]:
                continue
            of_level = [key for key in table if key[place] == value]
            pairs = [(key, _with(key, place, base[name])) for key in of_level if _with(key, place, base[name]) in table]
            if not pairs:
                continue
            asked = []
            for other in names:
                spot = names.index(other)
                for setting in values[other]:
                    if other == name or setting == base[other]:
                        continue
                    here = [pair for pair in pairs if pair[0][spot] == setting]
                    there = [tuple(_with(key, spot, base[other]) for key in pair) for pair in here]
                    four = [(a, b) for a, b in zip(here, there, strict=True) if b in pairs]
                    if four:
                        terms = [
                            (key, sign) for a, b in four for key, sign in zip((*a, *b), (1, -1, -1, 1), strict=True)
                        ]
                        one = _contrast(table, terms, len(four), level, margin, known)
                        asked.append((other, setting, one))
            adjusted = holm([one.p_value for _, _, one in asked])
            terms = [(key, sign) for pair in pairs for key, sign in zip(pair, (1, -1), strict=True)]
            found.append(
                FactorEffect(
                    name,
                    value,
                    base[name],
                    _contrast(table, terms, len(pairs), level, margin, known),
                    len(pairs),
                    len(of_level) - len(pairs),
                    tuple(
                        Interaction(other, setting, base[other], one, p)
                        for (other, setting, one), p in zip(asked, adjusted, strict=True)
                    ),
                )
            )
    return tuple(found)


def ranking(cells: Sequence[Cell], alpha: float = ALPHA, known: Floor | None = None) -> tuple[Ranked, ...]:
    """All configurations by geometric mean, least first, with what cannot be told apart.

    Every two are compared (`log_ratio`) at alpha after Holm's correction over all pairs. "Not told apart" is not
    transitive: a may be like b and b like c while a is faster than c, so no single number can be right for b.
    Therefore:

    - `rank` is a range. Its best is 1 + how many were shown to be faster, its worst the number of configurations less
      those shown to be slower. All ranges contain the true ranks at once in 1 - alpha of such studies.
    - `letters`: each letter is a largest set in which no two were told apart (compact letter display; Piepho, J. of
      Computational and Graphical Statistics 13, 2004). Two that share a letter were not told apart, two without
      a common letter were: here a, ab, b.

    A configuration of one replicate, without a known floor, is told from nothing. Samples that all have count.
    Raises ValueError for no cells, or none in common.
    """
    if not cells:
        raise ValueError("no configurations to rank")
    common = set(cells[0].measured.names).intersection(*(cell.measured.names for cell in cells))
    measured = [_only(cell.measured, common) for cell in cells]
    pairs = list(combinations(range(len(cells)), 2))
    effects = {pair: effect([measured[i] for i in pair], [1.0, -1.0], known=known) for pair in pairs}
    tested = [pair for pair in pairs if effects[pair].replicated]
    adjusted = holm([effects[pair].p_value for pair in tested])
    apart = {pair for pair, p in zip(tested, adjusted, strict=True) if p <= alpha}
    logs = [0.0] + [-effects[0, other].log for other in range(1, len(cells))]
    order = sorted(range(len(cells)), key=lambda cell: logs[cell])

    def shown(faster: int, slower: int) -> bool:
        return (min(faster, slower), max(faster, slower)) in apart and logs[faster] < logs[slower]

    sets = _letters(order, apart)
    ranked = []
    for cell in order:
        best = 1 + sum(shown(other, cell) for other in order)
        worst = len(cells) - sum(shown(cell, other) for other in order)
        letters = "".join(_letter(place) for place, members in enumerate(sets) if cell in members)
        single = len(measured[cell].logs) == 1 and known is None
        ranked.append(Ranked(cell, math.exp(logs[cell] - logs[order[0]]), (best, worst), letters, not single))
    return tuple(ranked)


def _letters(order: Sequence[int], apart: set[tuple[int, int]]) -> list[set[int]]:
    """The largest sets without two that were told apart, by insertion and absorption, in the order of their members."""
    sets = [set(order)]
    for one, other in sorted(apart):
        for members in [members for members in sets if {one, other} <= members]:
            sets.remove(members)
            for gone in (one, other):
                rest = members - {gone}
                if not any(rest <= kept for kept in sets):
                    sets = [kept for kept in sets if not kept < rest] + [rest]
    place = {cell: rank for rank, cell in enumerate(order)}
    return sorted(sets, key=lambda members: sorted(place[cell] for cell in members))


def _letter(place: int) -> str:
    """a … z, then (27), (28), …"""
    return chr(ord("a") + place) if place < 26 else f"({place + 1})"


def _contrast(
    table: Mapping[tuple[Hashable, ...], Measured],
    terms: Sequence[tuple[tuple[Hashable, ...], int]],
    count: int,
    level: float,
    margin: float,
    known: Floor | None,
) -> Effect:
    weights: dict[tuple[Hashable, ...], float] = {}
    for key, sign in terms:  # a cell that is the reference of several counts once, with their sum
        weights[key] = weights.get(key, 0.0) + sign / count
    kept = {key: weight for key, weight in weights.items() if weight}
    return effect([table[key] for key in kept], list(kept.values()), level, margin, known=known)


def _only(measured: Measured, names: set[Hashable]) -> Measured:
    if len(names) == len(measured.names):
        return measured
    kept = [place for place, name in enumerate(measured.names) if name in names]
    logs, means = measured.logs[:, kept], measured.means[:, kept]
    rows = ~np.isnan(logs).all(axis=1)
    left = tuple(measured.names[place] for place in kept)
    return Measured.of_cells(logs[rows], means[rows], left, {name: measured.cluster_of[name] for name in left})


def _key(settings: Mapping[str, Hashable], names: Sequence[str]) -> tuple[Hashable, ...]:
    return tuple(settings[name] for name in names)


def _with(key: tuple[Hashable, ...], place: int, value: Hashable) -> tuple[Hashable, ...]:
    return (*key[:place], value, *key[place + 1 :])


def _check(cells: Sequence[Cell]) -> list[str]:
    """The settings that differ between the cells."""
    if len(cells) < 2:
        raise ValueError(f"effects of settings need two configurations or more, not {len(cells)}")
    first = list(cells[0].settings)
    for cell in cells:
        if set(cell.settings) != set(first):
            odd = sorted(set(cell.settings) ^ set(first))
            raise ValueError(f"not every configuration has a value of {', '.join(odd)}; give each the same settings")
    keys = [_key(cell.settings, first) for cell in cells]
    for one, other in combinations(range(len(keys)), 2):
        if keys[one] == keys[other]:
            raise ValueError(f"configurations {one} and {other} have the same settings; pool their replicates first")
    return [name for place, name in enumerate(first) if len({key[place] for key in keys}) > 1]
