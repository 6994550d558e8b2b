"""A report shows what was found, opens by itself, and runs nothing that somebody else wrote."""

from __future__ import annotations

import io
import math
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fourstage.comparison.effects import Comparison, compare
from fourstage.comparison.run_data import RunData
from fourstage.comparison.texts import compare_texts
from fourstage.records.columns import Columns
from fourstage.records.units import amount, with_limits
from fourstage.report.build import write_report
from fourstage.report.charts import plots_of
from fourstage.report.html import to_html
from fourstage.report.layout import MOST_TEXTS, Subject, lay_out
from fourstage.report.markdown import to_markdown
from fourstage.report.wording import pair_sentence
from fourstage.stages import STAGES, SampleRecord
from tests.builders import timed

EVIL = "<script>alert(1)</script>\"' onload=x $a^b$ | `code` [x](http://evil.example) ![y](http://evil.example/y.png)"
EVIL += (
    " &lt; \x1b[31mred\x07 {{ 7 * 7 }} {% raw %} **bold** ~~gone~~ \u202egnp \ud800 --> ]]> </svg></style>\n# new line"
)


@dataclass(frozen=True)
class Finding:
    question: str
    answer: str
    measured: str


def records(slower: float = 1.0, n: int = 8, first: int = 0, output: str = "A red car.") -> list[SampleRecord]:
    """Samples that differ, each stage `slower` by a factor."""
    found = []
    for i, replicate in ((i, r) for r in range(2) for i in range(first, first + n)):
        size = (1 + 0.1 * i) * slower * (1 + 0.01 * ((7 * i) % 5))
        token_s = (0.01 * size,) * (5 + i)
        load, preprocess, encode, prefill = 0.02 * size, 0.01 * size, 0.03 * size, 0.04 * size
        found.append(
            timed(f"clip {i}", load, preprocess, encode, prefill, token_s, sample_id=f"{i}", position=i,
                  replicate=replicate, bytes_read=2048, question="What is there?",
                  prompt="USER: What is there? ASSISTANT:", output=output,
                  output_ids=tuple(range(len(token_s) + 1)), finish_reason="eos", reference="A red car.")
        )  # fmt: skip
    return found


def subject(*runs: Sequence[SampleRecord], names: Sequence[str] = (), **more: object) -> Subject:
    names = names or [f"run {i}" for i in range(len(runs))]
    changes = more.pop("changes", {})
    assert isinstance(changes, Mapping)
    made = [
        RunData(f"{i:032x}", name, {"seed": f"{i}"}, {}, {}, Columns.of(of_run))
        for i, (name, of_run) in enumerate(zip(names, runs, strict=True))
    ]
    made = [replace(run, **changes.get(i, {})) for i, run in enumerate(made)]
    texts = compare_texts(list(zip(names, runs, strict=True)))
    return Subject("A comparison", compare(made), texts, **more)  # type: ignore[arg-type]


def html(made: Subject) -> str:
    return to_html(layout := lay_out(made), plots_of(layout))


def markdown(made: Subject) -> str:
    return to_markdown(layout := lay_out(made), plots_of(layout))


class Page(HTMLParser):
    """The elements of a document with their attributes, its text, and the cells of its tables."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.cells: list[str] = []
        self._cell = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self._cell = True
            self.cells.append("")
        if tag == "small":
            self._cell = False

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._cell:
            self.cells[-1] += data

    @property
    def all_text(self) -> str:
        return "".join(self.text)


def assert_self_contained(text: str) -> Page:
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "foreignobject",
        "a",
        "audio",
        "video",
    }
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "srcset", "poster", "data"):
                assert value is not None
                assert value.startswith(
                    ("data:image/png;base64,", "data:image/jpeg;base64,", "data:image/svg+xml;base64,", "#")
                ), (tag, value)
                assert not value.startswith("#") or value[1:] in ids
            for used in re.findall(r"url\((.*?)\)", value or "") if name != "content" else ():
                assert used.startswith("#")
                assert used[1:] in ids
    assert "url(" not in text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in text
    (policy,) = (a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv"))
    assert (policy or "").startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    return page


def png(size: int = 400) -> bytes:
    from PIL import Image

    Image.new("RGB", (size, size // 2), "red").save(made := io.BytesIO(), "png")
    return made.getvalue()


def test_a_report_is_one_file_that_needs_nothing_else() -> None:
    made = subject(records(), records(1.3), pictures={"clip 0": {"frames": [png()] * 12}})
    page = assert_self_contained(html(made))
    tags = [tag for tag, _ in page.elements]
    assert ("html", {"lang": "en"}) in page.elements
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert all(image["alt"] for image in images)
    assert "frames: 8 of 12" in page.all_text
    plots = [image for image in images if image.get("class") == "plot"]
    assert (len(plots), len(images)) == (4, 12)
    for plot in plots:
        source = b64decode((plot["src"] or "").removeprefix("data:image/svg+xml;base64,"))
        assert ElementTree.fromstring(source).tag.endswith("svg")
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
    assert tags.count("caption") == tags.count("table")


def test_pictures_are_made_small_and_one_that_cannot_be_read_is_said() -> None:
    from PIL import Image

    made = html(subject(records(), records(), pictures={"clip 0": {"frames": [png(), b"no picture"]}}))
    (data,) = re.findall(r'src="data:image/\w+;base64,([^"]+)"', made)
    assert max(Image.open(io.BytesIO(b64decode(data))).size) == 160
    assert "cannot be read" in made


def test_every_figure_shown_is_the_comparisons() -> None:
    made = subject(records(), records(1.3))
    page = Page(html(made))
    pair = made.comparison.pairs[0]
    assert pair.attribution is not None
    assert pair_sentence(pair) in page.all_text
    for row in pair.rows:
        place = page.cells.index(row.name)
        assert page.cells[place + 1 : place + 6] == [
            amount(row.baseline_mean, row.unit),
            amount(row.target_mean, row.unit),
            with_limits(row.difference, row.unit).replace("-", "−"),
            with_limits(row.ratio, "").replace("-", "−"),
            row.text,
        ]
        assert page.cells[place + 6] == (row.verdict.value if row.verdict else "–")
    for share in pair.shares:
        place = page.cells.index(share.stage)
        assert page.cells[place + 7 : place + 9] == [f"{100 * share.baseline:.1f} %", f"{100 * share.target:.1f} %"]
    for factor in pair.attribution.factors:
        place = page.cells.index(factor.label)
        shown = with_limits(factor.contribution).replace("-", "−") if factor.name != "rest" else "0 s [0, 0]"
        assert page.cells[place + 1].lstrip("+") == shown
        assert float(page.cells[place + 4].removeprefix("× ")) == pytest.approx(factor.ratio, abs=5e-4)


def test_both_forms_show_the_same_tables() -> None:
    made = subject(records(), records(1.3), records(0.8))
    shown = markdown(made)
    for cell in Page(html(made)).cells:
        plain = re.sub(r"\\(.)", r"\1", shown)
        assert cell.strip() in plain


def test_a_verdict_comes_with_what_would_have_been_seen() -> None:
    noisy = [replace(r, total_s=(r.total_s or 0) * (1.4 if i % 2 else 0.7)) for i, r in enumerate(records())]
    made = subject(records(), noisy)
    row = made.comparison.pairs[0].row("total")
    assert row is not None
    assert row.verdict is not None
    assert row.verdict.value == "Inconclusive"
    assert f"would have seen {row.detectable_ratio:.2f}x" in Page(html(made)).all_text


def test_hostile_text_is_shown_and_never_run() -> None:
    keys = [replace(r, key=f"{EVIL}{r.key}", question=EVIL, prompt=EVIL, reference=EVIL) for r in records(output=EVIL)]
    failed = [replace(keys[0], key=f"{EVIL}x", error=EVIL, output=None)]
    checks = {"params": {EVIL: EVIL}, "checks_warned": (EVIL,), "checks_failed": (EVIL,), "valid": False}
    made = subject(
        keys,
        [*[replace(r, output=f"{EVIL} {EVIL}") for r in keys], *failed],
        names=(EVIL, f"{EVIL}2"),
        changes={1: checks},
        question=EVIL,
        command=EVIL,
        notes=[EVIL],
        findings=[Finding(EVIL, "cannot tell", EVIL)],
        pictures={keys[0].key: {EVIL: [png()]}},
    )
    made = replace(made, title=EVIL)
    page = assert_self_contained(html(made))
    text = page.all_text
    assert "<script>alert(1)</script>" in text
    assert "␛[31mred␇ {{ 7 * 7 }} {% raw %}" in text
    assert "\\u202egnp \\ud800" in text
    assert "$a^b$" in text
    assert not [letter for letter in text if ord(letter) < 32 and letter not in "\n\t"]
    assert_markdown_is_safe(markdown(made))


def assert_markdown_is_safe(text: str) -> None:
    """Every table has the cells of its head in each row, and there is neither HTML nor a link but to plots."""
    assert "<" not in text.replace("&lt;", "")
    assert set(re.findall(r"(?<!\\)\]\((.*?)(?<!\\)\)", text)) <= {f"plots/{n}.png" for n in PLOTS}
    assert "://" not in text
    assert not re.search(r"^# new", text, re.MULTILINE)
    width = 0
    for line in text.splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) - 1
        width = width or cells
        assert cells == width, line


PLOTS = ("stages", "time_against_tokens", "output_tokens", *(f"waterfall_{i}" for i in range(1, 24)))


@pytest.mark.parametrize("count", [2, 3, 26])
def test_it_holds_for_few_and_many_runs(count: int) -> None:
    made = subject(*(records(1 + 0.1 * i, n=3) for i in range(count)))
    page = assert_self_contained(html(made))
    assert_markdown_is_safe(markdown(made))
    tables = page.all_text.count("Stage by stage")
    assert tables == min(count - 1, 23)
    if count > 24:
        assert "2 more runs are in the table above" in page.all_text
        assert "the baseline and the first 23 of 25 runs" in page.all_text
    if count > 2:
        for pair in made.comparison.pairs:
            row = pair.row("total")
            assert row is not None
            assert page.cells[page.cells.index(pair.target_name) + 4] == with_limits(row.ratio, "")


def test_of_many_samples_the_first_are_shown() -> None:
    made = subject(records(n=MOST_TEXTS + 5), records(n=MOST_TEXTS + 5))
    text = html(made)
    assert text.count("<article>") == MOST_TEXTS
    assert f"The first {MOST_TEXTS} of {MOST_TEXTS + 5} samples." in text


def test_a_long_answer_is_cut_and_it_is_said() -> None:
    text = html(subject(records(output="word " * 1000), records(output="word " * 1000)))
    assert "… 3000 letters more" in text


def test_without_a_pair_nothing_is_claimed() -> None:
    made = subject(records(), records(first=100))
    page = assert_self_contained(html(made))
    assert "Nothing can be said: no sample succeeded in both run 0 and run 1." in page.all_text
    assert "Do not use: No sample succeeded in both" in page.all_text
    assert "not measured" in page.all_text
    assert_markdown_is_safe(markdown(made))


def test_a_run_without_any_success_is_reported() -> None:
    failed = [replace(r, error="broken", total_s=None, output=None) for r in records()]
    page = assert_self_contained(html(subject(records(), failed)))
    assert "Failed in run 1: 8 samples (clip 0, clip 1, clip 2, clip 3, clip 4 and 3 more)" in page.all_text
    assert "broken" in page.all_text


def test_a_stage_from_a_cache_is_told_as_cached_with_what_filling_took() -> None:
    fill_s = 12.5 / len({r.key for r in records()})  # of each sample
    cached = [
        replace(r, load_s=0.0001, total_s=(r.total_s or 0) - (r.load_s or 0) + 0.0001, cache_fill_s=fill_s)
        for r in records()
    ]
    changes = {1: {"params": {"cache": "frames"}}}
    made = subject(records(), cached, changes=changes)
    page = Page(html(made))
    place = page.cells.index("load")
    assert page.cells[place + 5 : place + 7] == ["cached in the target", "cached"]
    assert "Cached in run 1 (the target): load; filling it took 12.5 s, which is in no stage" in page.all_text
    assert "its total and TTFT are without that work" in page.all_text


def test_a_stage_that_was_not_timed_apart_is_said_and_never_zero() -> None:
    ingested = [replace(r, encode_s=None, decode_s=None, prefill_s=None, ttft_s=None, token_s=()) for r in records()]
    made = subject(records(), ingested)
    page = assert_self_contained(html(made))
    assert "Not timed apart in both runs: encode, decode." in page.all_text
    assert "encode" not in page.cells[: page.cells.index("factor")]
    assert any("not timed apart" in (attributes.get("alt") or "") for _, attributes in page.elements)  # of the bars


def test_an_invalid_baseline_is_the_first_thing_to_believe() -> None:
    made = subject(records(), records(1.3), changes={0: {"valid": False, "checks_failed": ("stages_close",)}})
    text = Page(html(made)).all_text
    assert "Do not use: The baseline run 0 is invalid, so do not rely on anything below." in text
    assert "stages_close failed in 1 of 2 runs: run 0" in text
    assert "Do not rely on this: run 0 is invalid." in text


def test_an_invalid_run_is_never_the_fastest() -> None:
    runs = (records(), records(0.5), records(0.9))
    text = Page(html(subject(*runs, changes={1: {"valid": False}}))).all_text
    assert (
        "Of 2 runs against run 0, in total time: 1 Improved, 1 Invalid run; the fastest is run 2, 1.11x faster" in text
    )
    text = Page(html(subject(*runs, changes={0: {"valid": False}}))).all_text
    assert "Do not rely on this: the baseline run 0 is invalid." in text


def test_runs_without_a_blemish_are_said_to_be() -> None:
    text = Page(html(subject(records(), records(1.3)))).all_text
    assert "All 2 runs are valid without a warning, and every sample succeeded in all of them." in text


def test_differences_are_marked_not_by_colour_alone() -> None:
    made = subject(records(output="A red car."), records(output="A blue car."))
    text = html(made)
    assert "A<del> red</del><ins> blue</ins> car." in text
    assert "A ~~red~~ **blue** car." in markdown(made)


def test_the_same_comparison_gives_the_same_files(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        made = subject(records(), records(1.3), pictures={"clip 0": {"frames": [png()]}})
        write_report(tmp_path / name, lay_out(made))
        files.append({path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")})
    assert files[0] == files[1]
    assert sorted(str(path) for path in files[0]) == [
        "plots/output_tokens.png",
        "plots/stages.png",
        "plots/time_against_tokens.png",
        "plots/waterfall_1.png",
        "report.html",
        "report.md",
    ]
    linked = re.findall(r"\]\((plots/.*?)\)", (tmp_path / "one/report.md").read_text(encoding="utf-8"))
    assert set(linked) == {str(path) for path in files[0] if path.suffix == ".png"}


def test_bars_and_waterfall_end_at_the_means() -> None:
    from fourstage.report.charts import stage_bars, waterfall

    found: Comparison = subject(records(), records(1.3)).comparison
    pair = found.pairs[0]
    total = pair.row("total")
    assert total is not None
    assert pair.attribution is not None
    bars = stage_bars(found)
    assert bars is not None
    ends = [bar.get_x() + bar.get_width() for bar in bars.figure.axes[0].patches]
    assert max(ends) == pytest.approx(total.target_mean)
    assert len(ends) == 2 * len(STAGES)
    falls = waterfall(pair)
    assert falls is not None
    steps = falls.figure.axes[0].patches[2:]
    assert sum(bar.get_width() for bar in steps) == pytest.approx(pair.attribution.gap.estimate)
    assert math.isclose(steps[-1].get_x() + steps[-1].get_width(), pair.attribution.target_s)
