"""What a sample's files show, decoded by others: ffmpeg's command line, Pillow, numpy and a loop over events.

wrong_picture(media, sample)      # "" where what the product read is what they show
"""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from fourstage.stages import Media, Sample

MOST = 4  # levels by which versions of ffmpeg round colours differently


def wrong_picture(media: Media, sample: Sample) -> str:
    """How the images that were read differ from what others see, "" where they do not."""
    if sample.mp4_data:
        return _video(media, sample.root / "mp4" / sample.mp4_data)
    if sample.video_data:
        folder = sample.root / "video" / sample.video_data
        return _frames(media, folder)
    if sample.event_image:
        return _same(media.images, [_picture(sample.root / "event_image" / name) for name in sample.event_image])
    return _events(media, sample.root / "event_npy" / (sample.event_data or ""))


def _same(found: Any, expected: Any) -> str:
    if len(found) != len(expected):
        return f"{len(found)} images, expected {len(expected)}"
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one.shape != other.shape:
            return f"image {i} has shape {one.shape}, expected {other.shape}"
        if (most := np.abs(one.astype(int) - other).max(initial=0)) > MOST:
            return f"image {i} differs by {most}"
    return ""


def _picture(path: Path) -> Any:
    with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
        image.load()
        mode = "RGBA" if image.mode == "PA" or (image.mode == "P" and "transparency" in image.info) else "RGB"
        return np.asarray(ImageOps.exif_transpose(image).convert(mode))[..., :3]


def _frames(media: Media, folder: Path) -> str:
    """The names here hold one number each: an independent order is that number's."""

    def number(path: Path) -> tuple[str, float]:
        stem = path.name[: -len(path.suffix)]
        digits = stem.lstrip("abcdefghijklmnopqrstuvwxyz _")
        return stem[: len(stem) - len(digits)], float(digits)

    paths = [path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg") and path.name[0] != "."]
    paths = sorted((path for path in paths if not path.is_dir()), key=number)
    if media.clip_length != len(paths):
        return f"{media.clip_length} frames, expected {len(paths)}"
    return _same(media.images, [_picture(paths[i]) for i in media.indices])


def _video(media: Media, path: Path) -> str:
    shape = media.images[0].shape
    shown = _shown_by_ffmpeg(path) or _shown_by_libav(path)
    if len(shown) % int(np.prod(shape)):
        return f"images of {shape}, which ffmpeg's {len(shown)} bytes are not"
    frames = np.frombuffer(shown, np.uint8).reshape(-1, *shape)
    if media.clip_length != len(frames):
        return f"a clip of {media.clip_length} frames, and ffmpeg shows {len(frames)}"
    wrong = _same(media.images, [frames[i] for i in media.indices])
    # of some damaged VP8 its decoder shows memory that nobody wrote, something else each time
    return wrong if wrong and _shown_by_ffmpeg(path) == shown == _shown_by_ffmpeg(path) else ""


def _shown_by_ffmpeg(path: Path) -> bytes:
    command = ["ffmpeg", "-v", "error", "-threads", "1", "-i", str(path), "-map", "0:V:0", "-fps_mode", "passthrough"]
    return subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    ).stdout


def _shown_by_libav(path: Path) -> bytes:
    """Versions of ffmpeg differ in which damaged headers they open: what the library's version makes of one."""
    import av

    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return b"".join(frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0))


def _events(media: Media, path: Path) -> str:
    saved = np.load(path, allow_pickle=True)  # generated here, and taken by a reader that runs nothing
    fields = saved.item() if getattr(saved, "shape", None) == () else saved
    x, y, t, p = (np.asarray(fields[name]) for name in "xytp")
    order = sorted(range(len(t)), key=lambda i: t[i])
    low, high = (int(p.min()), int(p.max())) if len(p) else (0, 1)
    on = 2 if high == 2 else 1
    drawn, count = [], len(media.images)
    each = len(x) // count
    for i in range(count):
        chosen = order[i * each : len(x) if i == count - 1 else (i + 1) * each]
        canvas = np.full((int(max(y[chosen])) + 1, int(max(x[chosen])) + 1, 3), 255, np.uint8)
        for j in chosen:
            canvas[int(y[j]), int(x[j])] = (255, 0, 0) if int(p[j]) == on else (0, 0, 255)
        drawn.append(canvas)
    if not -1 <= low <= high <= 2:
        return f"polarities from {low} to {high} were read"
    return _same(media.images, drawn)
