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

from fourstage import plugins
from fourstage.config.keys import from_params
from fourstage.data.dataset import dataset_digest
from fourstage.data.samples import read_samples
from fourstage.stages import Sample, UserError

if TYPE_CHECKING:
    from fourstage.stages import Image

Params = Mapping[str, str]
Pictures = dict[str, dict[str, tuple[bytes, ...]]]  # key → what a model calls them (`ModelSettings.pictures`) → PNGs
HEIGHT = 96  # pixels


def read_pictures(
    runs: Sequence[tuple[Params, str]], keys: Sequence[str], roots: Sequence[Path]
) -> tuple[Pictures, str]:
    """Thumbnails of these samples as the first run of each model saw them, and why some are missing ("": none is).

    `runs` are params and dataset hash of each; of `roots` the first folder is taken that has the dataset.
    """
    known = [(params, digest) for params, digest in runs if params.get("model.name") in plugins.names("model")]
    if not keys or not known:
        return {}, "no pictures: the runs do not say what their models saw"
    by_kind: dict[str, Params] = {}
    for params, _ in known:
        by_kind.setdefault(plugins.find("model", params["model.name"]).Settings.pictures, params)
    samples = _samples(*known[0], roots)
    if isinstance(samples, str):
        return {}, f"no pictures of the samples: {samples}"
    found: Pictures = {}
    faults: list[str] = []
    for key in keys:
        for kind, params in by_kind.items():
            if key not in samples:
                continue
            try:
                media = from_params("model", params).read(samples[key])
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
    try:
        samples = read_samples(from_params("dataset", params), root)
    except UserError as error:
        return str(error)
    if dataset_digest(samples, params.get("dataset.hash", "content")) != digest:
        return f"the dataset in {root} is another one by now"
    return {sample.key: sample for sample in samples}


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
