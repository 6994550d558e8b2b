"""The demo dataset: short driving scenes, drawn with numpy from a seed on first use and cached.

It has the layout of real ones: MP4, frames, raw events, event images, an MP4 of those, and a JSON of questions with
reference answers that are true of the scene. Left out: photo-realism, sensor noise, refractory time, and any
claim that a score on it says something about the road.

    samples = read(Settings(name="demo", cache="data", samples=8))
    root = make_demo(Path("~/.cache/fourstage").expanduser(), DemoSettings(samples=8, seed=1))
    json.loads((root / "EventGPT_Instruction_Subset.json").read_text())[0]["conversations"]

Sample i depends on (seed, i) and on the size, never on the number of samples: a larger dataset extends a smaller
one. The same settings give the same frames, events, PNG bytes and JSON with the same numpy and pillow;
the bytes of an MP4 are the ffmpeg build's.

The events cover the middle 90 ms of a clip, since EventGPT's own renderer refuses 100 ms and more; the
video covers all of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fourstage.config.schema import DatasetSettings
from fourstage.config.values import MOST, FilePath, Range
from fourstage.data.dataset import read_dataset
from fourstage.lazy import lazy
from fourstage.stages import Sample, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fourstage.data import events as event_camera
    from fourstage.data.events import Events
    from fourstage.data.formats import questions, scenes
    from fourstage.data.formats.scenes import Floats, Scene
else:
    np = lazy("numpy")
    event_camera = lazy("fourstage.data.events")
    questions = lazy("fourstage.data.formats.questions")
    scenes = lazy("fourstage.data.formats.scenes")

JSON_NAME = "EventGPT_Instruction_Subset.json"
FORMAT_VERSION = 3  # raise it when anything below changes what is drawn or written
EVENT_WINDOW_US = 90_000
EVENT_STEP_US = 5_000  # the scene is drawn at 200 Hz for the events
HOT_US = 500
CONTRAST = 0.2  # nominal change of log intensity that makes an event
CONTRAST_SPREAD = 0.03  # standard deviation between pixels
STALE_S = 3600.0  # a temporary folder that nobody touched for so long is dead


@dataclass(frozen=True, kw_only=True)
class Settings(DatasetSettings):
    """What is drawn, and where it is cached."""

    cache: FilePath = "data"  # folder
    samples: Annotated[int, Range(1, 100_000)] = 4
    seconds: Annotated[float, Range(0.2, 60)] = 1.0  # length of a clip
    width: Annotated[int, Range(64, 4096)] = 320  # pixels
    height: Annotated[int, Range(64, 4096)] = 240
    fps: Annotated[int, Range(1, 240)] = 20
    seed: Annotated[int, Range(0, MOST)] = 0
    split: Literal["test", "train", "validation", "held_out"] = "test"

    @property
    def label(self) -> str:
        return ""


def read(settings: Settings, root: Path | None = None) -> list[Sample]:
    """The samples, made on first use unless their folder `root` is given. Raises UserError."""
    if root is None:
        size = (settings.width, settings.height)
        demo = DemoSettings(settings.samples, settings.seconds, *size, settings.fps, settings.seed, settings.split)
        root = make_demo(Path(settings.cache), demo)
    return read_dataset(root, JSON_NAME, settings.limit)


@dataclass(frozen=True)
class DemoSettings:
    """What the demo dataset is made of. Raises UserError where a value cannot be drawn."""

    samples: int = 4
    seconds: float = 1.0  # length of each clip
    width: int = 320  # pixels
    height: int = 240
    fps: int = 20
    seed: int = 0
    split: str = "test"

    def __post_init__(self) -> None:
        for name, low, high in (
            ("samples", 1, 100_000),
            ("width", 64, 4096),
            ("height", 64, 4096),
            ("fps", 1, 240),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise UserError(f"demo dataset: {name} is {value!r}; give a whole number from {low} to {high}")
        for name in ("width", "height"):
            if getattr(self, name) % 2:
                raise UserError(f"demo dataset: {name} is {getattr(self, name)}; H.264 (yuv420p) needs an even number")
        if not 0.1 <= self.seconds <= 600:
            raise UserError(f"demo dataset: seconds is {self.seconds}; give 0.1 to 600 (the events alone cover 0.09)")
        if self.frames < 2:
            raise UserError(
                f"demo dataset: {self.seconds:g} s at {self.fps} fps is {self.frames} frame(s); at least 2 are needed"
            )

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return round(self.seconds * self.fps)

    @property
    def name(self) -> str:
        """Folder of the dataset: the settings, and a hash of them with the format's version."""
        values = {**asdict(self), "seconds": float(self.seconds), "version": FORMAT_VERSION}
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
        size = f"{self.width}x{self.height}"
        of = "" if self.split == "test" else f"-{self.split}"
        return f"demo-{self.samples}x{self.seconds:g}s-{size}-{self.fps}fps-seed{self.seed}{of}-{digest}"


def make_demo(cache: Path, settings: DemoSettings, progress: Callable[[int], None] | None = None) -> Path:
    """Give the root of the demo dataset under `cache`; make it where it is not there yet.

    It is made in a temporary folder beside its place, the JSON last, and renamed: an interrupted attempt is never
    used, and of two at once one wins. `progress` is called after each sample with the number made so far.
    Raises UserError where the folder cannot be written.
    """
    root = cache / settings.name
    if (root / JSON_NAME).is_file():
        return root
    temporary = cache / f".{settings.name}.{secrets.token_hex(4)}"
    try:
        temporary.mkdir(parents=True)
        _remove_stale(cache)
        entries = []
        # numpy, PIL and the encoder release Python's lock, so that threads share the processors
        with ThreadPoolExecutor(min(settings.samples, os.cpu_count() or 1)) as pool:
            for index, entry in enumerate(
                pool.map(partial(_write_sample, temporary, settings), range(settings.samples))
            ):
                entries.append(entry)
                os.utime(temporary)  # still alive: see _remove_stale
                if progress is not None:
                    progress(index + 1)
        (temporary / JSON_NAME).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
        _put_in_place(temporary, root)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot write the demo dataset under {cache}: {reason}; set dataset.cache to a folder that can be written"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def simulate_events(logs: Iterable[Floats], times_us: Sequence[int], threshold: Floats) -> Events:
    """Turn log intensities into events, as ESIM does (Rebecq et al., CoRL 2018, section 3).

    logs: [height, width] natural log of the brightness at each of `times_us` (microseconds, increasing);
    threshold: [height, width]. A pixel remembers the level of its last event and makes one event for
    each `threshold` that the brightness moved away from it; the time is interpolated linearly between the
    two frames. Gives x, y uint16, t int64 microseconds, p uint8 (1: brighter), sorted by time.
    """
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]] = []  # pixel, t, p
    width = threshold.shape[1]
    size = threshold.ravel().astype(np.float64)
    frames = iter(logs)
    previous = next(frames).ravel().astype(np.float64)
    reference = previous.copy()
    for start, end, log in zip(times_us, times_us[1:], frames, strict=False):
        current = log.ravel().astype(np.float64)
        steps = np.trunc((current - reference) / size).astype(np.int64)  # signed number of events
        pixel = np.flatnonzero(steps)
        count = np.abs(steps[pixel])
        nth = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + 1  # 1, 2, … at each pixel
        sign = np.repeat(np.sign(steps[pixel]), count)
        pixel = np.repeat(pixel, count)
        level = reference[pixel] + sign * nth * size[pixel]
        share = np.clip((level - previous[pixel]) / (current[pixel] - previous[pixel]), 0, 1)
        t = start + np.rint(share * (end - start)).astype(np.int64)
        order = np.argsort(t, kind="stable")
        parts.append((pixel[order], t[order], (sign[order] > 0).astype(np.uint8)))
        reference += steps * size
        previous = current
    pixels, t, p = (np.concatenate(column) for column in zip(*parts, strict=True))
    return event_camera.Events(x=(pixels % width).astype(np.uint16), y=(pixels // width).astype(np.uint16), t=t, p=p)


def scene_events(scene: Scene, settings: DemoSettings) -> Events:
    """The events of the middle 90 ms, in microseconds from the start of the clip, in neutral light.

    The last pixel is a hot one, as many sensors have some: it fires every `HOT_US`, so that every event image, which
    ends at its last event, has the sensor's size.
    """
    renderer = scenes.Renderer(scene, settings.width, settings.height, neutral=True)
    start = round(settings.seconds * 500_000) - EVENT_WINDOW_US // 2
    times = range(start, start + EVENT_WINDOW_US + 1, EVENT_STEP_US)
    luma = np.array([0.299, 0.587, 0.114], np.float32)
    logs = (np.log(renderer.frame(t / 1e6) @ luma + np.float32(0.02)) for t in times)
    rng = np.random.default_rng([*scene.seed, 0, 1])
    spread = rng.normal(0, CONTRAST_SPREAD, (settings.height, settings.width))
    seen = simulate_events(logs, times, np.clip(CONTRAST + spread, CONTRAST / 2, None).astype(np.float32))
    hot = np.arange(start, start + EVENT_WINDOW_US, HOT_US, dtype=np.int64)
    t = np.concatenate([seen.t, hot])
    order = np.argsort(t, kind="stable")
    x, y, p = (
        np.concatenate([values, np.full(len(hot), value, values.dtype)])[order]
        for values, value in ((seen.x, settings.width - 1), (seen.y, settings.height - 1), (seen.p, 1))
    )
    return event_camera.Events(x, y, t[order], p)


# ---- writing ----


def _write_sample(root: Path, settings: DemoSettings, index: int) -> dict[str, Any]:
    """Write the files of one sample and give its entry of the JSON."""
    from PIL import Image

    scene = scenes.draw_scene(settings.seed, index, settings.split)
    renderer = scenes.Renderer(scene, settings.width, settings.height)
    sequence, clip = f"demo_{scene.time}_{index // 2:02d}", "000000"
    for folder in ("mp4", "event_npy", "event_image", "event_mp4", f"video/{sequence}"):
        (root / folder / (clip if folder.startswith("video") else sequence)).mkdir(parents=True)

    frames = (to_uint8(renderer.frame(i / settings.fps)) for i in range(settings.frames))
    _write_video(frames, root / "mp4" / sequence / f"{clip}.mp4", root / "video" / sequence / clip, settings)

    events = scene_events(scene, settings)
    fields = {"x": events.x, "y": events.y, "t": events.t, "p": events.p}
    np.save(root / "event_npy" / sequence / f"{clip}.npy", np.array(fields, dtype=object), allow_pickle=True)
    names = []
    rendered = event_camera.render_events(events, images=5)
    for i, image in enumerate(rendered):
        names.append(f"{sequence}/{clip}_{i}.png")
        Image.fromarray(image).save(root / "event_image" / names[-1])
    _write_event_video(rendered, root / "event_mp4" / sequence / f"{clip}.mp4", settings)

    rng = np.random.default_rng([*scene.seed, 0, 3])
    question = questions.ask(questions.KINDS[index % len(questions.KINDS)], scene.attributes, rng, plain=True)
    choice = {"options": list(question.options), "answer": question.letter} if question.options else {}
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"fourstage/demo/{settings.split}/{settings.seed}/{index}")),
        "split": settings.split,
        "event_data": f"{sequence}/{clip}.npy",
        "event_image": names,
        "video_data": f"{sequence}/{clip}",
        "mp4_data": f"{sequence}/{clip}.mp4",
        "conversations": [
            {"from": "human", "value": f"<event>\n{question.text}"},
            {"from": "gpt", "value": questions.answer(question, scene.attributes, "reference", rng)},
        ],
        "attributes": scene.attributes,
        **choice,
    }


def _write_event_video(images: Sequence[NDArray[np.uint8]], mp4: Path, settings: DemoSettings) -> None:
    """The event images as frames of one size, without loss but for the rounding of YUV: a pixel without an event stays
    white, one with it keeps its colour, and edges stay sharp."""
    import av

    with av.open(str(mp4), "w") as container:
        stream = container.add_stream("libx264", rate=settings.fps, options={"crf": "0", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = settings.width, settings.height, "yuv444p"
        for image in images:
            canvas = np.full((settings.height, settings.width, 3), event_camera.WHITE, np.uint8)
            canvas[: image.shape[0], : image.shape[1]] = image
            container.mux(stream.encode(av.VideoFrame.from_ndarray(canvas, format="rgb24")))
        container.mux(stream.encode(None))


def _write_video(frames: Iterable[NDArray[np.uint8]], mp4: Path, folder: Path, settings: DemoSettings) -> None:
    import av
    from PIL import Image

    with av.open(str(mp4), "w") as container:
        stream = container.add_stream("libx264", rate=settings.fps, options={"crf": "28", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = settings.width, settings.height, "yuv420p"
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"{number:06d}.png", compress_level=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def to_uint8(frame: Floats) -> NDArray[np.uint8]:
    """A frame of 0 to 1 as bytes."""
    return (np.clip(frame, 0, 1) * 255 + 0.5).astype(np.uint8)


def _put_in_place(temporary: Path, root: Path) -> None:
    while True:
        try:
            temporary.rename(root)
            return
        except OSError:
            if (root / JSON_NAME).is_file():  # somebody else was faster: theirs holds the same
                return
            if not root.is_dir():
                raise
        broken = root.with_name(f"{temporary.name}.broken")  # a folder without its JSON: made again
        with contextlib.suppress(FileNotFoundError):  # somebody else moved it first
            root.rename(broken)
        shutil.rmtree(broken, ignore_errors=True)


def _remove_stale(cache: Path) -> None:
    """Remove what dead attempts left; a living one touches its folder after each sample."""
    for folder in cache.glob(".demo-*"):
        try:
            dead = time.time() - folder.stat().st_mtime > STALE_S
        except FileNotFoundError:  # its maker was faster
            continue
        if dead:
            shutil.rmtree(folder, ignore_errors=True)
