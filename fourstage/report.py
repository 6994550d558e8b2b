"""The report of a comparison: `report.html`, one file that opens offline, and `report.md`.

Everything is in the order in which its reader asks: the result, the findings, whether it can be believed, stage by
stage, where the gap comes from, what the stages worked on, the texts. Left out: what is compared (`compare.py`) and
every figure (`analysis/comparison.py`), which is shown as it was found.

    write_report(Path("report"), Subject("eventgpt against videollava", comparison, texts))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Protocol

from fourstage.analysis.attribution import sentence
from fourstage.analysis.comparison import Comparison
from fourstage.analysis.texts import TextRow
from fourstage.escaping import markdown_cell, printable


class Finding(Protocol):
    """A question that a study asks and what was measured, as `analysis/findings.py` has it."""

    @property
    def question(self) -> str: ...
    @property
    def answer(self) -> str: ...  # "yes", "no" or "cannot tell"
    @property
    def measured(self) -> str: ...  # one sentence with the numbers


@dataclass(frozen=True)
class Subject:
    """What a report is about; all texts as they are, escaped where they are shown."""

    title: str
    comparison: Comparison
    texts: Sequence[TextRow] = ()
    pictures: Mapping[str, Mapping[str, Sequence[bytes]]] = field(default_factory=dict)
    # key of a sample → "event images" or "frames" → PNGs
    findings: Sequence[Finding] = ()
    question: str = ""  # of the study, where it is one
    command: str = ""
    notes: Sequence[str] = ()  # what else a reader must know: failed jobs of the sweep


def html(subject: Subject) -> str:
    """The whole report as one HTML document without scripts and without anything from elsewhere."""
    return f"<!doctype html><title>{escape(printable(subject.title))}</title>{escape(markdown(subject))}"


def markdown(subject: Subject) -> str:
    """The report in Markdown, without pictures of samples."""
    lines = [f"# {markdown_cell(subject.title)}"]
    for pair in subject.comparison.pairs:
        if pair.attribution is not None:
            lines.append(markdown_cell(sentence(pair.attribution, pair.baseline_name, pair.target_name)))
    return "\n\n".join(lines) + "\n"


def write_report(folder: Path, subject: Subject) -> None:
    """Write report.html, report.md and its plots (plots/*.png) into the folder, which is made where it is not."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(html(subject), encoding="utf-8")
    (folder / "report.md").write_text(markdown(subject), encoding="utf-8")
