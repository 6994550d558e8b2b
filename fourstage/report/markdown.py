"""A report as `report.md`, its plots as files beside it, and without pictures of samples.

Left out: what it shows (`layout.py`).

    to_markdown(layout, plots_of(layout))
    table_to_markdown(layout.facts)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fourstage.comparison.effects import Comparison
from fourstage.comparison.findings import Finding
from fourstage.comparison.texts import Span
from fourstage.report.charts import STAGE_PLOTS, TOKEN_PLOTS
from fourstage.report.drawing import Plot
from fourstage.report.layout import Layout, about, cut
from fourstage.report.tables import Cell, Table, overview
from fourstage.report.wording import headline
from fourstage.text import markdown_cell, one_line

MOST_TEXTS, MOST_LETTERS = 10, 400
MOST_ROWS = 30  # of a summary: a tag of MLflow holds 8000 characters
BOLD = {"Improved", "Regressed", "bottleneck", "invalid"}


def to_markdown(layout: Layout, plots: Mapping[str, Plot]) -> str:
    """The whole report; its plots (`charts.plots_of`) are linked as `plots/<name>.png`."""
    subject, several = layout.subject, len(layout.pairs) > 1
    parts = [f"# {markdown_cell(subject.title)}"]
    parts += [markdown_cell(text) for text in (subject.question, subject.command) if text]
    parts += [f"**{markdown_cell(layout.headline)}**", *_tables(layout.ranking, layout.factors, layout.overview)]
    parts += ["## Findings", *_tables(layout.findings)] if layout.findings is not None else []
    parts += ["## Can it be believed?", _remarks(layout)]
    parts += _tables(layout.settings) or ["No setting differs between the runs."]
    parts += ["## Stages", *(_image(plots[name]) for name in STAGE_PLOTS if name in plots), *_tables(layout.medians)]
    for number, pair in enumerate(layout.pairs, start=1):
        parts += [f"### {markdown_cell(pair.title)}", markdown_cell(pair.sentence)] if several else []
        parts += _tables(pair.stages, pair.attribution)
        parts += [_image(plots[f"waterfall_{number}"])] if pair.waterfall else []
    parts += [markdown_cell(text) for text in (layout.more_pairs, layout.basis) if text]
    parts += ["## What the stages worked on", *_tables(layout.facts)]
    if tokens := [_image(plots[name]) for name in TOKEN_PLOTS if name in plots]:
        parts += ["## Tokens", *tokens]
    if layout.texts:
        parts += ["## Texts side by side", _texts(layout)]
    return "\n\n".join(parts) + "\n"


def _tables(*tables: Table | None) -> list[str]:
    return [table_to_markdown(table) for table in tables if table is not None]


def _remarks(layout: Layout) -> str:
    kinds = {"bad": "**Do not use:** ", "warned": "**Mind:** ", "note": ""}
    lines = [f"- {kinds[remark.kind]}{markdown_cell(remark.text)}" for remark in layout.remarks]
    return "\n".join(lines) or markdown_cell(layout.all_well)


def summary(
    title: str, parts: Sequence[tuple[str, Comparison]], notes: Sequence[str], findings: Sequence[Finding]
) -> str:
    """The result, a table with a row a run, and the findings: the description of the sweep's parent in MLflow."""
    lines = [f"## {markdown_cell(title)}"]
    for label, found in parts:
        lines += [f"### {markdown_cell(label)}"] if label else []
        lines += [markdown_cell(headline(found)), table_to_markdown(overview(found).first(MOST_ROWS, "runs"))]
    answers = [
        f"- **{markdown_cell(one.question)}** {markdown_cell(one.answer)}. {markdown_cell(one.measured)}"
        for one in findings
    ]
    lines += ["\n".join(answers), "\n".join(f"- {markdown_cell(note)}" for note in notes[:MOST_ROWS])]
    return "\n\n".join(filter(None, lines)) + "\n"


def table_to_markdown(made: Table) -> str:
    """A table with its title, and its note below."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def shown(one: Cell) -> str:
        text = markdown_cell(one.text)
        text = f"**{text}**" if one.mark in BOLD and text else text
        return f"{text} ({markdown_cell(one.details)})" if one.details else text

    lines = [
        line([markdown_cell(name) for name in made.columns]),
        line(["---"] * len(made.columns)),
        *(line([shown(one) for one in row]) for row in made.rows),
    ]
    note = f"\n\n{markdown_cell(made.note)}" if made.note else ""
    return f"**{markdown_cell(made.title)}**\n\n" + "\n".join(lines) + note


def _image(plot: Plot) -> str:
    return f"![{markdown_cell(plot.says)}](plots/{plot.name}.png)\n\n{markdown_cell(plot.title)}."


def _texts(layout: Layout) -> str:
    rows = []
    for row in layout.texts[:MOST_TEXTS]:
        asked = row.question + (f" (reference: {row.reference})" if row.reference else "")
        for index, answer in enumerate(answer for answer in row.answers if answer is not None):
            text = _marked(cut(answer.spans, MOST_LETTERS)) if not answer.error else markdown_cell(answer.error)
            cells = [row.key if not index else "", _short(asked) if not index else "", answer.run]
            rows.append(f"| {' | '.join([*map(markdown_cell, cells), text, markdown_cell(about(answer))])} |")
    limit = min(len(layout.texts), MOST_TEXTS)
    of = len(layout.subject.texts)
    note = f"\n\nThe first {limit} of {of} samples." if of > limit else ""
    head = "Against the baseline's answer, **bold** is only in this answer, ~~struck out~~ only in the baseline's."
    columns = "| sample | question | run | answer | about |\n| --- | --- | --- | --- | --- |"
    return f"{head}\n\n{columns}\n" + "\n".join(rows) + note


def _short(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…"


def _marked(spans: Sequence[Span]) -> str:
    marks = {"same": "", "added": "**", "removed": "~~"}
    parts = []
    for span in spans:
        inner = span.text.strip()
        mark = marks[span.kind] if inner else ""
        before = " " if span.text[:1].isspace() else ""
        after = " " if span.text[-1:].isspace() and inner else ""
        parts.append(f"{before}{mark}{markdown_cell(inner)}{mark}{after}")
    return "".join(parts).strip()
