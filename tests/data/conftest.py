"""Small recordings made on the spot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

MakeMp4 = Callable[..., Path]


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """ffmpeg's command line, the independent decoder. Where it is absent the test is skipped, or fails if
    FOURSTAGE_REQUIRE names `servers`."""
    path = shutil.which("ffmpeg")
    if path is None:
        reason = "no ffmpeg on PATH; install it"
        if "servers" in os.environ.get("FOURSTAGE_REQUIRE", ""):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture
def make_mp4() -> MakeMp4:
    """Write a clip whose frame i is grey of level 10 i, so that a frame tells its own position."""

    def make(path: Path, frames: int, **options: str) -> Path:
        import av

        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream("libx264", rate=20)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(frames):
                pixels = np.full((48, 64, 3), 10 * i, dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        return path

    return make
