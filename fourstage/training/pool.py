"""Training scenes, drawn once and stored as small pictures: what the models' preprocessing makes of a sample, as uint8.

write_chunk(folder, Chunk("train", seed=0, start=0, count=32))
scenes = read_chunk(folder / "train-000000.npz")
scenes.video                             # [32, 8, SIDE, SIDE, 3] uint8, RGB
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourstage.data.events import render_events
from fourstage.data.formats.demo import DemoSettings, scene_events, to_uint8
from fourstage.data.formats.scenes import Renderer, draw_scene

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 128  # pixels of the towers' images
FRAMES = 8  # of the video, as Video-LLaVA takes them
IMAGES = 5  # of the events, as EventGPT takes them
OTHER_IMAGES = (1, 2, 3, 4, 8, 10)  # each chunk has one of these numbers of event images too


@dataclass(frozen=True)
class Chunk:
    """Which scenes are drawn."""

    split: str
    seed: int
    start: int
    count: int

    @property
    def name(self) -> str:
        """The chunk's file."""
        return f"{self.split}-{self.start:06d}.npz"


@dataclass(frozen=True)
class Scenes:
    """Drawn scenes; pictures are [scenes, images, SIDE, SIDE, 3] uint8."""

    video: NDArray[np.uint8]
    events: NDArray[np.uint8]
    other_events: NDArray[np.uint8]  # the same events in another number of images
    attributes: list[dict[str, Any]]


def write_chunk(folder: Path, chunk: Chunk) -> Path:
    """Draw a chunk's scenes into `folder`, unless they are there. Another process never sees half a file."""
    path = folder / chunk.name
    if path.is_file():
        return path
    other = OTHER_IMAGES[chunk.start // chunk.count % len(OTHER_IMAGES)]
    parts: dict[str, list[Any]] = {"video": [], "events": [], "other_events": []}
    attributes = []
    for index in range(chunk.start, chunk.start + chunk.count):
        for name, images in _pictures(chunk, index, other).items():
            parts[name].append(images)
        attributes.append(draw_scene(chunk.seed, index, chunk.split).attributes)
    arrays: dict[str, Any] = {name: np.stack(images) for name, images in parts.items()}
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        np.savez(file, attributes=np.array(json.dumps(attributes)), **arrays)
    temporary.rename(path)
    return path


def read_chunk(path: Path) -> Scenes:
    """What `write_chunk` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return Scenes(file["video"], file["events"], file["other_events"], json.loads(str(file["attributes"])))


def _pictures(chunk: Chunk, index: int, other: int) -> dict[str, NDArray[np.uint8]]:
    """One scene as both cameras see it."""
    settings = DemoSettings(seed=chunk.seed, split=chunk.split)
    scene = draw_scene(chunk.seed, index, chunk.split)
    renderer = Renderer(scene, settings.width, settings.height)
    rng = np.random.default_rng([*scene.seed, 0, 4])
    quality = int(rng.integers(40, 95))
    times = np.linspace(0, settings.frames - 1, FRAMES).astype(int) / settings.fps
    events = scene_events(scene, settings)
    return {
        "video": np.stack([small(_compressed(to_uint8(renderer.frame(float(t))), quality)) for t in times]),
        "events": np.stack([small(image) for image in render_events(events, images=IMAGES)]),
        "other_events": np.stack([small(image) for image in render_events(events, images=other)]),
    }


def small(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image as CLIP's preprocessing makes it of [height, width, 3]: its middle, SIDE pixels high and wide."""
    from PIL import Image

    height, width = image.shape[:2]
    scale = SIDE / min(height, width)
    size = (SIDE, int(height * scale)) if width <= height else (int(width * scale), SIDE)
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    return np.asarray(picture.crop((left, top, left + SIDE, top + SIDE)))


def _compressed(frame: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """A frame with the losses of a compressed video, about."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))
