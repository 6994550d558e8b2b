"""The report of a comparison: `report.html`, one file that opens offline, and `report.md`.

Both are in the order in which their reader asks: the result, the findings, whether it can be believed, stage by
stage and where the gap comes from, what the stages worked on, the texts. Of many runs, samples and letters the first
are shown, and it is said so. Left out: what is compared (`build.py`) and every figure (`effects.py`),
which is shown as it was found.

    write_report(Path("report"), Subject("eventgpt against videollava", comparison, texts))
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fourstage.comparison.attribution import sentence
from fourstage.comparison.effects import Comparison, Pairwise
from fourstage.comparison.texts import Answer, Span, TextRow
from fourstage.report.charts import Plot, plot_comparison, png, svg, waterfall
from fourstage.report.tables import (
    Cell,
    Remark,
    Table,
    attribution_table,
    basis,
    facts_table,
    headline,
    overview,
    remarks,
    settings_table,
    stage_table,
)
from fourstage.text import markdown_cell, one_line, printable

if TYPE_CHECKING:
    from jinja2 import Template

MOST_PAIRS, MOST_WATERFALLS, OPEN_PAIRS = 23, 8, 2
MOST_SETTING_RUNS = 100
MOST_TEXTS, MOST_ANSWERS, MOST_LETTERS = 20, 12, 2000
MARKDOWN_TEXTS, MARKDOWN_LETTERS = 10, 400
MOST_PICTURES, PICTURE = 8, 160  # of a kind a sample; pixels of the longer side


class Finding(Protocol):
    """A question that a study asks and what was measured, as `findings.py` has it."""

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
    return _html(_content(subject))


def markdown(subject: Subject) -> str:
    """The report in Markdown, with its plots as files beside it and without pictures of samples."""
    return _markdown(_content(subject))


def write_report(folder: Path, subject: Subject) -> None:
    """Write report.html, report.md and its plots (plots/*.png) into the folder, which is made where it is not."""
    content = _content(subject)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(_html(content), encoding="utf-8")
    (folder / "report.md").write_text(_markdown(content), encoding="utf-8")
    for plot in content.every_plot:
        (folder / "plots" / f"{plot.name}.png").write_bytes(png(plot))


@dataclass(frozen=True, eq=False)
class _Pair:
    """What is shown of one run against the baseline."""

    title: str
    sentence: str
    stages: Table
    attribution: Table | None
    waterfall: Plot | None


@dataclass(frozen=True, eq=False)
class _Content:
    """All that both forms show, before any escaping."""

    subject: Subject
    headline: str
    overview: Table | None
    findings: Table | None
    remarks: tuple[Remark, ...]
    all_well: str
    settings: Table | None
    pairs: tuple[_Pair, ...]
    more_pairs: str
    basis: str
    facts: Table
    plots: tuple[Plot, ...]
    texts: tuple[TextRow, ...]
    more_texts: str

    @property
    def every_plot(self) -> Iterator[Plot]:
        yield from self.plots
        yield from (pair.waterfall for pair in self.pairs if pair.waterfall is not None)

    def plots_of(self, *names: str) -> list[Plot]:
        return [plot for plot in self.plots if plot.name in names]


def _content(subject: Subject) -> _Content:
    comparison = _told_apart(subject.comparison)
    shown = comparison.pairs[:MOST_PAIRS]
    pairs = tuple(_pair(pair, i + 1) for i, pair in enumerate(shown))
    more = len(comparison.pairs) - len(shown)
    waterfalls = f"Waterfalls are drawn for the first {MOST_WATERFALLS}." if len(shown) > MOST_WATERFALLS else ""
    names = [run.name for run in comparison.runs]
    settings = settings_table(comparison.settings, names)
    if settings is not None and len(settings.rows) > MOST_SETTING_RUNS and len(names) > MOST_SETTING_RUNS:
        note = f"The first {MOST_SETTING_RUNS} of {len(names)} runs."
        settings = replace(settings, rows=settings.rows[:MOST_SETTING_RUNS], note=note)
    texts, more_texts = _chosen_texts(subject.texts, comparison)
    return _Content(
        subject=subject,
        headline=headline(comparison),
        overview=overview(comparison) if len(comparison.pairs) > 1 else None,
        findings=_findings(subject.findings),
        remarks=(*remarks(comparison), *(Remark("note", note) for note in subject.notes)),
        all_well=f"All {len(names)} runs are valid without a warning, and every sample succeeded in all of them.",
        settings=settings,
        pairs=pairs,
        more_pairs=" ".join(
            part
            for part in (
                f"{more} more runs are in the table above and not shown in detail." if more else "",
                waterfalls,
            )
            if part
        ),
        basis=basis(comparison),
        facts=facts_table(comparison),
        plots=tuple(plot_comparison(comparison)),
        texts=texts,
        more_texts=more_texts,
    )


def _told_apart(comparison: Comparison) -> Comparison:
    """Runs of the same name get the beginning of their ids after it."""
    names = [run.name for run in comparison.runs]
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if not twice:
        return comparison

    def name_of(name: str, run_id: str) -> str:
        return f"{name} ({run_id[:8]})" if name in twice else name

    return replace(
        comparison,
        runs=tuple(replace(run, name=name_of(run.name, run.run_id)) for run in comparison.runs),
        pairs=tuple(
            replace(
                pair,
                baseline_name=name_of(pair.baseline_name, pair.baseline_id),
                target_name=name_of(pair.target_name, pair.target_id),
            )
            for pair in comparison.pairs
        ),
    )


def _pair(pair: Pairwise, number: int) -> _Pair:
    found = pair.attribution
    said = f"No sample succeeded in both {pair.baseline_name} and {pair.target_name}."
    return _Pair(
        title=f"{pair.target_name} against {pair.baseline_name}: {pair.verdict.value}",
        sentence=sentence(found, pair.baseline_name, pair.target_name) if found is not None else said,
        stages=stage_table(pair),
        attribution=attribution_table(found) if found is not None else None,
        waterfall=waterfall(pair, number) if number <= MOST_WATERFALLS else None,
    )


def _findings(findings: Sequence[Finding]) -> Table | None:
    if not findings:
        return None
    rows = tuple((Cell(one.question), Cell(one.answer, mark="answer"), Cell(one.measured)) for one in findings)
    return Table("What the study asked, and what was measured", ("question", "answer", "measured"), rows)


def _chosen_texts(texts: Sequence[TextRow], comparison: Comparison) -> tuple[tuple[TextRow, ...], str]:
    """The first samples, and of each the answers of the baseline and the first others, under the runs' names."""
    base = comparison.baseline
    order = [base, *(i for i in range(len(comparison.runs)) if i != base)][:MOST_ANSWERS]
    chosen = tuple(
        replace(row, answers=tuple(_named(row.answers, i, comparison) for i in order)) for row in texts[:MOST_TEXTS]
    )
    limits = []
    if len(texts) > MOST_TEXTS:
        limits.append(f"The first {MOST_TEXTS} of {len(texts)} samples.")
    if len(comparison.runs) > MOST_ANSWERS:
        limits.append(f"The baseline and the first {MOST_ANSWERS - 1} of {len(comparison.runs) - 1} runs.")
    return chosen, " ".join(limits)


def _named(answers: Sequence[Answer | None], place: int, comparison: Comparison) -> Answer:
    run = comparison.runs[place].name
    answer = answers[place] if place < len(answers) else None
    if answer is None:
        return Answer(run, "", "", None, None, "not measured", None, ())
    return replace(answer, run=run)


def _about(answer: Answer) -> str:
    """How long an answer is, how it ended, and how far it is the baseline's."""
    parts = []
    if answer.tokens is not None:
        parts.append(f"{answer.tokens} token{'s' if answer.tokens != 1 else ''}")
    if answer.finish_reason == "length":
        parts.append("cut at the limit")
    if (alike := answer.agreement) is not None:
        if alike.exact:
            parts.append("the baseline’s text exactly")
        else:
            parts += [
                f"first {alike.prefix_tokens} tokens shared ({100 * alike.prefix_share:.0f} %)",
                f"chrF {alike.chrf:.1f}",
            ]
    return ", ".join(parts)


def _cut(spans: Sequence[Span], most: int) -> list[Span]:
    """The first letters of a marked text, and how many more there are."""
    kept: list[Span] = []
    left = most
    for span in spans:
        if left <= 0:
            break
        kept.append(replace(span, text=span.text[:left]))
        left -= len(span.text)
    more = sum(len(span.text) for span in spans) - most
    return [*kept, Span(f" … {more} letters more", "same")] if more > 0 else kept


# HTML


def _html(content: _Content) -> str:
    subject = content.subject
    page: dict[str, Any] = {
        "title": subject.title,
        "question": subject.question,
        "command": subject.command,
        "headline": content.headline,
        "overview": content.overview,
        "findings": content.findings,
        "remarks": content.remarks,
        "all_well": content.all_well,
        "settings": content.settings,
        "stage_plots": [_drawn(plot) for plot in content.plots_of("stages")],
        "token_plots": [_drawn(plot) for plot in content.plots_of("time_against_tokens", "output_tokens")],
        "pairs": [vars(pair) | {"waterfall": pair.waterfall and _drawn(pair.waterfall)} for pair in content.pairs],
        "fold": len(content.pairs) > OPEN_PAIRS,
        "more_pairs": content.more_pairs,
        "basis": content.basis,
        "facts": content.facts,
        "texts": [_sample(row, subject.pictures.get(row.key, {})) for row in content.texts],
        "more_texts": content.more_texts,
    }
    return _template().render(page=page) + "\n"


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def _shown(value: object) -> object:
    """Of what the template shows: text without what steers a terminal; markup made here stays."""
    return printable(value) if type(value) is str else value


def _drawn(plot: Plot) -> dict[str, object]:
    from markupsafe import Markup

    # made of elements by `svg`, which escapes the texts in them
    return {"svg": Markup(svg(plot)), "title": plot.title}


def _sample(row: TextRow, pictures: Mapping[str, Sequence[bytes]]) -> dict[str, Any]:
    kinds = []
    for name, images in pictures.items():
        step = max(1.0, len(images) / MOST_PICTURES)
        chosen = [images[int(i * step)] for i in range(min(len(images), MOST_PICTURES))]
        title = name if len(chosen) == len(images) else f"{name}: {len(chosen)} of {len(images)}"
        kinds.append({"name": name, "title": title, "shots": [_data_uri(image) for image in chosen]})
    answers = [
        {
            "run": answer.run,
            "about": _about(answer),
            "error": answer.error,
            "spans": _cut(answer.spans, MOST_LETTERS),
            "prompt": answer.prompt,
        }
        for answer in row.answers
        if answer is not None
    ]
    return {
        "key": row.key,
        "question": row.question,
        "reference": row.reference,
        "pictures": [kind for kind in kinds if kind["shots"]],
        "answers": answers,
    }


def _data_uri(data: bytes) -> str | None:
    """A small picture inside the page, JPEG where that is smaller; None where the bytes are no picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as read:
            image = read.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None
    image.thumbnail((PICTURE, PICTURE))
    encoded = []
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 82})):
        made = io.BytesIO()
        image.save(made, kind, **options)
        encoded.append((len(made.getvalue()), kind, made.getvalue()))
    _, kind, small = min(encoded)
    return f"data:image/{kind};base64,{base64.b64encode(small).decode('ascii')}"


# Markdown


def _markdown(content: _Content) -> str:
    subject = content.subject
    parts = [f"# {markdown_cell(subject.title)}"]
    parts += [markdown_cell(text) for text in (subject.question, subject.command) if text]
    parts.append(f"**{markdown_cell(content.headline)}**")
    parts += [_table(made) for made in (content.overview,) if made is not None]
    if content.findings is not None:
        parts += ["## Findings", _table(content.findings)]
    parts.append("## Can it be believed?")
    told = {"bad": "**Do not use:** ", "warned": "**Mind:** ", "note": ""}
    lines = [f"- {told[remark.kind]}{markdown_cell(remark.text)}" for remark in content.remarks]
    parts.append("\n".join(lines) or markdown_cell(content.all_well))
    parts.append(_table(content.settings) if content.settings is not None else "No setting differs between the runs.")
    parts += ["## Stages", *map(_image, content.plots_of("stages"))]
    for pair in content.pairs:
        if len(content.pairs) > 1:
            parts += [f"### {markdown_cell(pair.title)}", markdown_cell(pair.sentence)]
        parts += [_table(made) for made in (pair.stages, pair.attribution) if made is not None]
        parts += [_image(pair.waterfall)] if pair.waterfall is not None else []
    parts += [markdown_cell(text) for text in (content.more_pairs, content.basis) if text]
    parts += ["## What the stages worked on", _table(content.facts)]
    if tokens := content.plots_of("time_against_tokens", "output_tokens"):
        parts += ["## Tokens", *map(_image, tokens)]
    if content.texts:
        parts += ["## Texts side by side", _texts(content)]
    return "\n\n".join(parts) + "\n"


def _table(made: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    bold = {"Improved", "Regressed", "bottleneck", "invalid"}

    def shown(one: Cell) -> str:
        text = markdown_cell(one.text)
        text = f"**{text}**" if one.mark in bold and text else text
        return f"{text} ({markdown_cell(one.detail)})" if one.detail else text

    lines = [
        line([markdown_cell(name) for name in made.columns]),
        line(["---"] * len(made.columns)),
        *(line([shown(one) for one in row]) for row in made.rows),
    ]
    note = f"\n\n{markdown_cell(made.note)}" if made.note else ""
    return f"**{markdown_cell(made.title)}**\n\n" + "\n".join(lines) + note


def _image(plot: Plot) -> str:
    return f"![{markdown_cell(plot.says)}](plots/{plot.name}.png)\n\n{markdown_cell(plot.title)}."


def _texts(content: _Content) -> str:
    rows = []
    for row in content.texts[:MARKDOWN_TEXTS]:
        asked = row.question + (f" (reference: {row.reference})" if row.reference else "")
        for place, answer in enumerate(answer for answer in row.answers if answer is not None):
            text = _marked(_cut(answer.spans, MARKDOWN_LETTERS)) if not answer.error else markdown_cell(answer.error)
            cells = [row.key if not place else "", _short(asked) if not place else "", answer.run]
            rows.append(f"| {' | '.join([*map(markdown_cell, cells), text, markdown_cell(_about(answer))])} |")
    limit = min(len(content.texts), MARKDOWN_TEXTS)
    of = len(content.subject.texts)
    note = f"\n\nThe first {limit} of {of} samples." if of > limit else ""
    head = "Against the baseline's answer, **bold** is only in this answer, ~~struck out~~ only in the baseline's."
    columns = "| sample | question | run | answer | about |\n| --- | --- | --- | --- | --- |"
    return f"{head}\n\n{columns}\n" + "\n".join(rows) + note


def _short(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= MARKDOWN_LETTERS else f"{text[:MARKDOWN_LETTERS]}…"


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
