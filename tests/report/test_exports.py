"""Tables as files hold the report's figures: CSV as numbers, LaTeX as text that compiles."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fourstage.report.exports import FORMATS, escape_latex, to_csv, to_latex, write_tables
from fourstage.report.layout import Layout, lay_out
from fourstage.report.tables import Cell, Table
from tests.report.test_page import EVIL, records, subject


@pytest.fixture(scope="module")
def layout() -> Layout:
    return lay_out(subject(records(), records(1.3)))


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_holds_each_figure_as_a_number_with_its_limits_and_unit(layout: Layout) -> None:
    (pair,) = layout.pairs
    found = rows(to_csv(pair.stages))
    for line, row in zip(found, pair.pair.rows, strict=True):
        assert line["figure"] == row.name
        assert float(line["baseline"]) == row.baseline_mean
        assert [float(line[f"ratio{part}"]) for part in ("", " low", " high")] == [
            row.ratio.estimate, row.ratio.low, row.ratio.high,
        ]  # fmt: skip
        assert (line["difference unit"], line["in words"]) == (row.unit, row.text)


def test_what_is_not_known_is_an_empty_cell_of_csv() -> None:
    one_process = [[r for r in made if not r.replicate] for made in (records(n=1), records(1.3, n=1))]
    found = rows(to_csv(lay_out(subject(*one_process)).pairs[0].stages))
    total = next(line for line in found if line["figure"] == "total")
    assert (total["ratio low"], total["share of baseline"]) == ("", "")
    assert float(total["ratio"]) == pytest.approx(1.3)


def test_latex_has_as_many_cells_in_each_row_and_no_character_that_it_reads(layout: Layout) -> None:
    evil = Table("evil", EVIL, (EVIL, "b_%"), ((Cell(EVIL), Cell("1", value=1.0)),))
    for table in (*layout.tables, evil):
        text = to_latex(table)
        (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
        lines = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(lines) == 1 + len(table.rows)
        for line in lines:
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1 == len(table.columns) - 1
    assert escape_latex("50 % of a_b & {c} ~ \\x $1") == (
        r"50 \% of a\_b \& \{c\} \textasciitilde{} \textbackslash{}x \$1"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_latex_compiles(layout: Layout, tmp_path: Path) -> None:
    body = "\n\n".join(map(to_latex, layout.tables))
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,textcomp}\begin{document}"
    (tmp_path / "a.tex").write_text(f"{head}\n{body}\n\\end{{document}}\n", encoding="utf-8")
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"], cwd=tmp_path, check=True)


def test_every_table_is_a_file_of_each_format(tmp_path: Path) -> None:
    several = lay_out(subject(records(), records(1.3), records(0.8)))
    files = write_tables(tmp_path / "tables", several, FORMATS)
    names = ["overview", "settings", "medians", "stages_1", "attribution_1", "stages_2", "attribution_2", "facts"]
    assert sorted(path.name for path in files) == sorted(
        f"{name}.{suffix}" for name in names for suffix in ("csv", "tex", "md")
    )
    assert all(path.stat().st_size for path in files)
