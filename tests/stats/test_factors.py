"""Effects of settings over the others, and a ranking that claims no more than was shown."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, product

import numpy as np
import pytest

from fourstage.stats.factors import Cell, Ranked, _letters, factor_effects, ranking
from fourstage.stats.replicates import Measured, log_ratio

MODELS, PRECISIONS = ("eventgpt", "videollava"), ("fp32", "bf16", "int8")


def measured(
    rng: np.random.Generator, level: float, process: float = 0.01, replicates: int = 4, samples: int = 6,
    own: float = 0.01,
) -> Measured:  # fmt: skip
    shape = (replicates, samples)
    logs = level + np.linspace(-1, 1, samples) + rng.normal(0, process, (replicates, 1)) + rng.normal(0, 0.02, shape)
    logs = logs + rng.normal(0, own, samples)
    rows, columns = np.divmod(np.arange(logs.size), samples)
    return Measured(np.exp(logs).ravel(), rows, columns)


def sweep(
    rng: np.random.Generator, model: float = 0.0, precision: float = 0.0, together: float = 0.0, **more: float
) -> list[Cell]:
    """Logarithms of effects: of the second model, of each step of precision, and of both in the last precision."""

    def level(i: int, j: int) -> float:
        return i * model + j * precision + together * (i == 1 and j == 2)

    return [
        Cell({"model": m, "precision": p, "greedy": True}, measured(rng, level(i, j), **more))  # type: ignore[arg-type]
        for (i, m), (j, p) in product(enumerate(MODELS), enumerate(PRECISIONS))
    ]


def test_a_factor_is_compared_over_all_matching_cells() -> None:
    found = factor_effects(sweep(np.random.default_rng(1), model=0.27, precision=-0.1))
    assert [(one.name, one.level, one.reference, one.matches) for one in found] == [
        ("model", "videollava", "eventgpt", 3),
        ("precision", "bf16", "fp32", 2),
        ("precision", "int8", "fp32", 2),
    ]
    model, bf16, int8 = (one.effect for one in found)
    assert model.low < np.exp(0.27) < model.high
    assert bf16.low < np.exp(-0.1) < bf16.high < 1
    assert int8.low < np.exp(-0.2) < int8.high < 1
    assert all(one.depends_on == () for one in found)


def test_the_mean_over_cells_is_the_geometric_mean_of_their_ratios() -> None:
    cells = sweep(np.random.default_rng(2), model=0.3, together=0.2)
    (model, *_) = factor_effects(cells)
    singles = [log_ratio(cells[3 + j].measured, cells[j].measured).log for j in range(3)]
    assert model.effect.log == pytest.approx(np.mean(singles))
    assert model.effect.replicates == (4,) * 6


def test_an_effect_that_depends_on_another_setting_names_it() -> None:
    found = factor_effects(sweep(np.random.default_rng(3), model=0.3, together=0.25))
    model = found[0]
    assert model.depends_on == ("precision",)
    (there,) = [one for one in model.interactions if one.found()]
    assert (there.value, there.reference) == ("int8", "fp32")
    assert there.effect.low < np.exp(0.25) < there.effect.high


def test_effects_cover_and_interactions_are_rarely_invented() -> None:
    rng = np.random.default_rng(4)
    inside, invented, alone = [], [], []
    for _ in range(160):
        model = factor_effects(sweep(rng, model=0.3, process=0.03, replicates=3, own=0.03))[0]
        inside.append(model.effect.low <= np.exp(0.3) <= model.effect.high)
        invented.append(bool(model.depends_on))
        alone.append(abs(model.effect.log - 0.3) <= 2.57 * np.sqrt(float(model.effect.variance.cluster)))
    assert 0.91 <= np.mean(inside) <= 0.99
    assert np.mean(invented) <= 0.09
    assert np.mean(alone) < 0.9  # with samples as the only source


def test_cells_without_a_partner_are_counted_and_references_can_be_given() -> None:
    cells = sweep(np.random.default_rng(5), model=0.3)
    del cells[1]  # eventgpt in bf16
    found = factor_effects(cells, {"precision": "int8"})
    assert [(one.name, one.level, one.matches, one.unmatched) for one in found] == [
        ("model", "videollava", 2, 1),
        ("precision", "fp32", 2, 0),
        ("precision", "bf16", 1, 0),
    ]


def test_a_sweep_of_single_processes_is_not_replicated() -> None:
    found = factor_effects(sweep(np.random.default_rng(6), model=0.3, replicates=1))
    assert not any(one.effect.replicated or one.depends_on for one in found)
    ranked = ranking(sweep(np.random.default_rng(6), model=0.3, replicates=1))
    assert {(one.rank, one.letters, one.replicated) for one in ranked} == {((1, 6), "a", False)}


def test_what_makes_no_design_is_refused() -> None:
    rng = np.random.default_rng(7)
    one, other = (Cell({"model": name}, measured(rng, 0.0)) for name in "ab")
    with pytest.raises(ValueError, match="two configurations or more, not 1"):
        factor_effects([one])
    with pytest.raises(ValueError, match="0 and 1 have the same settings; pool"):
        factor_effects([one, one])
    with pytest.raises(ValueError, match="a value of seed"):
        factor_effects([one, Cell({"model": "b", "seed": 1}, other.measured)])
    with pytest.raises(ValueError, match="no cell has model=c"):
        factor_effects([one, other], {"model": "c"})
    with pytest.raises(ValueError, match="no configurations"):
        ranking([])


# the ranking


def ranks(levels: Mapping[str, float], seed: int = 0, **more: float) -> list[Ranked]:
    rng = np.random.default_rng(seed)
    return list(ranking([Cell({"name": name}, measured(rng, level, **more)) for name, level in levels.items()]))  # type: ignore[arg-type]


def test_the_fastest_is_first_and_equals_share_a_rank() -> None:
    found = ranks({"slow": 1.0, "fast": 0.0, "fast too": 0.001, "middle": 0.5})
    assert [one.cell for one in found][2:] == [3, 0]
    assert [one.rank for one in found] == [(1, 2), (1, 2), (3, 3), (4, 4)]
    assert [one.letters for one in found] == ["a", "a", "b", "c"]
    assert found[0].ratio == 1.0
    assert found[3].ratio == pytest.approx(np.e, rel=0.05)


def test_not_told_apart_is_not_passed_on() -> None:
    assert _letters([0, 1, 2], {(0, 2)}) == [{0, 1}, {1, 2}]
    assert _letters([0, 1, 2], set()) == [{0, 1, 2}]


def test_two_share_a_letter_exactly_where_they_were_not_told_apart() -> None:
    rng = np.random.default_rng(8)
    for _ in range(200):
        size = int(rng.integers(2, 8))
        apart = {pair for pair in combinations(range(size), 2) if rng.random() < rng.random()}
        sets = _letters(list(range(size)), apart)
        for one, other in combinations(range(size), 2):
            assert ((one, other) not in apart) == any({one, other} <= members for members in sets)
        assert not any(a < b for a in sets for b in sets)


def test_equal_configurations_are_rarely_told_apart_and_ranges_hold_the_true_ranks() -> None:
    wrong, missed = [], []
    for seed in range(60):
        wrong.append(any(one.letters != "a" for one in ranks(dict.fromkeys("pqrs", 0.0), seed, process=0.03)))
        found = ranks({"p": 0.0, "q": 0.03, "r": 0.06, "s": 0.4}, seed, process=0.02)
        missed.append(any(not one.rank[0] <= one.cell + 1 <= one.rank[1] for one in found))
    assert np.mean(wrong) <= 0.1
    assert np.mean(missed) <= 0.1
