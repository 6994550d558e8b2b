"""How many replicates and samples show an effect, and how long that takes: before it is measured.

fourstage plan effect=3% model=eventgpt precision=bf16
fourstage plan effect=0.05 power=0.9 model=videollava dataset.samples=50

  effect=       the smallest difference to find: 3% or 0.03
  power=0.8     how probably it is to be found

It takes all settings of a run besides. The spread between processes and samples is the noise floor that the store has
measured on this machine (`fourstage aa`, or any run with replicates). Nothing is measured. Exit codes: 0; 2 where no
floor is known, or the command cannot be used.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fourstage.cli.command import run_command
from fourstage.config.values import SettingError
from fourstage.paths import shortened
from fourstage.stages import UserError

if TYPE_CHECKING:
    from fourstage.stats.replicates import Floor

WORDS = {"effect": "", "power": "0.8"}
SIDES = 2  # that a comparison measures
USUAL_REPLICATES = 5


@dataclass(frozen=True)
class Row:
    """What one figure needs."""

    heading: str
    replicates: int | None  # a side, with the dataset's samples; None: no number of them is enough
    samples: int | None  # with USUAL_REPLICATES a side
    detectable: float  # what USUAL_REPLICATES with the dataset's samples find, as a share


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""
    return run_command(__doc__, argv, plan_command)


def plan_command(words: Sequence[str]) -> int:
    """Print the plan. Raises UserError where no floor is known."""
    own, overrides = dict(WORDS), []
    for word in words:
        key, _, value = word.partition("=")
        if key in own:
            own[key] = value
        else:
            overrides.append(word)
    effect, power = _share("effect", own["effect"], 100.0), _share("power", own["power"], 1.0)
    from fourstage.comparison.floors import known_floors
    from fourstage.config.compose import compose
    from fourstage.config.flat import flatten
    from fourstage.config.schema import check
    from fourstage.data.samples import read_samples
    from fourstage.runs.tags import machine_tag
    from fourstage.tracking.destination import Destination

    tree = compose(overrides)
    config = check(tree)
    machine = machine_tag(config)["fourstage.machine"]
    params = {key: str(value) for key, value in flatten(tree).items()}
    known = known_floors(Destination.of(config.tracking), machine, params)
    if known is None:
        command = " ".join(["fourstage aa", *overrides])
        raise UserError(f"no noise floor is known for these settings on {machine}; measure it: {command}")
    samples = len(read_samples(config.dataset))
    if samples < 2:
        raise UserError(f"the dataset has {samples} sample: a comparison needs two or more")
    floors = known.floors
    rows = [_row(_heading(field), floors[field], effect, power, samples, len(floors)) for field in floors]
    _print(rows, effect, power, samples)
    print(f"from {known.origin(time.time())} on {machine}")
    total = next((row for row in rows if row.heading == "total"), None)
    if total is not None:
        print(_advice(total, effect, samples, known.sample_s, known.beyond_s, overrides))
    return 0


def _row(heading: str, floor: Floor, effect: float, power: float, samples: int, rows: int) -> Row:
    from fourstage.stats.power import Spread, detectable_ratio, needed, samples_needed

    noise = 0.0 if math.isnan(floor.noise_sd) else floor.noise_sd * math.sqrt(floor.samples)
    spread = Spread(floor.process_sd, noise)
    need = needed(spread, effect, samples, power=power, rows=rows)
    more = samples_needed(spread, effect, USUAL_REPLICATES, power=power, rows=rows)
    found = detectable_ratio(spread, USUAL_REPLICATES, samples, power=power, rows=rows) - 1
    return Row(heading, need.replicates if need else None, more.samples if more else None, found)


def _print(rows: Sequence[Row], effect: float, power: float, samples: int) -> None:
    from rich import box
    from rich.table import Table

    from fourstage.comparison.floors import percent
    from fourstage.screen import console

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for heading in (
        f"replicates a side, {samples} samples each",
        f"or samples, with {USUAL_REPLICATES} replicates",
        f"{USUAL_REPLICATES} replicates and {samples} samples find",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.heading,
            "no number is enough" if row.replicates is None else str(row.replicates),
            "no number is enough" if row.samples is None else str(row.samples),
            percent(row.detectable) if math.isfinite(row.detectable) else "nothing",
        )
    print(f"to find a difference of {percent(effect)} in {100 * power:.3g} of 100 comparisons:")
    console().print(table)


def _advice(
    row: Row, effect: float, samples: int, sample_s: float, beyond_s: float | None, given: Sequence[str]
) -> str:
    """The plan for the total in a sentence, with the time that it takes."""
    from fourstage.comparison.floors import percent

    if row.replicates is None:
        return f"{percent(effect)} in total cannot be found by more processes: measure more samples"
    a_process = samples * sample_s + (beyond_s or 0.0)
    seconds = SIDES * row.replicates * a_process
    about = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    rest = "" if beyond_s is None else f" ({beyond_s:.1f} s a process beyond its samples)"
    kept = [word for word in given if not word.startswith("replicates=")]
    command = " ".join(["fourstage run -m", *kept, f"replicates={row.replicates}"])
    return f"{percent(effect)} in total: two configurations take about {about}{rest}: {command}"


def _heading(field: str) -> str:
    from fourstage.comparison.floors import FLOORED

    return next(figure.heading for figure in FLOORED if figure.field == field)


def _share(key: str, text: str, below: float) -> float:
    """A share above 0, written as 3% or 0.03."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < below:
        limit, example = (" below 1", "0.8") if below == 1.0 else ("", "3% or 0.03")
        raise SettingError(f"{key}={shortened(text)!r}: expected a share above 0{limit}, such as {example}")
    return value
