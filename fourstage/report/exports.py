r"""Tables as files for other programs: CSV with plain numbers, LaTeX for a paper, Markdown.

A cell of CSV holds the number in its own unit (seconds, bytes, a share from 0 to 1), an interval has three columns,
and a column of units stands beside numbers that have one. LaTeX and Markdown hold what the report shows. LaTeX needs
the package booktabs, and UTF-8. Left out: which tables there are (`layout.py`).

    write_tables(Path("tables"), layout, ["csv", "latex"])     # tables/stages.csv, tables/stages.tex, …
    to_latex(layout.facts)
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fourstage.records.units import MISSING
from fourstage.report.layout import Layout
from fourstage.report.markdown import table_to_markdown
from fourstage.report.tables import Cell, Table
from fourstage.stats.intervals import Interval
from fourstage.text import one_line

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "−": "$-$", "×": r"$\times$", "→": r"$\to$", "µ": r"\textmu{}",
    "–": "--", "…": r"\dots{}", "“": "``", "”": "''", "[": "{[}", "]": "{]}",
}  # fmt: skip


def write_tables(folder: Path, layout: Layout, formats: Iterable[str]) -> list[Path]:
    """Write every table of a layout in these formats (of FORMATS) into a folder; gives the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in formats:
        suffix, write = FORMATS[name]
        for table in layout.tables:
            files.append(folder / f"{table.name}.{suffix}")
            files[-1].write_text(write(table), encoding="utf-8", newline="")
    return files


def to_csv(table: Table) -> str:
    """The table as CSV (RFC 4180): a row of headings, then one line a row; what is not known is empty."""
    columns = [column for i in range(len(table.columns)) for column in _csv_columns(table, i)]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([heading for heading, _ in columns])
    writer.writerows([[read(row) for _, read in columns] for row in table.rows])
    return text.getvalue()


def to_latex(table: Table) -> str:
    """The table as a LaTeX `tabular` with booktabs' rules; title and note are comments."""
    numeric = [any(row[i].value is not None for row in table.rows) for i in range(len(table.columns))]
    lines = [
        f"% {one_line(table.title)}",
        rf"\begin{{tabular}}{{{''.join('r' if number else 'l' for number in numeric)}}}",
        r"\toprule",
        _latex_row(table.columns),
        r"\midrule",
    ]
    for i, row in enumerate(table.rows):
        if table.last_is_sum and i == len(table.rows) - 1:
            lines.append(r"\midrule")
        lines.append(_latex_row([f"{cell.text} ({cell.detail})" if cell.detail else cell.text for cell in row]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines + ([f"% {one_line(table.note)}"] if table.note else [])) + "\n"


def escape_latex(text: str) -> str:
    """Text on one line, with every character that LaTeX reads escaped."""
    return "".join(LATEX.get(letter, letter) for letter in one_line(text))


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"


Row = tuple[Cell, ...]


def _csv_columns(table: Table, i: int) -> list[tuple[str, Callable[[Row], object]]]:
    """The columns of CSV that one column of a table becomes, each with its heading."""
    name = table.columns[i] or "figure"
    cells = [row[i] for row in table.rows]
    if all(cell.value is None for cell in cells):
        found: list[tuple[str, Callable[[Row], object]]] = [
            (name, lambda row: "" if row[i].text == MISSING else one_line(row[i].text))
        ]
        if any(cell.detail for cell in cells):
            found.append((f"{name} detail", lambda row: one_line(row[i].detail)))
        return found
    found = [(name, lambda row: _number(row[i].value, "estimate"))]
    if any(isinstance(cell.value, Interval) for cell in cells):
        found += [
            (f"{name} low", lambda row: _number(row[i].value, "low")),
            (f"{name} high", lambda row: _number(row[i].value, "high")),
        ]
    if any(cell.unit for cell in cells):
        found.append((f"{name} unit", lambda row: row[i].unit))
    return found


def _number(value: float | Interval | None, part: str) -> object:
    number: float | None = getattr(value, part) if isinstance(value, Interval) else value
    return "" if number is None or not math.isfinite(number) else number


FORMATS: dict[str, tuple[str, Callable[[Table], str]]] = {  # name → suffix of its files, renderer
    "csv": ("csv", to_csv),
    "latex": ("tex", to_latex),
    "md": ("md", lambda table: table_to_markdown(table) + "\n"),
}
