"""report.html as a browser shows and prints it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fourstage.comparison import effects
from fourstage.comparison.answer import answer, named
from fourstage.comparison.run_data import RunData
from fourstage.comparison.texts import compare_texts
from fourstage.records.columns import Columns
from fourstage.report.charts import plots_of
from fourstage.report.html import to_html
from fourstage.report.layout import Subject, lay_out
from tests.browser import chromium
from tests.report.test_page import png, records

CUT = """() => [...document.querySelectorAll('body *')].filter(one => {
    const box = one.getBoundingClientRect();
    if (!box.width || box.right <= innerWidth + 1) return false;
    for (let outer = one; outer; outer = outer.parentElement)
        if (['auto', 'scroll'].includes(getComputedStyle(outer).overflowX)) return false;
    return true;
}).map(one => `${one.tagName} ${one.textContent.slice(0, 40)}`)"""


def test_a_sweep_of_16_runs_prints_on_8_pages_and_a_phone_cuts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "RESAMPLES", 20)
    runs, texts = [], []
    for i in range(16):
        text = f"{i}: a red car drives on a street with several cars parked at the side. " * 4
        made = [replace(one, key=f"drive/{one.key}") for one in records(1 + 0.05 * i, n=12, output=text)]
        places = {
            "model.name": ("eventgpt", "videollava")[i // 8],
            "precision": ("bf16", "fp16")[i // 4 % 2],
            "temperature": ("0.2", "0.7")[i // 2 % 2],
            "max_new_tokens": ("32", "64")[i % 2],
        }
        runs.append(RunData(f"{i:032x}", f"run {i}", places, {}, {}, Columns.of(made)))
        texts.append(made)
    runs = named(runs)
    rows = compare_texts([(run.name, made) for run, made in zip(runs, texts, strict=True)])
    shots = {f"drive/clip {i}": {"frames": [png()] * 8} for i in range(12)}
    layout = lay_out(Subject("A sweep", effects.compare(runs), rows, answer=answer(runs), pictures=shots))
    (tmp_path / "report.html").write_text(to_html(layout, plots_of(layout)), encoding="utf-8")
    with chromium() as browser:
        for width in (1440, 390):
            page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
            page.goto(f"file://{tmp_path}/report.html")
            assert page.evaluate(CUT) == []
            assert page.evaluate("document.documentElement.scrollWidth") == width
        printed = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) <= 8
