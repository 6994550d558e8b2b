"""Settings that tests begin from."""

from __future__ import annotations

from fourstage.config.schema import PretrainedWeights, RandomWeights
from fourstage.models import eventgpt, videollava

EVENTGPT = eventgpt.Settings()
VIDEOLLAVA = videollava.Settings()
TINY = RandomWeights("random", "tiny", 0)


def pretrained(path: object, vision_tower: str | None = None) -> PretrainedWeights:
    return PretrainedWeights("pretrained", str(path), vision_tower)
