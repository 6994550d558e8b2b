"""What does reading healthy files with all checks cost, against reading them without any?

    python benchmarks/reading.py            # a minute on two cores; ROUNDS=30

Clips against PyAV decoding every frame and converting the chosen ones, folders of PNGs against Pillow, event files
against numpy with pickle: the same process, alternating, the same results. Prints the ratio of the medians with the
middle half of the rounds' ratios, of wall time and of processor time.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from fourstage.data.events import read_events
from fourstage.data.formats.demo import DemoSettings, make_demo
from fourstage.data.images import list_images, read_images
from fourstage.data.video import frame_indices, read_video

ROUNDS = int(os.environ.get("ROUNDS", "30"))
FRAMES = 8
Reader = Callable[[Path], Any]


def plain_clip(path: Path) -> list[Any]:
    """The frames of `linspace`, without knowing that the file is whole."""
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.video[0]))
        return [frames[i].to_ndarray(format="rgb24") for i in frame_indices(len(frames), FRAMES, "linspace")]


def plain_folder(folder: Path) -> list[Any]:
    return [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))[:FRAMES]]


def plain_events(path: Path) -> Any:
    fields = np.load(path, allow_pickle=True).item()  # made here: a pickle of others may run anything
    return [fields[name] for name in "xytp"]


def checked_clip(path: Path) -> Any:
    return read_video(path, FRAMES, "linspace").images


def checked_folder(folder: Path) -> Any:
    return read_images(list_images(folder)[:FRAMES])[0]


def checked_events(path: Path) -> Any:
    events = read_events(path)
    return [events.x, events.y, events.t, events.p]


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        for kind, (path, plain, checked) in cases(Path(place)).items():
            for one, other in zip(plain(path), checked(path), strict=True):
                np.testing.assert_array_equal(one, other)
            print(side_by_side(kind, path, plain, checked), flush=True)
    return 0


def cases(place: Path) -> dict[str, tuple[Path, Reader, Reader]]:
    """What is read: files of the demo dataset, and a longer clip."""
    root = make_demo(place, DemoSettings(samples=1, seconds=1.0, width=320, height=240))
    large = make_demo(place, DemoSettings(samples=1, seconds=20.0, width=640, height=480))
    (clip,), (long,) = root.glob("mp4/**/*.mp4"), large.glob("mp4/**/*.mp4")
    (folder,) = {path.parent for path in root.glob("video/**/*.png")}
    (events,), (many,) = root.glob("event_npy/**/*.npy"), large.glob("event_npy/**/*.npy")
    return {
        "clip 320x240, 20 frames": (clip, plain_clip, checked_clip),
        "clip 640x480, 400 frames": (long, plain_clip, checked_clip),
        "8 PNGs 320x240": (folder, plain_folder, checked_folder),
        f"events, {events.stat().st_size / 1e6:.1f} MB": (events, plain_events, checked_events),
        f"events, {many.stat().st_size / 1e6:.1f} MB": (many, plain_events, checked_events),
    }


def side_by_side(kind: str, path: Path, plain: Reader, checked: Reader) -> str:
    """One line: milliseconds of each, and the ratios."""
    wall: dict[Reader, list[float]] = {plain: [], checked: []}
    processor: dict[Reader, list[float]] = {plain: [], checked: []}
    for number in range(ROUNDS):
        for read in (plain, checked) if number % 2 else (checked, plain):
            begun = time.perf_counter(), time.process_time()
            read(path)
            wall[read].append(time.perf_counter() - begun[0])
            processor[read].append(time.process_time() - begun[1])
    line = f"{kind:<26} plain {1e3 * statistics.median(wall[plain]):8.2f} ms, checked "
    line += f"{1e3 * statistics.median(wall[checked]):8.2f} ms"
    for name, taken in (("wall", wall), ("processor", processor)):
        ratio = statistics.median(taken[checked]) / statistics.median(taken[plain])
        each = [one / other for one, other in zip(taken[checked], taken[plain], strict=True)]
        low, _, high = statistics.quantiles(each, n=4)
        least = min(taken[checked]) / min(taken[plain])
        line += f"; {name} {ratio:.2f} [{low:.2f}, {high:.2f}], of the least {least:.2f}"
    return f"{line}  n={ROUNDS}"


if __name__ == "__main__":
    raise SystemExit(main())
