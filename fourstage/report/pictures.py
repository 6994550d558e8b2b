"""Small pictures of samples, for a report: the event images and the frames that the compared models saw.

The dataset is read where the runs found it, and only if it still is what they read. Left out: anything that a model
does to a picture.

    pictures, note = read_pictures(runs, ["gota"], roots=[Path("data/demo-…")])
    pictures["gota"]["event images"]     # PNGs
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from fourstage.data.dataset import dataset_digest, read_dataset
from fourstage.data.media import read_event_images, read_video_frames
from fourstage.stages import Media, Sample, UserError

if TYPE_CHECKING:
    from fourstage.stages import Image

Params = Mapping[str, str]
Pictures = dict[str, dict[str, tuple[bytes, ...]]]  # key → "event images" or "frames" → PNGs
HEIGHT = 96  # pixels
KINDS = {"eventgpt": "event images", "videollava": "frames"}
DEMO_FILE = "EventGPT_Instruction_Subset.json"  # of both datasets, unless dataset.file says otherwise


def read_pictures(
    runs: Sequence[tuple[Params, str]], keys: Sequence[str], roots: Sequence[Path]
) -> tuple[Pictures, str]:
    """Thumbnails of these samples as the first run of each model saw them, and why some are missing ("": none is).

    `runs` are params and dataset hash of each; of `roots` the first folder is taken that has the dataset.
    """
    by_kind: dict[str, Params] = {}
    for params, _ in runs:
        if kind := KINDS.get(params.get("model.name", "")):
            by_kind.setdefault(kind, params)
    if not keys or not by_kind:
        return {}, "no pictures: the runs do not say what their models saw"
    first, digest = next((params, digest) for params, digest in runs if params.get("model.name") in KINDS)
    samples = _samples(first, digest, roots)
    if isinstance(samples, str):
        return {}, f"no pictures of the samples: {samples}"
    found: Pictures = {}
    faults: list[str] = []
    for key in keys:
        for kind, params in by_kind.items():
            if key not in samples:
                continue
            try:
                media = _read(samples[key], kind, params)
                pictures = tuple(map(_png, media.images))
            except Exception as error:  # a sample's own data may raise anything, and a report is made without it
                faults.append(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
                continue
            found.setdefault(key, {})[kind] = pictures
    return found, f"some pictures are missing: {faults[0]}" if faults else ""


def _samples(params: Params, digest: str, roots: Sequence[Path]) -> dict[str, Sample] | str:
    """The dataset's samples by key, or why there are none."""
    root = next((root for root in roots if root.is_dir()), None)
    if root is None:
        tried = (
            f"{roots[0]} is {'no folder' if roots[0].exists() else 'not there'}"
            if roots
            else "the runs do not say where their data lay"
        )
        return f"{tried}"
    limit = params.get("dataset.limit", "None")
    try:
        samples = read_dataset(root, params.get("dataset.file", DEMO_FILE), int(limit) if limit.isdigit() else None)
    except UserError as error:
        return str(error)
    if dataset_digest(samples, params.get("dataset.hash", "content")) != digest:
        return f"the dataset in {root} is another one by now"
    return {sample.key: sample for sample in samples}


def _read(sample: Sample, kind: str, params: Params) -> Media:
    source = params.get("model.source", "auto")
    if kind == "event images":
        images = int(params.get("model.event_images", "5"))
        span = params.get("model.max_span_us", "100000")
        folder = params.get("model.mp4_folder", "event_mp4")
        return read_event_images(sample, source, images, int(span) if span.isdigit() else None, folder)
    return read_video_frames(
        sample, source, int(params.get("model.frames", "8")), params.get("model.frame_rule", "linspace")
    )


def _png(image: Image) -> bytes:
    from PIL import Image as Pil

    picture = Pil.fromarray(image)
    picture.thumbnail((4 * HEIGHT, HEIGHT))
    file = BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def places(written: str, beside: Sequence[Path]) -> Iterator[Path]:
    """Where a folder may lie that a run wrote down, relative to where it was started or absolute."""
    if written:
        for folder in (Path(), *beside):
            yield folder / written
