"""Settings that tests begin from."""

from __future__ import annotations

from fourstage.config import EventGPTSettings, VideoLlavaSettings, WeightsSettings

EVENTGPT = EventGPTSettings("eventgpt", "auto", 5, 100_000)
VIDEOLLAVA = VideoLlavaSettings("videollava", "auto", 8, "linspace")
DEMO = WeightsSettings("demo", "tiny", 0, None, None)


def pretrained(path: object, vision_tower: str | None = None) -> WeightsSettings:
    return WeightsSettings("pretrained", "7b", 0, str(path), vision_tower)
