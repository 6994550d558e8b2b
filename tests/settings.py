"""Settings that tests begin from."""

from __future__ import annotations

from fourstage.config.schema import DemoWeights, EventGPTSettings, PretrainedWeights, VideoLlavaSettings

EVENTGPT = EventGPTSettings("eventgpt", "auto", 5, 100_000)
VIDEOLLAVA = VideoLlavaSettings("videollava", "auto", 8, "linspace")
DEMO = DemoWeights("demo", 0)


def pretrained(path: object, vision_tower: str | None = None) -> PretrainedWeights:
    return PretrainedWeights("pretrained", str(path), vision_tower)
