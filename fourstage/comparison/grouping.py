"""Groups of runs that differ in chosen settings only, and names that distinguish them.

A word is a setting or all those below it: `precision`, `model.frames`, `model` (`model.name`, `model.frames`, …),
`generation` (its settings lie at the top). Left out: what is compared within a group (`effects.py`).

    for group in group_by([run.params for run in runs], ["model"]):
        group.label, group.members     # "precision=bf16", (1, 3)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fourstage.config.flat import is_label
from fourstage.config.values import SettingError, suggest

GENERATION = ("temperature", "top_p", "top_k", "max_new_tokens", "num_beams", "stop")
Params = Mapping[str, str]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the chosen settings, and in what follows from them."""

    label: str  # what they have in common and other groups do not: "precision=bf16"; "": there is one group
    members: tuple[int, ...]  # indexes of its runs, in their order
    choices: tuple[tuple[str, ...], ...]  # of each: its values of the chosen settings, the same in every group
    names: tuple[str, ...]  # the same in words: "model=videollava"


def group_by(runs: Sequence[Params], words: Sequence[str]) -> tuple[Group, ...]:
    """Divide runs by the settings in which they differ, other than the chosen ones.

    A setting follows from the chosen ones, and divides nothing, where each of their values comes with one value of
    it: the models' own sampling settings with `model`. Labels (`config.is_label`) divide nothing either. Groups are
    in the order of their first run, runs in their own. Raises SettingError for a word that is no setting of these
    runs, or in which they do not differ.
    """
    differing = [name for name in _names(runs) if len({run.get(name, "-") for run in runs}) > 1 and not is_label(name)]
    chosen = [name for word in words for name in _checked(word, runs, differing)]
    choices = [tuple(run.get(name, "-") for name in chosen) for run in runs]
    dividing = [
        name for name in differing if name not in chosen and not _follows(choices, [run.get(name, "-") for run in runs])
    ]
    found: dict[tuple[str, ...], list[int]] = {}
    for index, run in enumerate(runs):
        found.setdefault(tuple(run.get(name, "-") for name in dividing), []).append(index)
    needed = _telling(list(found), dividing)
    return tuple(
        Group(
            label=" ".join(f"{name}={value}" for name, value in zip(dividing, values, strict=True) if name in needed),
            members=tuple(members),
            choices=tuple(choices[index] for index in members),
            names=tuple(_in_words(runs, index, words, differing) for index in members),
        )
        for values, members in found.items()
    )


def same_configuration(runs: Sequence[Params]) -> tuple[tuple[int, ...], ...]:
    """Indexes of the runs of each configuration: runs that differ in `seed` and labels alone are pooled.

    Configurations are in the order of their first run. A setting that an older version did not have counts as one
    of its own ("-"), since nothing says what that version did. `run_data.replicate_codes` gives the replicate of each
    record of pooled runs.
    """
    names = [name for name in _names(runs) if name != "seed" and not is_label(name)]
    found: dict[tuple[str, ...], list[int]] = {}
    for index, run in enumerate(runs):
        found.setdefault(tuple(run.get(name, "-") for name in names), []).append(index)
    return tuple(tuple(members) for members in found.values())


def below(word: str, names: Sequence[str]) -> list[str]:
    """The settings that a word names: itself, or all below it."""
    if word == "generation":
        return [name for name in names if name in GENERATION]
    return [name for name in names if name == word or name.startswith(f"{word}.")]


def distinct_names(names: Sequence[str], runs: Sequence[Params], ids: Sequence[str]) -> tuple[str, ...]:
    """Names of which no two are the same: with the settings in which runs of one name differ, else with the id."""
    same: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        same.setdefault(name, []).append(index)
    found = list(names)
    for name, indexes in same.items():
        if len(indexes) < 2:
            continue
        few = [runs[index] for index in indexes]
        differing = [key for key in _names(few) if len({run.get(key, "-") for run in few}) > 1 and not is_label(key)]
        values = [tuple(run.get(key, "-") for key in differing) for run in few]
        needed = _telling(list(dict.fromkeys(values)), differing)
        for index, own in zip(indexes, values, strict=True):
            parts = [f"{key}={value}" for key, value in zip(differing, own, strict=True) if key in needed]
            if values.count(own) > 1:
                parts.append(ids[index][:8])
            found[index] = f"{name} ({' '.join(parts)})"
    return tuple(found)


def _names(runs: Sequence[Params]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run))


def _checked(word: str, runs: Sequence[Params], differing: Sequence[str]) -> list[str]:
    known = _names(runs)
    if not below(word, known):
        heads = sorted({*known, *(name.partition(".")[0] for name in known), "generation"})
        raise SettingError(f"by={word[:80]}: no such setting of these runs; {suggest(word, heads)}")
    if not (names := below(word, differing)):
        raise SettingError(f"by={word}: the runs do not differ in it; they differ in {', '.join(differing) or 'none'}")
    return names


def _follows(choices: Sequence[tuple[str, ...]], values: Sequence[str]) -> bool:
    """Whether each choice comes with one value."""
    return len(set(zip(choices, values, strict=True))) == len(set(choices))


def _telling(values: Sequence[tuple[str, ...]], names: Sequence[str]) -> set[str]:
    """The first settings that are enough to distinguish all of the values."""
    needed: list[int] = []
    apart = 1
    for index in range(len(names)):
        more = len({tuple(value[i] for i in (*needed, index)) for value in values})
        if more > apart:
            needed.append(index)
            apart = more
    return {names[index] for index in needed}


def _in_words(runs: Sequence[Params], index: int, words: Sequence[str], differing: Sequence[str]) -> str:
    """`model=videollava precision=bf16`; with what differs below the name where that is not enough."""
    run, parts = runs[index], []
    for word in words:
        names = below(word, differing)
        head = f"{word}.name"
        if head not in names:
            parts += [f"{name}={run.get(name, '-')}" for name in names]
            continue
        parts.append(f"{word}={run.get(head, '-')}")
        alike = [other for other in runs if other.get(head) == run.get(head)]
        parts += [
            f"{name}={run.get(name, '-')}"
            for name in names
            if name != head and len({other.get(name, "-") for other in alike}) > 1
        ]
    return " ".join(parts)
