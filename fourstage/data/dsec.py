"""DSEC's raw sequences as a dataset that fourstage reads: windows of events, their images, an MP4 of the frames.

A sequence is `events/left/events.h5`, `images/timestamps.txt` (microseconds, one per image) and
`images/left/rectified/*.png`; events and images may lie in two trees (`train_events/`, `train_images/`) under one name
of the sequence. Windows of `duration_s` begin every `step_s` from the first image's time, while the window ends before
the last image; a window without events or without images makes no clip. An image belongs to a window if
start <= its time < end (docs/datasets.md, "Building it from DSEC").

    settings = DsecSettings(root=Path("dsec"), out=Path("dsec-1s"), duration_s=1, step_s=0.5)
    made = prepare(settings)      # made.clips, made.skipped, made.failed; call it again to resume

HDF5 needs h5py and hdf5plugin: `pip install 'fourstage[dsec]'`. Left out: disparity, optical flow, the right camera.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourstage.data.events import Events, render_events
from fourstage.records.units import plural
from fourstage.stages import SampleError, UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

JSON_NAME = "EventGPT_Instruction_Subset.json"
STATE = ".prepare"  # beside the JSON: settings, and one entry for each clip that is whole
SETTINGS = "settings.json"
EVENTS, TIMES, IMAGES = "events/left/events.h5", "images/timestamps.txt", "images/left/rectified"
INSTALL = "pip install 'fourstage[dsec]'"


@dataclass(frozen=True)
class DsecSettings:
    """What is cut, and how. Raises UserError for values that cannot be."""

    root: Path
    out: Path
    duration_s: float = 1.0  # length of a window
    step_s: float | None = None  # between the starts of windows; None: half of `duration_s`
    event_images: int | None = None  # of a clip; None: from `event_images_per_second`
    event_images_per_second: float = 5.0
    question: str = "What are the key elements in this scene?"
    sequences: tuple[str, ...] = ()  # names of sequences; (): all
    limit: int | None = None  # clips of each sequence, from its beginning
    fps: int = 20  # of the MP4; DSEC's camera has 20
    crf: int = 28  # quality of the MP4, 0 (lossless) to 51
    workers: int = 1  # processes

    def __post_init__(self) -> None:
        wrong = {
            "duration": not 0.05 <= self.duration_s <= 600 and f"{self.duration_s:g} s, expected 0.05 to 600",
            "step": self.step_s is not None and not 0.01 <= self.step_s <= 600 and f"{self.step_s:g} s, expected 0.01 "
            "to 600",
            "event_images": self.event_images is not None and not 1 <= self.event_images <= 10_000
            and f"{self.event_images}, expected 1 to 10,000",
            "event_images_per_second": not 0 < self.event_images_per_second <= 1000
            and f"{self.event_images_per_second:g}, expected above 0 up to 1000",
            "limit": self.limit is not None and self.limit < 1 and f"{self.limit}, expected 1 or more",
            "fps": not 1 <= self.fps <= 240 and f"{self.fps}, expected 1 to 240",
            "crf": not 0 <= self.crf <= 51 and f"{self.crf}, expected 0 to 51",
            "workers": not 1 <= self.workers <= 1024 and f"{self.workers}, expected 1 to 1024",
        }  # fmt: skip
        for name, message in wrong.items():
            if message:
                raise UserError(f"{name} is {message}")

    @property
    def images(self) -> int:
        """Event images of a clip."""
        return self.event_images or max(1, round(self.duration_s * self.event_images_per_second))

    @property
    def step_us(self) -> int:
        """Microseconds between the starts of windows."""
        return round((self.duration_s / 2 if self.step_s is None else self.step_s) * 1e6)

    @property
    def content(self) -> dict[str, Any]:
        """What a clip depends on: clips made with another content cannot stand beside these."""
        keys = ("question", "fps", "crf")
        return {"duration_s": self.duration_s, "step_us": self.step_us, "images": self.images} | {
            key: getattr(self, key) for key in keys
        }


@dataclass(frozen=True)
class DsecSequence:
    """One sequence of DSEC: its name, and where its parts are."""

    name: str
    events: Path
    images: Path  # the folder with timestamps.txt and left/rectified/

    def frames(self) -> tuple[NDArray[np.int64], list[Path]]:
        """Times [images] in microseconds, increasing, and the images. Raises SampleError."""
        times = self.images / "timestamps.txt"
        try:
            found = np.array([int(word) for word in times.read_text(encoding="utf-8").split()], dtype=np.int64)
        except (OSError, ValueError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "expected one whole number of microseconds in each line"
            raise SampleError(f"{times} cannot be read: {reason}") from error
        folder = self.images / "left" / "rectified"
        images = sorted(
            (path for path in folder.glob("*.png") if not path.name.startswith(".")),
            key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)],
        )
        if len(images) != len(found) or len(found) < 2:
            raise SampleError(
                f"{self.name}: {len(found)} times in {times}, {len(images)} images in {folder}; expected one time for "
                "each of two images or more"
            )
        if (np.diff(found) <= 0).any():
            raise SampleError(f"{times}: the times do not increase")
        return found, images


@dataclass(frozen=True)
class Window:
    """One clip to be made: microseconds from the camera's zero, and the images within."""

    sequence: DsecSequence
    clip: str  # number of the window in its sequence
    start_us: int
    end_us: int
    images: tuple[Path, ...]

    @property
    def key(self) -> str:
        """`interlaken_00_c/000007`."""
        return f"{self.sequence.name}/{self.clip}"


@dataclass
class Made:
    """What a call made and found."""

    clips: int = 0  # in the JSON, all together
    new: int = 0  # of these, made by this call
    skipped: int = 0  # windows without events or images
    failed: list[str] = field(default_factory=list)  # one line for each window or sequence that could not be read


def prepare(settings: DsecSettings, progress: Callable[[str], None] | None = None) -> Made:
    """Cut the sequences under `root` into clips under `out`; clips that are there already are left as they are.

    A clip is written whole or not at all, so that a call after an interruption goes on where it stopped. `progress`
    gets one line after each sequence. Raises UserError where nothing can begin: no sequences, no h5py, an `out` that
    was made with other settings or cannot be written.
    """
    _import_h5py()
    sequences = find_sequences(settings.root, settings.sequences)
    made = Made()
    try:
        _check_out(settings)
        with _executor(settings.workers) as run:
            for sequence in sequences:
                _prepare_sequence(sequence, settings, run, made, progress or (lambda line: None))
        entries = [json.loads(path.read_text(encoding="utf-8")) for path in _entries(settings.out)]
        made.clips = len(listed := [entry for entry in entries if entry])
        if listed:
            _replace(settings.out / JSON_NAME, json.dumps(listed, indent=1) + "\n")
    except BrokenProcessPool as error:
        raise UserError("a worker process died, perhaps for want of memory: call it again with workers=1") from error
    except OSError as error:
        raise UserError(f"cannot write {error.filename or settings.out}: {error.strerror or error}") from error
    return made


def find_sequences(root: Path, wanted: Sequence[str] = ()) -> list[DsecSequence]:
    """The sequences under `root`, by name; events and images are paired by it. Raises UserError."""
    if not root.is_dir():
        raise UserError(f"root={root} is no folder; give the folder that holds DSEC's sequences")
    events = {path.parents[2].name: path for path in sorted(root.glob(f"**/{EVENTS}"))}
    images = {path.parents[1].name: path.parent for path in sorted(root.glob(f"**/{TIMES}"))}
    if not events:
        raise UserError(f"no sequence under {root}: expected <sequence>/{EVENTS} and <sequence>/{TIMES}")
    if unknown := [name for name in wanted if name not in events]:
        raise UserError(f"no sequence {unknown[0]!r} under {root}; there are {', '.join(list(events)[:10])}")
    names = wanted or tuple(events)
    if lonely := [name for name in names if name not in images]:
        raise UserError(f"sequence {lonely[0]} has no images: expected {root / lonely[0] / TIMES}")
    return [DsecSequence(name, events[name], images[name]) for name in names]


def windows(sequence: DsecSequence, settings: DsecSettings) -> tuple[list[Window], int]:
    """The windows of a sequence that hold images, and how many hold none. Raises SampleError."""
    times, images = sequence.frames()
    length = round(settings.duration_s * 1e6)
    starts = range(int(times[0]), int(times[-1]) - length + 1, settings.step_us)
    found: list[Window] = []
    for number, start in enumerate(starts[: settings.limit]):
        first, stop = np.searchsorted(times, [start, start + length])
        if first < stop:
            part = tuple(images[int(first) : int(stop)])
            found.append(Window(sequence, f"{number:06d}", start, start + length, part))
    return found, len(starts[: settings.limit]) - len(found)


def read_window(path: Path, start_us: int, end_us: int) -> Events:
    """The events with start <= t < end of an events.h5; t is absolute (t + t_offset). Raises SampleError."""
    try:
        file = _opened(path)
        group = file["events"]
        offset = int(file["t_offset"][()]) if "t_offset" in file else 0
        t = group["t"]
        first, stop = _bisect(t, start_us - offset), _bisect(t, end_us - offset)
        part = slice(first, stop)
        absolute = t[part].astype(np.int64) + offset
        return Events(group["x"][part], group["y"][part], absolute, group["p"][part].astype(np.uint8))
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        advice = f"; install its filters: {INSTALL}" if "filter" in reason or "plugin" in reason else ""
        raise SampleError(
            f"{path} cannot be read ({reason}); expected HDF5 with events/x, y, t, p of equal length{advice}"
        ) from error


# ---- one sequence ----

Run = Callable[[Sequence[Window], DsecSettings], Iterator[tuple[Window, str]]]


def _prepare_sequence(
    sequence: DsecSequence, settings: DsecSettings, run: Run, made: Made, progress: Callable[[str], None]
) -> None:
    try:
        found, without_images = windows(sequence, settings)
    except SampleError as error:
        made.failed.append(str(error))
        progress(f"{sequence.name}: {error}")
        return
    entries = {window: _entry_path(settings.out, window) for window in found}
    new = [window for window, path in entries.items() if not path.is_file()]
    failures = [f"{window.key}: {why}" for window, why in run(new, settings) if why]
    empty = sum(path.is_file() and path.read_text(encoding="utf-8") == "null" for path in entries.values())
    made.new += len(new) - len(failures)
    made.skipped += without_images + empty
    made.failed += failures
    whole = len(found) - empty - len(failures)
    progress(f"{sequence.name}: {whole} {plural('clip', whole)} "
             f"({len(new) - len(failures)} of {len(found)} windows new)"
             + (f", {without_images + empty} windows without events or images" if without_images + empty else "")
             + (f", {len(failures)} failed" if failures else ""))  # fmt: skip


@contextmanager
def _executor(workers: int) -> Iterator[Run]:
    """What makes windows: this process, or several fresh ones."""
    if workers == 1:
        yield lambda found, settings: ((window, make_clip(window, settings)) for window in found)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:

        def run(found: Sequence[Window], settings: DsecSettings) -> Iterator[tuple[Window, str]]:
            futures = {pool.submit(make_clip, window, settings): window for window in found}
            for future in as_completed(futures):
                yield futures[future], future.result()

        yield run


def make_clip(window: Window, settings: DsecSettings) -> str:
    """Write one clip, its entry last. Gives why it could not be made; "" where it is there, or has no events."""
    out, name = settings.out, window.key
    temporary = out / STATE / f"making-{os.getpid()}"
    try:
        events = read_window(window.sequence.events, window.start_us, window.end_us)
        if not len(events.x):
            _replace(_entry_path(out, window), "null")
            return ""
        shutil.rmtree(temporary, ignore_errors=True)
        entry = _write_clip(window, events, settings, temporary)
        for part in sorted(path for path in temporary.rglob("*") if path.is_file()):
            target = out / part.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
        _replace(_entry_path(out, window), json.dumps(entry))
    except SampleError as error:
        return str(error).removeprefix(f"{name}: ")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ""


def _write_clip(window: Window, events: Events, settings: DsecSettings, folder: Path) -> dict[str, Any]:
    """The files of a clip under `folder`, laid out as under `out`. Gives its entry of the JSON."""
    from PIL import Image

    name = window.key
    fields = {"x": events.x, "y": events.y, "t": events.t, "p": events.p}
    (npy := folder / "event_npy" / f"{name}.npy").parent.mkdir(parents=True)
    np.save(npy, np.array(fields, dtype=object), allow_pickle=True)
    names = [f"{name}_{i}.png" for i in range(settings.images)]
    (folder / "event_image" / name).parent.mkdir(parents=True)
    for image_name, image in zip(names, render_events(events, settings.images, max_span_us=None), strict=True):
        Image.fromarray(image).save(folder / "event_image" / image_name)
    (video := folder / "video" / name).mkdir(parents=True)
    for number, image_path in enumerate(window.images):
        _link(image_path, video / f"{number:06d}.png")
    (mp4 := folder / "mp4" / f"{name}.mp4").parent.mkdir(parents=True)
    _write_mp4(window.images, mp4, settings)
    return {
        "id": name, "split": "dsec", "event_data": f"{name}.npy", "event_image": names, "video_data": name,
        "mp4_data": f"{name}.mp4", "start_us": window.start_us, "duration_s": settings.duration_s,
        "conversations": [
            {"from": "human", "value": f"<event>\n{settings.question}"},
            {"from": "gpt", "value": ""},
        ],
    }  # fmt: skip


def _write_mp4(images: Sequence[Path], mp4: Path, settings: DsecSettings) -> None:
    import av
    from PIL import Image

    with av.open(str(mp4), "w") as container:
        # one thread: the same bytes from any number of processors
        options = {"crf": str(settings.crf), "preset": "veryfast", "threads": "1"}
        stream = container.add_stream("libx264", rate=settings.fps, options=options)
        stream.pix_fmt = "yuv420p"
        size: tuple[int, int] | None = None
        for path in images:
            try:
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("RGB"))
            except (OSError, ValueError, SyntaxError) as error:
                raise SampleError(f"{path} cannot be read ({error}); copy it again") from error
            height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2  # H.264 in yuv420p has even sides
            if size is None:
                stream.width, stream.height = size = width, height
            elif size != (width, height):
                raise SampleError(f"{path} is {width}x{height}, the images before {size[0]}x{size[1]}")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _link(source: Path, target: Path) -> None:
    """A hard link where the file system can, since windows overlap; else a copy."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


# ---- state ----


def _check_out(settings: DsecSettings) -> None:
    """Make `out`, or refuse one whose clips were made in another way."""
    state = settings.out / STATE / SETTINGS
    if state.is_file():
        before = json.loads(state.read_text(encoding="utf-8"))
        if differing := [key for key, value in settings.content.items() if before.get(key) != value]:
            key = differing[0]
            raise UserError(
                f"{settings.out} was made with {key}={before.get(key)}, now it is {settings.content[key]}; give "
                "another out=, or delete the folder"
            )
        return
    if settings.out.is_dir() and any(settings.out.iterdir()):
        raise UserError(f"out={settings.out} has other files in it; give a new folder")
    _replace(state, json.dumps(settings.content))


def _entry_path(out: Path, window: Window) -> Path:
    return out / STATE / window.sequence.name / f"{window.clip}.json"


def _entries(out: Path) -> list[Path]:
    return sorted((out / STATE).glob("*/*.json"))


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


# ---- HDF5 ----


def _import_h5py() -> Any:
    try:
        import h5py
        import hdf5plugin  # noqa: F401  # registers DSEC's blosc filter
    except ImportError as error:
        raise UserError(f"DSEC's events are HDF5, which needs h5py and hdf5plugin: {INSTALL}") from error
    return h5py


@lru_cache(maxsize=1)
def _opened(path: Path) -> Any:
    """The open file of the sequence that is being cut."""
    return _import_h5py().File(path, "r")


def _bisect(t: Any, value: int) -> int:
    """The first index whose time is not below `value`, by reading some thirty times of an increasing dataset."""
    low, high = 0, len(t)
    while low < high:
        middle = (low + high) // 2
        if int(t[middle]) < value:
            low = middle + 1
        else:
            high = middle
    return low
