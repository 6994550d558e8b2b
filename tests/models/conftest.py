"""Small pipelines and media, made once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fourstage.stages import Media, Sampling
from tests.settings import EVENTGPT, TINY, VIDEOLLAVA

GREEDY = Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=16)


def media(images: int, seed: int = 0) -> Media:
    rng = np.random.default_rng(seed)
    pictures = tuple(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8) for _ in range(images))
    return Media(pictures, "png", tuple(range(images)), images, 0)


@pytest.fixture(scope="session")
def eventgpt() -> Any:
    from fourstage.models.eventgpt import Model as EventGPT

    return EventGPT.from_weights(EVENTGPT, TINY, "cpu", "fp32", "sdpa")


@pytest.fixture(scope="session")
def videollava() -> Any:
    from fourstage.models.videollava import Model as VideoLlava

    return VideoLlava.from_weights(VIDEOLLAVA, TINY, "cpu", "fp32", "sdpa")


@pytest.fixture(params=["eventgpt", "videollava"])
def pipeline(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)
