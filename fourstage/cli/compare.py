"""Compare runs sample by sample, and write report.html, report.md and compare.json.

fourstage compare                                # the last sweep, its first valid run as baseline
fourstage compare baseline=<id or name> target=<id or name>
fourstage compare sweep=<name> by=model          # runs that differ in the model only, each group by itself
fourstage compare 'filter=params.model.name = "videollava" and metrics.total_s.median < 2'

  baseline=       run id (its first 6 characters are enough) or name; alone with sweep= or filter=: the run that all
                  others are compared with
  target=         run id or name
  sweep=          a sweep's name, its parent's name (the newest) or its parent's run id
  filter=         MLflow's search language; names need no quotes
  by=             settings, with commas: within each group, runs differ in these only, and in what follows from them
  exclude=        samples that are left out of every figure: keys or globs, with commas
  margin=0.02     within which two times are called equivalent
  allow_invalid=false   whether a run with a failed check may be the baseline
  fail_on=        exit with 1 where a total is regressed, or a run invalid or not comparable: regressed, invalid or
                  both, with a comma
  format=         every table also as a file in tables/: csv, latex, md, with commas
  out=            folder of the files; by default mlruns/compare/<name>
  uri=, experiment=     where the runs are; by default sqlite:///mlruns/mlflow.db, fourstage
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from fourstage.cli.command import parse_words, run_command
from fourstage.comparison.selection import brief
from fourstage.config.values import SettingError
from fourstage.exit_codes import FAILED
from fourstage.paths import path_of

if TYPE_CHECKING:
    from fourstage.report.build import Compared

WORDS = {
    "baseline": "",
    "target": "",
    "sweep": "",
    "by": "",
    "exclude": "",
    "filter": "",
    "fail_on": "",
    "margin": "0.02",
    "allow_invalid": "false",
    "format": "",
    "out": "",
    "uri": "sqlite:///mlruns/mlflow.db",
    "experiment": "fourstage",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""

    def command(words: Sequence[str]) -> int:
        gate = compare_command(parse_words(words, WORDS)).gate
        return FAILED if gate is not None and gate.failed else 0

    return run_command(__doc__, argv, command)


def compare_command(words: Mapping[str, str]) -> Compared:
    """Compare the runs that the settings name. Raises UserError where there are no two runs to compare."""
    margin, allow_invalid = _margin(words["margin"]), _flag("allow_invalid", words["allow_invalid"])
    formats, fail_on = _formats(words["format"]), _conditions(words["fail_on"])
    from fourstage.comparison.selection import Words, select_runs
    from fourstage.report.build import beside, compare_chosen, gc_disabled, slug
    from fourstage.screen import console
    from fourstage.tracking.destination import Destination

    where = Destination(words["uri"], None, words["experiment"])
    by = tuple(word.strip() for word in words["by"].split(",") if word.strip())
    with gc_disabled():
        chosen = select_runs(where, Words(words["baseline"], words["target"], words["sweep"], words["filter"], by))
    out = path_of(words["out"], "out") if words["out"] else beside(where) / slug(chosen.name)
    return compare_chosen(console(), where, chosen, by, margin, allow_invalid, out, words["exclude"], formats, fail_on)


def _margin(text: str) -> float:
    try:
        margin = float(text)
    except ValueError:
        margin = 0.0
    if not 0 < margin < 1:
        raise SettingError(f"margin={brief(text)}: expected a number between 0 and 1, such as 0.02 for 2 %")
    return margin


def _formats(text: str) -> tuple[str, ...]:
    if not text.strip():
        return ()
    from fourstage.report.exports import FORMATS

    return _some_of("format", text, FORMATS)


def _conditions(text: str) -> tuple[str, ...]:
    from fourstage.comparison.gate import CONDITIONS

    return _some_of("fail_on", text, CONDITIONS)


def _some_of(key: str, text: str, known: Collection[str]) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if unknown := [word for word in words if word not in known]:
        raise SettingError(f"{key}={brief(unknown[0])}: expected one or several of {', '.join(known)}")
    return words


def _flag(key: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise SettingError(f"{key}={brief(text)}: expected true or false")
    return text.lower() == "true"
