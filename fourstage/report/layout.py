"""The layout of a report: every table, sentence and remark of a comparison in reading order, as plain data.

The order is that of a reader's questions: the result, the findings, whether it can be believed, stage by stage and
where the gap comes from, what the stages worked on, the texts. Of many runs, samples and letters the first are shown,
and the layout says so. Left out: how it looks; each renderer (`terminal.py`, `html.py`, `markdown.py`, `exports.py`)
shows the same layout.

    layout = lay_out(Subject("eventgpt against videollava", comparison, texts))
    layout.headline, layout.pairs[0].stages
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fourstage.comparison.answer import Answer
from fourstage.comparison.effects import Comparison, Pairwise
from fourstage.comparison.findings import Finding
from fourstage.comparison.texts import Answer as TextAnswer
from fourstage.comparison.texts import Span, TextRow
from fourstage.records.units import plural
from fourstage.report.remarks import Remark, remarks
from fourstage.report.tables import (
    Table,
    attribution_table,
    factors_table,
    facts_table,
    findings_table,
    medians_table,
    overview,
    ranking_table,
    settings_table,
    stage_table,
)
from fourstage.report.wording import basis, headline, pair_sentence

MOST_PAIRS, MOST_WATERFALLS = 23, 8
MOST_SETTING_RUNS = 100
MOST_TEXTS, MOST_ANSWERS = 20, 12
OPEN_ANSWERS = 16  # of the first samples; the samples after them are folded, so that a sweep prints on few pages


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
    notes: Sequence[str] = ()  # what else a reader must know: runs that are left out, samples that are excluded
    answer: Answer | None = None  # of the swept settings


@dataclass(frozen=True, eq=False)
class PairLayout:
    """What is shown of one run against the baseline."""

    pair: Pairwise
    title: str
    sentence: str
    stages: Table
    attribution: Table | None
    waterfall: bool  # whether its waterfall is drawn


@dataclass(frozen=True, eq=False)
class Layout:
    """All that a report shows, before any escaping."""

    subject: Subject
    headline: str
    ranking: Table | None  # of more than two runs
    factors: Table | None
    overview: Table | None  # of more than two runs
    findings: Table | None
    remarks: tuple[Remark, ...]
    all_well: str  # instead of remarks, where there is none
    settings: Table | None
    medians: Table | None  # of more than two runs
    pairs: tuple[PairLayout, ...]
    more_pairs: str
    basis: str
    facts: Table
    texts: tuple[TextRow, ...]
    more_texts: str
    one_model: frozenset[str]  # names of the runs of the baseline's model: only their answers are compared by letters

    @property
    def tables(self) -> Iterator[Table]:
        """Every table, each under a name of its own."""
        several = len(self.pairs) > 1
        yield from (
            table
            for table in (self.ranking, self.factors, self.overview, self.findings, self.settings, self.medians)
            if table
        )
        for number, pair in enumerate(self.pairs, start=1):
            for table in filter(None, (pair.stages, pair.attribution)):
                yield (
                    replace(table, name=f"{table.name}_{number}", title=f"{pair.title}. {table.title}")
                    if several
                    else table
                )
        yield self.facts


def lay_out(subject: Subject) -> Layout:
    """Everything that a report shows of a comparison."""
    comparison = subject.comparison
    several = len(comparison.pairs) > 1
    shown = comparison.pairs[:MOST_PAIRS]
    pairs = tuple(_pair(pair, number < MOST_WATERFALLS) for number, pair in enumerate(shown))
    more = len(comparison.pairs) - len(shown)
    waterfalls = f"Waterfalls are drawn for the first {MOST_WATERFALLS}." if len(shown) > MOST_WATERFALLS else ""
    names = [run.name for run in comparison.runs]
    settings = settings_table(comparison.settings, names)
    if settings is not None and settings.columns[0] == "run":
        settings = settings.first(MOST_SETTING_RUNS, "runs")
    texts, more_texts = _chosen_texts(subject.texts, comparison)
    return Layout(
        subject=subject,
        headline=headline(comparison, subject.answer),
        ranking=ranking_table(subject.answer) if several and subject.answer else None,
        factors=factors_table(subject.answer) if several and subject.answer else None,
        overview=overview(comparison) if several else None,
        findings=findings_table(subject.findings),
        remarks=(*remarks(comparison), *(Remark("note", note) for note in _notes(subject))),
        all_well=f"All {len(names)} runs are valid without a warning, and every sample succeeded in all of them.",
        settings=settings,
        medians=medians_table(comparison).first(MOST_SETTING_RUNS, "runs") if several else None,
        pairs=pairs,
        more_pairs=" ".join(
            filter(
                None, (f"{more} more runs are in the table above and not shown in detail." if more else "", waterfalls)
            )
        ),
        basis=basis(comparison),
        facts=facts_table(comparison),
        texts=texts,
        more_texts=more_texts,
        one_model=frozenset(
            run.name
            for run in comparison.runs
            if run.params.get("model.name") == comparison.runs[comparison.baseline].params.get("model.name")
        ),
    )


def _notes(subject: Subject) -> list[str]:
    found = list(subject.notes)
    if len(subject.comparison.pairs) > 1 and subject.answer is not None and subject.answer.skipped:
        found.append(f"Neither ranked nor answered by setting: {subject.answer.skipped}")
    return found


def _pair(pair: Pairwise, waterfall: bool) -> PairLayout:
    found = pair.attribution
    return PairLayout(
        pair=pair,
        title=f"{pair.target_name} against {pair.baseline_name}: {pair.verdict.value}",
        sentence=pair_sentence(pair),
        stages=stage_table(pair),
        attribution=attribution_table(found) if found is not None else None,
        waterfall=waterfall and found is not None,
    )


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


def _named(answers: Sequence[TextAnswer | None], index: int, comparison: Comparison) -> TextAnswer:
    run = comparison.runs[index].name
    answer = answers[index] if index < len(answers) else None
    if answer is None:
        return TextAnswer(run, "", "", None, None, "not measured", None, ())
    return replace(answer, run=run)


def about(answer: TextAnswer) -> str:
    """How long an answer is, how it ended, and how far it is the baseline's."""
    parts = []
    if answer.tokens is not None:
        parts.append(f"{answer.tokens} {plural('token', answer.tokens)}")
    if answer.finish_reason == "length":
        parts.append("cut at the limit")
    if (alike := answer.agreement) is not None:
        if alike.exact:
            parts.append("the baseline’s text exactly")
        else:
            parts += [
                f"first {alike.prefix_tokens} tokens shared ({100 * alike.prefix_share:.0f} %)",
                f"chrF {alike.chrf:.1f} against the baseline’s answer",
            ]
    return ", ".join(parts)


def cut(spans: Sequence[Span], most: int) -> list[Span]:
    """The first letters of a marked text, and how many more there are."""
    first: list[Span] = []
    left = most
    for span in spans:
        if left <= 0:
            break
        first.append(replace(span, text=span.text[:left]))
        left -= len(span.text)
    more = sum(len(span.text) for span in spans) - most
    return [*first, Span(f" … {more} letters more", "same")] if more > 0 else first
