"""Seconds or milliseconds? The unit of a file's times, and what in the file shows it.

unit, evidence = choose_unit(file, asked="")
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean, median

from fourstage.config.values import SettingError
from fourstage.legacy.keys import (
    COUNT,
    IDS,
    MEAN,
    MOST_TOKENS,
    TOTAL,
    UNITS,
    Unit,
    as_number,
    key_of,
    leaves,
    split_unit,
    stages_in,
)
from fourstage.legacy.layouts import Entry, ResultFile, Source
from fourstage.stages import UserError

UNIT_KEYS = ("unit", "units", "time_unit", "time_units", "timing_unit")

WALL = ("wall", "elapsed", "duration")

# seconds an output token can take on any machine, of models of some billions of parameters: from below the weights'
# way through the fastest memory to a slow processor without a GPU
LEAST_TOKEN_S, MOST_TOKEN_S = 0.0005, 5.0

SAME = 0.001  # two figures that differ by so little are one figure, rounded

WALL_SHARE = (0.2, 1.02)  # of a benchmark's wall time that its samples can be

# the unit of the times


@dataclass(frozen=True)
class _Vote:
    unit: Unit
    why: str


def choose_unit(file: ResultFile, asked: str) -> tuple[Unit, str]:
    """The unit of times without one in their key, and what shows it. Raises UserError in doubt."""
    labels = {
        split_unit(key)[1]
        for source in file.sources
        for entry in source.entries
        for key in stages_in(entry.own).values()
    }
    if labels and None not in labels:
        units = {label for label in labels if label}
        if asked and units != {asked}:
            raise SettingError(f"unit={asked}, but the keys of the stages say {' and '.join(sorted(units))}")
        return ("ms" if "ms" in units else "s"), "the keys of the stages name it"
    if asked:
        return ("ms" if asked == "ms" else "s"), f"as given: unit={asked}"
    votes = list(chain(_stated(file), _labelled(file), _plausible(file)))
    units = {vote.unit for vote in votes}
    if len(units) == 1:
        return votes[0].unit, "; ".join(dict.fromkeys(vote.why for vote in votes))
    if not units:
        raise UserError(f"seconds or milliseconds? {_doubt(file)}: add unit=s or unit=ms")
    sides = (next(f"{vote.unit} ({vote.why})" for vote in votes if vote.unit == unit) for unit in sorted(units))
    raise UserError(f"seconds or milliseconds? The file shows {' and '.join(sides)}: add unit=s or unit=ms")


def _stated(file: ResultFile) -> Iterator[_Vote]:
    """`"time_unit": "ms"` in the configuration."""
    for path, value in chain(leaves(file.config, "config"), leaves(file.statistics, "statistics")):
        unit = UNITS.get(value.strip().lower()) if isinstance(value, str) else None
        if unit and path.rpartition(".")[2].lower() in UNIT_KEYS:
            yield _Vote(unit, f"{path} is {value!r}")


def _labelled(file: ResultFile) -> Iterator[_Vote]:
    """Figures with a unit in their key that are those of the samples: a mean of stage 1 in ms, a wall time in s."""
    columns = _columns(file)
    figures = [figure for values in columns if values for figure in (fmean(values), median(values), math.fsum(values))]
    whole = math.fsum(value for values in columns for value in values)
    for path, found in chain(leaves(file.config, "config"), leaves(file.statistics, "statistics")):
        name = path.rpartition(".")[2]
        label, value = split_unit(name)[1], as_number(found)
        if label is None or not value:
            continue
        if any(word in name.lower() for word in WALL):
            low, high = WALL_SHARE
            fit: list[Unit] = [unit for unit in ("s", "ms") if low <= whole * scale(unit, label) / value <= high]
            if len(fit) == 1:
                yield _Vote(fit[0], f"{path} is {value:g}, and the stages sum to {whole:g}")
            continue
        yield from _same(path, value, label, figures)
    for source in file.sources:
        for names, parts in ((TOTAL, None), (MEAN, -1)):
            pairs = [pair for entry in source.entries if (pair := _stated_by_sample(entry, names, parts))]
            if pairs:
                value, figure, label, key = pairs[len(pairs) // 2]
                yield from _same(key, value, label, [figure])


def _same(path: str, value: float, label: Unit, figures: Sequence[float]) -> Iterator[_Vote]:
    """One vote where the value, read in its own unit, is one of the figures in a unit of theirs."""
    for unit in ("s", "ms"):
        if any(abs(figure * scale(unit, label) - value) <= SAME * value for figure in figures):
            yield _Vote(unit, f"{path} is {value:g}, the same as by the samples' times")
            return


def _stated_by_sample(entry: Entry, names: Sequence[str], part: int | None) -> tuple[float, float, Unit, str] | None:
    """A sample's own total, or time per token, with a unit in its key: its value and what the stages say."""
    key = key_of(entry.own, names)
    label = split_unit(key)[1] if key else None
    stages = [(as_number(entry.own[name]), split_unit(name)[1]) for _, name in sorted(stages_in(entry.own).items())]
    values = [value for value, unit in stages if value is not None and unit is None]
    if key is None or label is None or not stages or len(values) < len(stages):
        return None
    value = as_number(entry.own[key])
    tokens = token_count(entry) if part is not None else 1
    if not value or not tokens:
        return None
    figure = values[part] / tokens if part is not None else math.fsum(values)
    return value, figure, label, entry.names.get(key, key)


def _plausible(file: ResultFile) -> Iterator[_Vote]:
    """The one unit in which a token takes a time that it can take."""
    for source in file.sources:
        if (price := _price(source)) is None:
            continue
        fit: list[Unit] = [u for u in ("s", "ms") if LEAST_TOKEN_S <= price * scale(u, "s") <= MOST_TOKEN_S]
        if len(fit) == 1:
            yield _Vote(fit[0], f"{source.name} takes {price:.3g} a token, possible in {fit[0]} only")


def _doubt(file: ResultFile) -> str:
    prices = [f"{source.name} takes {price:.3g} a token" for source in file.sources if (price := _price(source))]
    return ", ".join(prices) or "no sample has both a time of its last stage and tokens"


def _price(source: Source) -> float | None:
    """The median time of the last stage by tokens, in the file's unit; None where no sample has both."""
    prices = []
    for entry in source.entries:
        stages, tokens = stages_in(entry.own), token_count(entry)
        if stages and tokens:
            key = stages[max(stages)]
            if (value := as_number(entry.own[key])) and split_unit(key)[1] is None:
                prices.append(value / tokens)
    return median(prices) if prices else None


def token_count(entry: Entry) -> int:
    """Tokens of an answer: ids, else the count; 0 where neither can be used."""
    ids, count = (key_of(entry.own, names) for names in (IDS, COUNT))
    if ids and isinstance(entry.own[ids], list) and entry.own[ids]:
        return len(entry.own[ids])
    found = entry.own[count] if count else 0
    if isinstance(found, list):
        return len(found)
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 < found <= MOST_TOKENS else 0


def _columns(file: ResultFile) -> list[list[float]]:
    """Each stage's times of each model, without those that name their unit."""
    columns: dict[tuple[str, int], list[float]] = {}
    for source in file.sources:
        for entry in source.entries:
            for number, key in stages_in(entry.own).items():
                if split_unit(key)[1] is None and (value := as_number(entry.own[key])) is not None:
                    columns.setdefault((source.name, number), []).append(value)
    return list(columns.values())


def scale(unit: Unit, target: Unit) -> float:
    """What turns a time in `unit` into one in `target`."""
    return 1.0 if unit == target else 1000.0 if unit == "s" else 0.001
