"""Frames of a clip: the settings of the models that read a video, and stage 1 for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from fourstage.config.schema import ModelSettings
from fourstage.config.values import Range
from fourstage.lazy import lazy
from fourstage.stages import Media, Sample

if TYPE_CHECKING:
    from fourstage.data import media
else:
    media = lazy("fourstage.data.media")


OF_EVENTS = ("png", "npy")


@dataclass(frozen=True)
class FrameSettings(ModelSettings):
    """Which file of a sample is read, and which of its frames reach the model."""

    # auto: the MP4 where there is one; images: a folder of frames; png, npy: event images, as EventGPT reads them
    source: Literal["auto", "mp4", "images", "png", "npy"] = "auto"
    frames: Annotated[int, Range(1, 64)] = 8
    frame_rule: Literal["linspace", "arange", "head"] = "linspace"
    pictures: ClassVar[str] = "frames"

    def read(self, sample: Sample) -> Media:
        if self.source in OF_EVENTS:
            return media.read_event_images(sample, self.source, self.frames, max_span_us=None)
        return media.read_video_frames(sample, self.source, self.frames, self.frame_rule)

    def files(self, sample: Sample) -> list[Path]:
        if self.source in OF_EVENTS:
            return media.event_files(sample, self.source)
        return media.video_files(sample, self.source, self.frames, self.frame_rule)

    def read_file(self, path: Path, max_bytes: int) -> Media:
        if self.source in OF_EVENTS:
            return media.read_event_file(path, self.frames, None, max_bytes)
        return media.read_video_file(path, self.frames, self.frame_rule, max_bytes)

    @property
    def image_count(self) -> int:
        return self.frames

    @property
    def media_sources(self) -> tuple[str, ...]:
        return ("mp4", "images") if self.source == "auto" else (self.source,)
