"""Stage 1: a sample's files to uint8 images in host memory, and the facts of how they were read.

Which source was read is on the record. A file that an entry names and that does not exist is an error: no other source
is tried in its place.

    media = read_event_images(sample)  # five images, media.source == "png", "npy" or "mp4"
    media = read_video_frames(sample, frames=8, rule="linspace")
    event_files(sample), video_files(sample)  # the files behind them, unread
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from fourstage.data.dataset import event_mp4, inside
from fourstage.data.events import read_events, render_events
from fourstage.data.files import is_file, is_folder
from fourstage.data.images import folder_notes, is_picture, list_images, read_images
from fourstage.data.limits import MAX_SAMPLE_BYTES
from fourstage.data.video import frame_indices, read_video
from fourstage.stages import Media, Sample, SampleError, UserError

EVENT_SOURCES = ("auto", "png", "images", "npy", "mp4")
EVENT_SUFFIXES = (".npy", ".npz")
VIDEO_SOURCES = ("auto", "mp4", "images")

P = ParamSpec("P")
R = TypeVar("R")


def _faults_of_sample(read: Callable[Concatenate[Sample, P], R]) -> Callable[Concatenate[Sample, P], R]:
    """What a sample's own data raises, an OSError for a name too long as well, is that sample's fault."""

    @wraps(read)
    def reading(sample: Sample, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return read(sample, *args, **kwargs)
        except UserError:
            raise
        except (OSError, ValueError, ArithmeticError, MemoryError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise SampleError(f"sample {sample.key!r} cannot be read ({reason}); mend its entry or files") from error

    return reading


@_faults_of_sample
def read_event_images(
    sample: Sample,
    source: str = "auto",
    images: int = 5,
    max_span_us: int | None = 100_000,
    mp4_folder: str = "event_mp4",
) -> Media:
    """Read a sample's event images: its PNGs, its raw events rendered to `images` pictures, or `images` frames, evenly
    spread, of an MP4 of event images.

    `auto` takes the PNGs where the entry lists any, else the raw events; `images` is another word for `png`, which
    Video-LLaVA's sources know too. All PNGs listed are read; a count other than `images` is noted. `max_span_us` is the
    limit of `render_events` in microseconds. Raises SampleError, also where they take more than `sample.max_bytes`.
    """
    chosen, paths = _choose_events(sample, source, mp4_folder)
    if sample.file:
        return read_event_file(_one_place(sample), images, max_span_us, sample.max_bytes)
    if chosen == "mp4":
        return _mp4_frames(paths[0], images, "linspace", sample.max_bytes)
    if chosen == "png":
        return _event_pngs(paths, images, sample.max_bytes)
    return _rendered_events(paths[0], images, max_span_us, sample.max_bytes)


@_faults_of_sample
def read_video_frames(sample: Sample, source: str = "auto", frames: int = 8, rule: str = "linspace") -> Media:
    """Read `frames` frames of a sample's clip, chosen by `rule` (see `frame_indices`); a short clip repeats some.

    The MP4 is mp4/<mp4_data>, else mp4/<video_data>.mp4; the images are the folder video/<video_data>. `auto`
    takes the MP4 where the entry names one or the file exists, else the folder. Raises SampleError, also where the
    frames take more than `sample.max_bytes`.
    """
    chosen, path = _choose_video(sample, source)
    read = _mp4_frames if chosen == "mp4" else _folder_frames
    return read(path, frames, rule, sample.max_bytes)


@_faults_of_sample
def event_files(sample: Sample, source: str = "auto", mp4_folder: str = "event_mp4") -> list[Path]:
    """List the files that `read_event_images` reads, each once, without opening them.

    Files that the entry names are listed whether or not they exist: the reader reports missing ones. Raises
    SampleError and UserError as `read_event_images` does for the choice of source.
    """
    return list(dict.fromkeys(_choose_events(sample, source, mp4_folder)[1]))


@_faults_of_sample
def video_files(sample: Sample, source: str = "auto", frames: int = 8, rule: str = "linspace") -> list[Path]:
    """List the files that `read_video_frames` reads, each once, without opening them: an MP4, or the frames chosen.

    An MP4 that the entry names is listed whether or not it exists. Raises SampleError and UserError as
    `read_video_frames` does for the choice of source and of frames.
    """
    chosen, path = _choose_video(sample, source)
    if chosen == "mp4":
        frame_indices(1, frames, rule)  # a rule that reading refuses is refused here too
        return [path]
    paths, indices = _choose_frames(path, frames, rule)
    return [paths[index] for index in sorted(set(indices))]


def read_event_file(
    path: Path, images: int = 5, max_span_us: int | None = 100_000, max_bytes: int = MAX_SAMPLE_BYTES
) -> Media:
    """Event images from one path outside a dataset: raw events (.npy, .npz), a picture, a folder of pictures, else a
    clip of event images."""
    if is_folder(path):
        return _event_pngs(list_images(path), images, max_bytes, folder_notes(path))
    if is_picture(path):
        return _event_pngs([path], images, max_bytes)
    if path.suffix.lower() in EVENT_SUFFIXES:
        return _rendered_events(path, images, max_span_us, max_bytes)
    return _mp4_frames(path, images, "linspace", max_bytes)


def read_video_file(path: Path, frames: int = 8, rule: str = "linspace", max_bytes: int = MAX_SAMPLE_BYTES) -> Media:
    """Frames from one path outside a dataset: a clip, a folder of pictures, or one picture."""
    read = _folder_frames if is_folder(path) or is_picture(path) else _mp4_frames
    return read(path, frames, rule, max_bytes)


def _choose_events(sample: Sample, source: str, mp4_folder: str) -> tuple[str, list[Path]]:
    """The source that is read, "png", "npy" or "mp4", and its files."""
    if source not in EVENT_SOURCES:
        raise UserError(f"unknown event source {source!r}; expected one of {', '.join(EVENT_SOURCES)}")
    if sample.file:
        return _event_source(sample, source)
    if source == "mp4":
        return "mp4", [_event_mp4(sample, mp4_folder)]
    if not sample.event_image and not sample.event_data:
        raise SampleError(f"sample {sample.key!r} has no event data: its entry has neither event_image nor event_data")
    if source in ("png", "images") or (source == "auto" and sample.event_image):
        if not sample.event_image:
            raise SampleError(f"sample {sample.key!r} lists no event_image; read its raw events instead (source npy)")
        return "png", [inside(sample.root, "event_image", name) for name in sample.event_image]
    if not sample.event_data:
        raise SampleError(f"sample {sample.key!r} has no event_data; read its PNGs instead (source png)")
    return "npy", [inside(sample.root, "event_npy", sample.event_data)]


def _one_place(sample: Sample) -> Path:
    """Where all of a sample's media are. Raises SampleError where it leads out of the dataset, or nothing is there."""
    path = inside(sample.root, "", sample.file or "")
    if not is_folder(path) and not is_file(path):
        raise SampleError(f"{path} does not exist; mend the entry, or copy the file there")
    return path


def _event_source(sample: Sample, source: str) -> tuple[str, list[Path]]:
    """The source, and the files, of a sample whose media are one file or folder, for a model that reads events."""
    path = _one_place(sample)
    if is_folder(path) or is_picture(path):
        found, paths = "png", list_images(path) if is_folder(path) else [path]
    else:
        found, paths = "npy" if path.suffix.lower() in EVENT_SUFFIXES else "mp4", [path]
    if found == "mp4" and source != "mp4":
        raise SampleError(f"{path} is a clip; set model.source=mp4 if it shows event images")
    if source not in ("auto", found, *(("images",) if found == "png" else ())):
        raise SampleError(f"{path} is read as {found}, model.source={source} asks for another source; set it to auto")
    return found, paths


def _frame_source(sample: Sample, source: str) -> tuple[str, Path]:
    """The source of a sample whose media are one file or folder, for a model that reads frames, and where it is."""
    path = _one_place(sample)
    if path.suffix.lower() in EVENT_SUFFIXES and not is_folder(path):
        raise SampleError(f"{path} holds raw events, which this model does not read; choose clips or images")
    found = "images" if is_folder(path) or is_picture(path) else "mp4"
    if source not in ("auto", found):
        raise SampleError(f"{path} is read as {found}, model.source={source} asks for another source; set it to auto")
    return found, path


def _event_mp4(sample: Sample, folder: str) -> Path:
    """The sample's MP4 of event images: event_mp4/<stem of event_data>.mp4, or among those of mp4/ if asked for, which
    in most datasets are the camera's. Raises SampleError where it is not there."""
    if folder == "mp4":
        if not sample.mp4_data and not sample.video_data:
            raise SampleError(f"sample {sample.key!r} has no MP4: its entry has neither mp4_data nor video_data")
        return _mp4_path(sample)
    if not sample.event_data:
        raise SampleError(f"sample {sample.key!r} has no event_data, whose stem names an MP4 in {folder}/")
    path = inside(sample.root, folder, event_mp4(sample.event_data))
    if not is_file(path):
        raise SampleError(
            f"{path} does not exist: encode the sample's event images as an MP4 there, or set model.mp4_folder=mp4 "
            "if the clips in mp4/ are of event images"
        )
    return path


def _choose_video(sample: Sample, source: str) -> tuple[str, Path]:
    """The source that is read, and where it is: "mp4" and the clip, or "images" and the folder."""
    if source not in VIDEO_SOURCES:
        raise UserError(f"unknown video source {source!r}; expected one of {', '.join(VIDEO_SOURCES)}")
    if sample.file:
        return _frame_source(sample, source)
    if not sample.mp4_data and not sample.video_data:
        raise SampleError(f"sample {sample.key!r} has no video data: its entry has neither mp4_data nor video_data")
    if source == "auto":
        source = _video_source(sample)
    return source, _mp4_path(sample) if source == "mp4" else _frame_folder(sample)


def _choose_frames(folder: Path, frames: int, rule: str) -> tuple[list[Path], tuple[int, ...]]:
    """All images of a folder, or the one image, and the positions of those that `rule` chooses."""
    paths = [folder] if is_picture(folder) else list_images(folder)
    return paths, frame_indices(len(paths), frames, rule)


def _event_pngs(paths: list[Path], images: int, max_bytes: int, notes: tuple[str, ...] = ()) -> Media:
    count = len(paths)
    read, of_images = read_images(paths, max_bytes)
    listed = () if count == images else (f"{count} event images listed, {images} expected",)
    return Media(
        images=read,
        source="png",
        indices=tuple(range(count)),
        clip_length=count,
        bytes_read=_bytes(paths),
        notes=(*listed, *notes, *of_images),
    )


def _rendered_events(path: Path, images: int, max_span_us: int | None, max_bytes: int) -> Media:
    events = read_events(path, max_bytes)
    try:
        rendered = render_events(events, images, max_span_us, max_bytes)
    except SampleError as error:
        raise SampleError(f"{path}: {error}") from error
    return Media(
        images=rendered,
        source="npy",
        indices=tuple(range(images)),
        clip_length=images,
        bytes_read=_bytes([path]),
        notes=events.notes,
    )


def _video_source(sample: Sample) -> str:
    mp4 = _mp4_path(sample)
    if sample.mp4_data or is_file(mp4):
        return "mp4"
    folder = _frame_folder(sample)
    if is_folder(folder):
        return "images"
    raise SampleError(f"sample {sample.key!r} has no video on disk: neither {mp4} nor the folder {folder} exists")


def _mp4_frames(path: Path, frames: int, rule: str, max_bytes: int) -> Media:
    clip = read_video(path, frames, rule, max_bytes)
    return Media(
        images=clip.images,
        source="mp4",
        indices=clip.indices,
        clip_length=clip.length,
        bytes_read=_bytes([path]),
        notes=_repeated(clip.length, frames) + clip.notes,
        recheck=clip.recheck,
    )


def _folder_frames(folder: Path, frames: int, rule: str, max_bytes: int) -> Media:
    paths, indices = _choose_frames(folder, frames, rule)
    chosen = sorted(set(indices))
    images, notes = read_images([paths[index] for index in chosen], max_bytes)
    read = dict(zip(chosen, images, strict=True))
    return Media(
        images=tuple(read[index] for index in indices),
        source="images",
        indices=indices,
        clip_length=len(paths),
        bytes_read=_bytes([paths[index] for index in chosen]),
        notes=(*_repeated(len(paths), frames), *(() if is_picture(folder) else folder_notes(folder)), *notes),
    )


def _mp4_path(sample: Sample) -> Path:
    return inside(sample.root, "mp4", sample.mp4_data or f"{sample.video_data}.mp4")


def _frame_folder(sample: Sample) -> Path:
    if not sample.video_data:
        raise SampleError(f"sample {sample.key!r} has no video_data; read its MP4 instead (source mp4)")
    return inside(sample.root, "video", sample.video_data)


def _repeated(total: int, frames: int) -> tuple[str, ...]:
    return (f"{total} frames repeated to {frames}",) if total < frames else ()


def _bytes(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
