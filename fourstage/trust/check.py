"""The verdict of one check: its sentence, what was found, and the limit.

Check("stages_close", "the four stages account for the end-to-end time", "pass", 0.01, 0.03, unit="share").line
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fourstage.records.columns import Columns, Floats, Ints
from fourstage.records.units import first_few, plain
from fourstage.trust.evidence import Evidence

Mask = NDArray[np.bool_]
Verdict = Literal["pass", "warn", "fail", "not possible"]
Relation = Literal["at most", "at least", "within", "exactly", ""]  # of the value to its limit, where it passes
NAMED = 5  # faults that a detail names


@dataclass(frozen=True)
class Check:
    """One sentence about a run, and whether it holds."""

    id: str
    sentence: str
    verdict: Verdict
    value: float | str | None
    limit: float | str | None
    detail: str = ""  # why not possible, which samples, what to do
    what: str = ""  # of what the value is: "of answers were ended by max_new_tokens"
    relation: Relation = ""
    unit: str = ""  # "share": shown in percent; "times"

    @property
    def finding(self) -> str:
        """The value against its limit in words: `31 % of answers were ended by max_new_tokens (at most 10 %)`."""
        if self.value is None:
            return ""
        found = f"{self._amount(self.value)} {self.what}".rstrip()
        if self.limit is None or not self.relation:
            return found
        limit = self._amount(self.limit)
        if self.limit == 0 and self.relation == "at most":
            return f"{found} (none allowed)"
        relation = {"exactly": "expected ", "within": "within ±"}.get(self.relation, f"{self.relation} ")
        return f"{found} ({relation}{limit})"

    @property
    def line(self) -> str:
        """The check as one line: its name, its claim, what was found against the limit, and which samples."""
        found = f": {self.finding}" if self.finding else ""
        return f"{self.id}: {self.sentence}{found}" + (f"; {self.detail}" if self.detail else "")

    def _amount(self, value: float | str) -> str:
        if isinstance(value, str):
            return value
        if not math.isfinite(value):
            return "unknown"
        return (
            f"{plain(round(100 * value, 4) + 0.0)} %"
            if self.unit == "share"
            else f"{plain(value)} {self.unit}".rstrip()
        )


def valid(checks: Sequence[Check]) -> bool:
    """No check failed."""
    return not any(check.verdict == "fail" for check in checks)


def as_dict(checks: Sequence[Check]) -> dict[str, Any]:
    """What `checks.json` holds."""
    return {"valid": valid(checks), "checks": [asdict(check) for check in checks]}


def as_tags(checks: Sequence[Check]) -> dict[str, str]:
    """What a run's tags say of them: whether it is valid, and which failed and which warned."""
    named = {word: ",".join(check.id for check in checks if check.verdict == word) for word in ("fail", "warn")}
    return {
        "fourstage.valid": str(valid(checks)).lower(),
        "fourstage.checks_failed": named["fail"] or "none",
        "fourstage.checks_warned": named["warn"] or "none",
    }


def read_checks(path: Path) -> list[Check]:
    """What `as_dict` gave, from its file."""
    return [Check(**found) for found in json.loads(path.read_text(encoding="utf-8"))["checks"]]


def not_finished(status: str, records: int) -> Check:
    """The one check of a run that ended before its checks: it is invalid."""
    return Check(
        "as_planned",
        "every planned sample has exactly one record, failed samples included",
        "fail",
        f"{records} records",
        "one for each planned sample",
        f"the run is {status}: it ended before all its checks could be made",
        relation="exactly",
    )


@dataclass(frozen=True)
class Faults:
    """Where one kind of fault is, and how the one in a row is told."""

    where: Mask
    tell: Callable[[int], str]


def every_fault(texts: Sequence[str]) -> Faults:
    """Faults that are described already, one text each."""
    return Faults(np.ones(len(texts), dtype=np.bool_), lambda i: texts[i])


def any_fault(evidence: Evidence, name: str, sentence: str, kinds: Sequence[Faults], seen: str = "") -> Check:
    """Fails on any fault; without a successful sample it cannot be made."""
    if not len(evidence.done):
        return not_possible(name, sentence, "no sample succeeded")
    count = sum(int(kind.where.sum()) for kind in kinds)
    told, passed = dict[str, None](), 0
    for text in (kind.tell(row) for kind in kinds for row in np.flatnonzero(kind.where).tolist()):
        if len(told) == NAMED and text not in told:
            break
        told[text] = None
        passed += 1
    named = first_few(list(told), NAMED, len(told) + count - passed, "; ")
    return faults_found(name, sentence, count, "; ".join(filter(None, (named, seen))))


def faults_found(name: str, sentence: str, count: int, detail: str) -> Check:
    """A check of which one fault is too many."""
    what = "fault" if count == 1 else "faults"
    return Check(name, sentence, "fail" if count else "pass", count, 0, detail, what, "at most")


def not_possible(name: str, sentence: str, why: str) -> Check:
    """A check that could not be made, and why."""
    return Check(name, sentence, "not possible", None, None, why)


def present(values: Floats) -> Floats:
    """The values that are not NaN."""
    return values[~np.isnan(values)]


def key_of(run: Columns, row: int) -> str:
    """The sample's key of one row."""
    return run.keys[int(run.key_codes[row])]


def keys_of(run: Columns, rows: Mask | Ints) -> str:
    """The keys of these rows, each once."""
    codes, first = np.unique(run.key_codes[rows], return_index=True)
    return names_of([run.keys[code] for code in codes[np.argsort(first)]])


def count_of(value: float) -> str:
    """A count as text; "None" where it is missing."""
    return "None" if np.isnan(value) else f"{value:.0f}"


def names_of(found: Sequence[str]) -> str:
    """The first few, and how many more."""
    return first_few(found, NAMED, separator="; ")
