"""A report as `report.html`: one file that opens offline, without scripts and without anything from elsewhere.

Left out: what it shows (`layout.py`).

    to_html(layout, plots_of(layout))
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourstage.comparison.texts import TextRow
from fourstage.report.charts import STAGE_PLOTS, TOKEN_PLOTS
from fourstage.report.drawing import Plot, svg
from fourstage.report.layout import OPEN_ANSWERS, Layout, about, cut
from fourstage.text import one_line, printable

if TYPE_CHECKING:
    from jinja2 import Template

MOST_LETTERS = 2000  # of an answer
MOST_PICTURES, PICTURE = 8, 160  # of a kind a sample; pixels of the longer side


def to_html(layout: Layout, plots: Mapping[str, Plot]) -> str:
    """The whole report as one HTML document; its plots (`charts.plots_of`) are inside it."""
    subject = layout.subject
    widest = max(layout.pairs, key=lambda one: abs(math.log(one.pair.ratio or 1)), default=None)
    page: dict[str, Any] = vars(layout) | {
        "title": subject.title,
        "question": subject.question,
        "command": subject.command,
        "stage_plots": [_drawn(plots[name]) for name in STAGE_PLOTS if name in plots],
        "token_plots": [_drawn(plots[name]) for name in TOKEN_PLOTS if name in plots],
        "pairs": [
            vars(pair)
            | {
                "waterfall": _drawn(plots[f"waterfall_{number}"]) if pair.waterfall else None,
                "open": pair is widest,
            }
            for number, pair in enumerate(layout.pairs, start=1)
        ],
        "texts": [_sample(row, subject.pictures.get(row.key, {}), layout.one_model) for row in layout.texts],
        "open_texts": max(OPEN_ANSWERS // max((len(row.answers) for row in layout.texts), default=1), 1),
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
    return environment.get_template("report.html.jinja")


def _shown(value: object) -> object:
    """Of what the template shows: text without what steers a terminal; markup made here stays."""
    return printable(value) if type(value) is str else value


def _drawn(plot: Plot) -> dict[str, object]:
    return {"source": _data_uri("svg+xml", svg(plot)), "title": plot.title, "says": one_line(plot.says)}


def _sample(row: TextRow, pictures: Mapping[str, Sequence[bytes]], one_model: frozenset[str]) -> dict[str, Any]:
    kinds = []
    for name, images in pictures.items():
        step = max(1.0, len(images) / MOST_PICTURES)
        chosen = [images[int(i * step)] for i in range(min(len(images), MOST_PICTURES))]
        title = name if len(chosen) == len(images) else f"{name}: {len(chosen)} of {len(images)}"
        kinds.append({"name": name, "title": title, "shots": [_thumbnail(image) for image in chosen]})
    answers = [
        {
            "run": answer.run,
            "about": about(answer),
            "error": answer.error,
            "text": "".join(
                one.text for one in cut([one for one in answer.spans if one.kind != "removed"], MOST_LETTERS)
            ),
            "difference": cut(answer.spans, MOST_LETTERS)
            if answer.run in one_model and any(span.kind != "same" for span in answer.spans)
            else [],
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


def _thumbnail(data: bytes) -> str | None:
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
    return _data_uri(kind, small)


def _data_uri(kind: str, image: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
