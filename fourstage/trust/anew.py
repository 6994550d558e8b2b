"""Measured answers, made again: the files are read by the plainest code there is, the model's own `generate()` answers.

Nothing is shared with stage 1 but the dataset's entry: frames are all decoded and chosen by their index, pictures are
opened by Pillow, events are drawn one by one. What this plain code does not cover, such as a rotated clip or a record
with notes, is left out and counted as such.

    found = answer_again(pipeline, samples, records, config.sampling, timing.device, precision="fp32")
    found.faults      # ("b.npy: token 3 of 12 is 17, the model's own generate() gives 240",)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fourstage.data.events import read_events
from fourstage.measure.clock import Device
from fourstage.models.base import first_difference
from fourstage.stages import Inputs, Media, Pipeline, Sample, SampleRecord, Sampling

OTHER_PIXELS = 2.0  # levels by which an image differs on average from the one that plain code reads
TOKENS = 64  # of an answer, from its start, where not all answers are made again
NEAR = {"fp32": 1e-4, "bf16": 2**-6, "fp16": 2**-9}  # of the largest logit: tokens so close are a tie of rounding


@dataclass(frozen=True)
class Again:
    """What was found."""

    answers: int = 0  # that were made again
    faults: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()  # with the reason
    asked: int | None = 0  # None: all
    images: int = 0  # samples whose images were compared
    other_images: tuple[str, ...] = ()  # samples of which stage 1 reads others, or the record names others


def answer_again(
    pipeline: Pipeline,
    samples: Mapping[str, Sample],
    questions: Mapping[str, str],
    records: Sequence[SampleRecord],
    sampling: Sampling,
    device: Device,
    precision: str,
    asked: int | None,
) -> Again:
    """Make `asked` of the measured answers again (None: one of every sample), evenly spread, with the last one."""
    once = list({record.key: record for record in records if record.ok and record.role == "sample"}.values())
    number = len(once) if asked is None else min(asked, len(once))
    chosen = [once[-1 - i * len(once) // number] for i in range(number)]
    if asked is not None and sampling.num_beams == 1:  # beams choose the whole answer, others go token by token
        sampling = replace(sampling, max_new_tokens=min(TOKENS, sampling.max_new_tokens))
        chosen = [replace(record, output_ids=record.output_ids[:TOKENS]) for record in chosen]
    faults, left_out, other, answers, compared = list[str](), list[str](), list[str](), 0, 0
    for record in chosen:
        if (sample := samples.get(record.key)) is None:
            faults.append(f"{record.key}: the dataset has no such sample")
            continue
        try:
            media = plain_media(sample, record, getattr(pipeline, "settings", None))
        except _NotCoveredError as reason:
            left_out.append(f"{record.key}: {reason}")
            continue
        compared += 1
        other += _other_images(media, pipeline.load(sample), record)
        inputs = pipeline.preprocess([media], [questions[record.key]])
        if record.batch_size > 1 and (not sampling.greedy or sampling.num_beams > 1):
            left_out.append(f"{record.key}: a batch's sampling and beams are not those of one sample")
            continue
        device.seed(record.seed)
        own = _answer(pipeline, inputs, sampling)
        answers += 1
        if own != record.output_ids and not _near_tie(pipeline, inputs, sampling, own, record, precision):
            faults.append(_difference(own, record))
    return Again(answers, tuple(faults), tuple(left_out), asked, compared, tuple(other))


class _NotCoveredError(Exception):
    """The plain code cannot read this sample as it should be."""


def _other_images(plain: Media, read: Media, record: SampleRecord) -> Iterator[str]:
    """How the record's indices, and the pixels that stage 1 reads, differ from those of plain code."""
    if (record.image_indices, record.clip_length) != (plain.indices, plain.clip_length):
        yield (
            f"{record.key}: the record names images {list(record.image_indices)} of {record.clip_length}, "
            f"the settings choose {list(plain.indices)} of {plain.clip_length}"
        )
    if [image.shape for image in read.images] != [image.shape for image in plain.images]:
        yield f"{record.key}: {len(read.images)} images are read, {len(plain.images)} by plain code, or of other sizes"
        return
    pairs = zip(read.images, plain.images, strict=True)
    off = [float(np.abs(one.astype(np.int16) - two).mean()) for one, two in pairs]
    if wrong := [i for i, levels in enumerate(off) if levels > OTHER_PIXELS]:
        yield f"{record.key}: image {wrong[0]} differs by {max(off):.0f} levels on average, {len(wrong)} images in all"


def plain_media(sample: Sample, record: SampleRecord, settings: Any) -> Media:
    """The images [height, width, 3] that the model should have seen, by the entry and the settings alone."""
    if record.notes:
        raise _NotCoveredError(f"noted: {record.notes[0]}")
    count = int(getattr(settings, "image_count", record.images or 1))
    rule = getattr(settings, "frame_rule", "linspace")
    own = sample.root / sample.file if sample.file else None
    if record.source == "png" and own:
        return _all_of(record, map(_picture, _pictures(own) if own.is_dir() else [own]))
    if record.source == "png":
        return _all_of(record, (_picture(sample.root / "event_image" / name) for name in sample.event_image))
    if record.source == "npy":
        return _all_of(record, _drawn(own or sample.root / "event_npy" / str(sample.event_data), count))
    if record.source == "mp4":
        events = getattr(settings, "mp4_folder", None) == "event_mp4"
        of_events = sample.root / "event_mp4" / Path(str(sample.event_data)).with_suffix(".mp4")
        of_camera = sample.root / "mp4" / (sample.mp4_data or f"{sample.video_data}.mp4")
        frames = _frames(own or (of_events if events else of_camera))
        positions = _positions(len(frames), count, rule)
        images = tuple(frames[i].to_ndarray(format="rgb24") for i in positions)
        return Media(images, "mp4", positions, len(frames), 0)
    folder = own or sample.root / "video" / str(sample.video_data)
    if record.source != "images" or not folder.is_dir():
        raise _NotCoveredError(f"no plain way to read source {record.source}")
    pictures = _pictures(folder)
    positions = _positions(len(pictures), count, rule)
    return Media(tuple(_picture(pictures[i]) for i in positions), "images", positions, len(pictures), 0)


def _all_of(record: SampleRecord, images: Iterable[Any]) -> Media:
    """Media of which every image is used."""
    every = tuple(images)
    return Media(every, record.source or "", tuple(range(len(every))), len(every), 0)


def _pictures(folder: Path) -> list[Path]:
    named = [path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
    return sorted((path for path in named if path.name[0] != "."), key=_number)


def _positions(total: int, count: int, rule: str) -> tuple[int, ...]:
    if rule == "linspace":
        return tuple(i * (total - 1) // max(count - 1, 1) for i in range(count))
    if total < count:
        raise _NotCoveredError("a clip shorter than its frames")
    return tuple(int(i * (total / count)) for i in range(count)) if rule == "arange" else tuple(range(count))


def _number(path: Path) -> int:
    numbers = re.findall(r"\d+", path.stem)
    if len(numbers) != 1:
        raise _NotCoveredError(f"{path.name} has {len(numbers)} numbers")
    return int(numbers[0])


def _frames(path: Path) -> list[Any]:
    """Every frame of the clip, decoded."""
    import av

    if not path.is_file():
        raise _NotCoveredError(f"{path.name} is not where the entry says")
    with av.open(str(path)) as container:
        frames: list[Any] = list(container.decode(video=0))
        if any(getattr(frame, "rotation", 0) for frame in frames):
            raise _NotCoveredError("a rotated clip")
        return frames


def _picture(path: Path) -> Any:
    from PIL import Image, ImageOps

    if not path.is_file():
        raise _NotCoveredError(f"{path.name} is not where the entry says")
    with Image.open(path) as image:
        if image.mode not in ("RGB", "L"):
            raise _NotCoveredError(f"a picture of mode {image.mode}")
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _drawn(path: Path, count: int) -> tuple[Any, ...]:
    """One picture of each slice of the events, dot by dot: 0 is blue, else red, on white."""
    if not path.is_file():
        raise _NotCoveredError(f"{path.name} is not where the entry says")
    events = read_events(path)
    dots = list(zip(events.x.tolist(), events.y.tolist(), events.p.tolist(), strict=True))
    each, pictures = len(dots) // count, []
    for number in range(count):
        part = dots[number * each : (number + 1) * each if number < count - 1 else None]
        height, width = (int(max(dot[axis] for dot in part)) + 1 for axis in (1, 0))
        picture = np.full((height, width, 3), 255, dtype=np.uint8)
        for x, y, p in part:
            picture[int(y), int(x)] = (255, 0, 0) if p else (0, 0, 255)
        pictures.append(picture)
    return tuple(pictures)


def _answer(pipeline: Any, inputs: Inputs, sampling: Sampling) -> tuple[int, ...]:
    """The model's own answer; by the stages where sampling draws the engine's own noise."""
    engine = getattr(pipeline, "engine", None)
    if engine is None or not engine.own_draws or sampling.greedy:
        (own,) = pipeline.unstaged(inputs, sampling)
    else:
        (own,) = pipeline.decode(inputs, pipeline.encode(inputs), sampling, _nothing).token_ids
    return tuple(own)


def _near_tie(
    pipeline: Any, inputs: Inputs, sampling: Sampling, own: Sequence[int], record: SampleRecord, precision: str
) -> bool:
    """Whether both tokens where the answers part had nearly the same logit: in 16 bits, in a batch and between engines
    rounding decides."""
    if not sampling.greedy or sampling.num_beams > 1 or not hasattr(pipeline, "divergence"):
        return False
    rounded = precision != "fp32" or record.batch_size > 1
    found = pipeline.divergence(inputs, own, record.output_ids, tie=NEAR[precision] if rounded else 0)
    return found is not None and found.near_tie


def _difference(own: Sequence[int], record: SampleRecord) -> str:
    at, measured = first_difference(own, record.output_ids), record.output_ids
    theirs, ours = (str(ids[at]) if at < len(ids) else "none" for ids in (own, measured))
    return f"{record.key}: token {at + 1} of {len(measured)} is {ours}, the model's own generate() gives {theirs}"


def _nothing(at: float | None = None, /) -> None:
    pass
